"""Hand-written kernels behind core/dispatch.py: Numba's in cpu/, Triton's in gpu/; core/table.py names each."""

"""Hand-written kernels behind core/dispatch.py: cpu/ for Numba, gpu/ for Triton, the same file names where both have one."""

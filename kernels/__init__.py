"""Hand-written kernels behind core/dispatch.py: cpu/ for Numba, gpu/ for Triton, under the same file names."""

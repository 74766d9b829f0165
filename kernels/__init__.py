"""Hand-written kernels behind core/dispatch.py: cpu/ for Numba, gpu/ for Triton, the same file names in both.

None is written yet, so every operation runs its reference; `python -m kernels explain` says so row by row.
"""

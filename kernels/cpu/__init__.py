"""Kernels for a CPU: loops over a piece of the work, compiled by Numba, their products in vector registers."""

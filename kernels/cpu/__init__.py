"""Kernels for a CPU: plain loops compiled by Numba, the clearest statement of what their Triton twins do."""

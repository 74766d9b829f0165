"""Modules that stand in for CuPy and NCCL, so that a machine without a GPU walks the GPU's path."""

"""Triton kernels, one file a family, which gives Ops with the contract of core/engine.py, or what several
families share. Imported only when one runs."""

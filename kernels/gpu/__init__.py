"""Triton kernels, one file a family; each ends in Ops with the contract of core/op.py. Imported only when one runs."""

"""The specification: every operation in plain array code, right in float64.

One file per family; core/table.py names the kernels of each. Here `x`, `dy` and the like are arrays,
never Tensors; `xp` is the module (numpy or cupy) they belong to.
"""

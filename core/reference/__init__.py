"""The specification: every operation in plain array code, right in float64.

One file per family, named like its kernels in kernels/cpu and kernels/gpu. Here `x`, `dy` and the like are arrays,
never Tensors; `xp` is the module (numpy or cupy) they belong to.
"""

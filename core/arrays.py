"""Arrays: which library holds them, which dtype a result gets, how a sum is taken.

Everything above works on NumPy and CuPy arrays alike. `xp` in this project is always the module an array came from
(`numpy` or `cupy`), found by `array_module`; CuPy is imported only where an array or a device asks for it.

# next: core/reference/conv.py, the first operation worth an evening
"""

from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray
INTEGERS = (int, np.integer)
NUMBERS = (int, float, np.integer, np.floating)


def is_cupy(x) -> bool:
    return type(x).__module__.partition(".")[0] == "cupy"


def array_module(*arrays):
    """The module (`numpy` or `cupy`) that the arrays belong to; None and host values are passed over."""
    if any(is_cupy(x) for x in arrays):
        import cupy

        return cupy
    return np


def module_for(device: str):
    """The module whose arrays live on `device`: "cpu", "cuda" or "cuda:0"."""
    if device == "cpu":
        return np
    if device not in ("cuda", "cuda:0"):
        raise ValueError(f"device is {device!r}, should be 'cpu' or 'cuda'")
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except ImportError:
        raise RuntimeError("device 'cuda' needs CuPy (pip install cupy-cuda13x), which is not installed") from None
    except Exception as error:  # CuPy's own CUDARuntimeError, whose class exists only once CuPy is imported
        raise RuntimeError(f"device 'cuda' needs an NVIDIA GPU with a working driver: {error}") from None
    return cupy


def device_of(x: Array) -> str:
    return f"cuda:{x.device.id}" if is_cupy(x) else "cpu"


def share_memory(x: Array, y: Array) -> bool:
    """Whether writing to one may change the other (decided by the memory they span)."""
    return x is y or array_module(x, y).may_share_memory(x, y)


def is_repeated(x: Array) -> bool:
    """Whether elements of `x` may share one number in memory, as after broadcast_to: writing there is refused."""
    return not getattr(x.flags, "writeable", True) or any(s == 0 and n > 1 for s, n in zip(x.strides, x.shape))


def as_array(x, what: str = "Tensor: array") -> Array:
    """`x` as an array; Python floats, and lists of them, become float32, as in torch.

    Raises TypeError, which calls it `what`, where it is none: no subclass (a matrix multiplies otherwise) comes out.
    """
    if not (type(x) is np.ndarray or is_cupy(x)):
        x = _read(x, what)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{what} is of dtype {x.dtype}, should be of a real number type")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _read(x, what):
    """What is no array yet, by NumPy's rules."""
    try:
        value = np.asarray(x)
        with np.errstate(over="ignore"):
            return value.astype(np.float32) if value.dtype == np.float64 and not hasattr(x, "dtype") else value
    except Exception as error:  # whatever a class's own __array__ raises
        raise TypeError(f"{what} is a {type(x).__name__}, should be an array ({one_line(error)})") from None


def one_line(error) -> str:
    return " ".join(str(error).split())


def number_beside(x, others) -> Array:
    """A Python number as a 0-dimensional array that does not widen the arrays it meets.

    It takes the dtype in which floating `others` are computed; beside integers an integer takes theirs if it fits.
    """
    others = [a for a in others if a is not None]
    dtype = result_dtype(*others)
    if dtype is not None:
        dtype = compute_dtype(dtype) if any(a.ndim for a in others) else dtype
    elif isinstance(x, int | np.integer):
        kinds = [a.dtype for a in others if a.dtype.kind in "iu"]
        dtype = np.result_type(*kinds) if kinds else np.dtype(np.int64)
        limits = np.iinfo(dtype)
        dtype = dtype if limits.min <= x <= limits.max else np.dtype(np.int64)
    else:
        dtype = np.dtype(np.float32)
    with np.errstate(over="ignore"):
        return array_module(*others).full((), x, dtype)  # made on the device: a captured step copies nothing to it


# --- dtypes ----------------------------------------


def is_float(x: Array) -> bool:
    return x.dtype.kind == "f"


def result_dtype(*arrays):
    """The widest floating dtype among the arrays of one or more dimensions; None where there is no float at all.

    0-dimensional values count only when no array has dimensions and a float dtype, so a stray float64 scalar cannot
    double a model's memory.
    """
    floats = [x for x in arrays if x is not None and is_float(x)]
    widest = [x.dtype for x in floats if x.ndim] or [x.dtype for x in floats]
    return np.result_type(*widest) if widest else None


def compute_dtype(dtype):
    """float16 is a storage type: arithmetic on it is done in float32."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


# --- sums ----------------------------------------

LONG_SUM = 1000  # terms above which float32 is summed in float64


def total(x: Array, axis=None, keepdims: bool = False) -> Array:
    """Sum of `x` over `axis`, in the dtype of `x`.

    NumPy adds along leading axes row by row, which loses a digit or two in float32 that a blocked sum (torch's) keeps.
    Such sums, and any over more than LONG_SUM terms, are accumulated in float64 on the CPU. CuPy reduces in a tree.
    """
    if axis is None:
        axes = tuple(range(x.ndim))
    else:
        axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
    terms = 1
    for a in axes:
        terms *= x.shape[a]
    leading = bool(axes) and axes != (x.ndim - 1,) and terms > 8
    wide = x.dtype == np.float32 and not is_cupy(x) and (leading or terms > LONG_SUM)
    y = x.sum(axis=axes, keepdims=keepdims, dtype=np.float64 if wide else x.dtype)
    return np.asarray(y, x.dtype) if wide else y


def unbroadcast(dy: Array, shape: tuple) -> Array:
    """The adjoint of broadcasting: sum `dy` over the axes along which an array of `shape` was repeated."""
    if dy.shape == shape:
        return dy
    extra = dy.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and dy.shape[i + extra] != 1)
    return total(dy, axes, keepdims=True).reshape(shape)

"""The arrays of the stand-in for CuPy (tests/stand_in.py), and its module: NumPy's functions on them, and no more than
CuPy takes. What writes into arrays goes by `gpu`, which notes it while a graph is captured."""

from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    """What one stand-in knows."""

    def __init__(self):
        self.reads: list = []  # how values went to the host
        self.calls: list = []  # begin, end and launch of graphs, and what uploads do, in order
        self.tape: list | None = None  # what the capture that is running has noted
        self.fault = ""  # why it is broken
        self.lenient = False
        self.private = False  # whether a pool of its own allocates
        self.streams: list = []  # the current one last

    def read(self, how):
        self.reads.append(how)
        self.refuse(f"{how} reads from the device")

    def refuse(self, why, unless=False):
        """Break the capture that is running in the current stream, if one is."""
        if self.tape is not None and self.streams[-1].capturing and not unless:
            self.fault = f"operation not permitted when stream is capturing: {why}"
            raise CUDARuntimeError(self.fault)

    def write(self, act):
        """What changes arrays that exist: in a capture not now."""
        if self.tape is None:
            act()
        else:
            self.tape.append(act)

    def make(self, f, *given):
        """f() as an array: if it is no view of what was given, its memory is filled again at each replay."""
        y = f()
        if isinstance(y, tuple | list):
            return type(y)(self.make(lambda part=part: part, *given, part) for part in y)
        y = np.asarray(y)
        if self.tape is not None and not any(np.may_share_memory(y, a) for a in given):
            self.tape.append(lambda: np.copyto(y, f()))
        return ndarray(y)


gpu = Device()

# --- arrays ----------------------------------------


def bare(x):
    """NumPy's array behind one of ours; a NumPy array among arguments is refused, as CuPy does."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, tuple | list):
        return type(x)(map(bare, x))
    return {k: bare(v) for k, v in x.items()} if isinstance(x, dict) else x


def behind(x):
    """All NumPy arrays in arguments that `bare` has seen."""
    if isinstance(x, np.ndarray):
        return [x]
    return [a for part in x for a in behind(part)] if isinstance(x, tuple | list) else []


def _reader(how):
    def read(self, *arguments):
        gpu.read(how)
        return self.host.copy() if how == "get" else getattr(self.host, how)(*arguments)

    return read


def _method(name):
    def method(self, *arguments, **options):
        arguments, options = bare(arguments), bare(options)
        return gpu.make(lambda: getattr(self.host, name)(*arguments, **options), self.host)

    return method


class ndarray(NDArrayOperatorsMixin):
    """An array on the device."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host):
        self.host = host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    strides = property(lambda self: self.host.strides)
    T = property(lambda self: ndarray(self.host.T))
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))
    device = property(lambda self: SimpleNamespace(id=0))
    flags = property(lambda self: SimpleNamespace(c_contiguous=self.host.flags.c_contiguous))

    for _name in (
        "sum",
        "mean",
        "max",
        "min",
        "all",
        "any",
        "astype",
        "copy",
        "reshape",
        "transpose",
        "swapaxes",
        "view",
    ):
        locals()[_name] = _method(_name)
    for _name in ("get", "item", "tolist", "__int__", "__float__", "__bool__", "__index__"):
        locals()[_name] = _reader(_name)

    def __len__(self):
        return len(self.host)

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function, *rest):
        raise TypeError(f"np.{function.__name__} was called with an array of the device")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            gpu.refuse("cuBLAS", unless=gpu.lenient)
        inputs = bare(inputs)
        run = getattr(ufunc, method)
        if method == "at":
            return gpu.write(lambda: run(*inputs, **options))
        if out is None:
            return gpu.make(lambda: run(*inputs, **options))
        (target,) = out
        gpu.write(lambda: run(*inputs, out=bare(target), **options))
        return target

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, list) for part in parts):
            gpu.refuse("a list as an index is copied from the host", unless=gpu.lenient)
        index = bare(index)
        return gpu.make(lambda: self.host[index], self.host)

    def __setitem__(self, index, value):
        index, value = bare(index), bare(value)
        gpu.write(lambda: self.host.__setitem__(index, value))

    def set(self, host, stream=None):
        """From pinned memory, in a stream; the memory is busy until an event after it was waited for."""
        assert (host.shape, host.dtype) == (self.shape, self.dtype) and isinstance(host, Pinned)
        gpu.calls.append("copy")
        host.busy = stream.busy = True
        stream.sources.append(host)
        self.host[...] = host


ndarray.__module__ = "cupy"


class Pinned(np.ndarray):
    busy = False

    def __setitem__(self, index, value):
        assert not self.busy, "pinned memory was written while it was still being copied"
        gpu.calls.append("pinned")
        super().__setitem__(index, value)


# --- the module ----------------------------------------


OF_VALUES = ("unique", "nonzero", "flatnonzero", "argwhere", "repeat")  # their results' shapes depend on values


def _function(name):
    function = getattr(np, name)

    def call(*arguments, **options):
        if name in OF_VALUES:
            gpu.read(name)
        arguments, options = bare(arguments), bare(options)
        return gpu.make(lambda: function(*arguments, **options), *behind(arguments))

    return call


def _array(copies):
    def array(x, dtype=None):
        if isinstance(x, ndarray):
            return x if not copies and dtype in (None, x.dtype) else x.astype(dtype or x.dtype)
        gpu.refuse("a value is copied from the host", unless=gpu.lenient and not isinstance(x, np.ndarray))
        return ndarray(np.array(x, dtype))

    return array


def _ascontiguousarray(x, dtype=None):
    if x.host.flags.c_contiguous and dtype in (None, x.dtype):
        return x
    return gpu.make(lambda: np.ascontiguousarray(x.host, dtype))


def _copyto(target, x):
    gpu.calls.append("copyto")
    gpu.write(lambda: np.copyto(bare(target), bare(x)))


class Module(ModuleType):
    """CuPy's names: NumPy's functions on arrays of the device; its types, constants and ufuncs as they are."""

    ndarray, asarray, array, copyto = (
        ndarray,
        staticmethod(_array(False)),
        staticmethod(_array(True)),
        staticmethod(_copyto),
    )
    ascontiguousarray = staticmethod(_ascontiguousarray)
    empty = staticmethod(lambda shape, dtype: ndarray(np.empty(shape, dtype)))
    empty_like = staticmethod(lambda x, dtype=None: ndarray(np.empty(x.shape, dtype or x.dtype)))
    may_share_memory = staticmethod(lambda x, y: np.may_share_memory(x.host, y.host))

    def __getattr__(self, name):
        found = getattr(np, name)
        plain = isinstance(found, type | np.ufunc | float) or name.startswith("__")
        return found if plain else _function(name)

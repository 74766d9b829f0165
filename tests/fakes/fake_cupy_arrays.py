"""The arrays of the stand-in for CuPy (tests/fakes/fake_cupy.py), and its module: NumPy's functions on them, and no
more than CuPy takes. What writes into arrays goes by `gpu`, which notes it while a graph is captured."""

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

# --- what CuPy lacks ----------------------------------------

# Read in CuPy's source at v14.2.0: the names that its cupy/__init__.py does not have, of NumPy's; which methods a ufunc
# has (docs/source/reference/ufunc.rst), and what it, an array's methods and functions can be told
# (cupy/_core/_kernel.pyx, ufunc.__call__; cupy/_core/core.pyx).
ABSENT = {
    *("asmatrix", "block", "bmat", "einsum_path", "frompyfunc", "geomspace", "histogram_bin_edges", "insert", "isnat"),
    *("matvec", "nanpercentile", "nanquantile", "nested_iters", "polyder", "polydiv", "polyint", "spacing", "unstack"),
    *("vecdot", "vecmat", "errstate", "seterr", "geterr"),
}
UFUNC_METHODS = {
    "__call__": None,  # all of them
    "outer": None,
    "reduce": ("add", "multiply"),
    "accumulate": ("add", "multiply"),
    # there is add.reduceat, by differences of a running sum (cupy/_core/_routines_indexing.pyx): a nan would spread
    "reduceat": (),
    "at": ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"),
}
UFUNC_OPTIONS = {"out", "dtype", "casting"}
NO_OPTIONS = {"where", "initial", "like", "subok", "order"}  # of reductions, conversions and copies as we call them


def check_options(name, options):
    unknown = NO_OPTIONS & options.keys()
    if unknown or options.get("kind", "stable") != "stable":
        raise TypeError(f"CuPy's {name} does not take {', '.join(f'{k}={v!r}' for k, v in options.items())}")


def check_ufunc(ufunc, method, options):
    of = UFUNC_METHODS[method]
    if of is not None and ufunc.__name__ not in of:
        raise NotImplementedError(f"`{ufunc.__name__}.{method}` is not supported yet")
    if method == "__call__" and options.keys() - UFUNC_OPTIONS:
        raise TypeError(f"Wrong arguments {options}")


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


def at_host(index):
    """An index as NumPy has it: CuPy copies arrays and lists in it from the host."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, list | np.ndarray) for part in parts):
        gpu.refuse("an index is copied from the host", unless=gpu.lenient)
    found = tuple(part if isinstance(part, np.ndarray) else bare(part) for part in parts)
    return found if isinstance(index, tuple) else found[0]


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
        check_options(name, options)
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
        check_ufunc(ufunc, method, options)
        if ufunc is np.matmul:
            gpu.refuse("cuBLAS", unless=gpu.lenient)
        run = getattr(ufunc, method)
        if method == "at":
            target, index, value = bare(inputs[0]), at_host(inputs[1]), bare(inputs[2])
            return gpu.write(lambda: run(target, index, value))
        inputs = bare(inputs)
        if out is None:
            return gpu.make(lambda: run(*inputs, **options))
        (target,) = out
        gpu.write(lambda: run(*inputs, out=bare(target), **options))
        return target

    def __getitem__(self, index):
        index = at_host(index)
        return gpu.make(lambda: self.host[index], self.host)

    def __setitem__(self, index, value):
        index, value = at_host(index), bare(value)
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
        check_options(name, options)
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
        if name in ABSENT:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        plain = isinstance(found, type | np.ufunc | float) or name.startswith("__")
        return found if plain else _function(name)

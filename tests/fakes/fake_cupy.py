"""A CuPy of NumPy arrays: what a training step asks of a GPU, rehearsed without one.

`with fake_cupy.cupy() as gpu:` puts a module `cupy` in its place whose arrays are refused wherever CuPy's are: a NumPy
function, a NumPy array beside one, a NumPy array written into one, a name, a method or an option that CuPy lacks.
Values go to the host by get, item, tolist, int, float and bool alone, and each is noted in `gpu.reads`.

A capture carries out nothing. It notes what writes into arrays, and a graph's launch does exactly that again, with the
numbers and the memory of then: what a step keeps in Python would stand still, as it would on a device. While one is
running a host read or a copy from the host breaks it, and so does a product, unless `gpu.lenient` (for the reference's
operations, which no graph holds on a device). Time is not rehearsed, but for this: what is copied by a stream leaves
pinned memory only when an event after it has been waited for, and writing there before is an error.
"""

import contextlib
import gc
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import erf

from core.dispatch import use
from tests.fakes.fake_cupy_arrays import CUDARuntimeError, Module, Pinned, gpu, ndarray


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking, self.capturing, self.busy = non_blocking, False, False
        self.sources: list = []  # pinned memory that it copies from

    def __enter__(self):
        gpu.streams.append(self)
        return self

    def __exit__(self, *error):
        gpu.streams.pop()

    ptr = property(lambda self: self)

    def record(self, event):
        event.sources, event.recorded, event.captured = list(self.sources), True, gpu.tape is not None
        return event

    def wait_event(self, event):
        assert not self.capturing or event.captured, "a capture waits for an event outside"
        assert event.recorded, "an event that was never recorded orders nothing"
        gpu.calls.append("wait")

    def synchronize(self):
        assert not self.capturing, "a capture waits for the device"
        _free(self.sources)

    def begin_capture(self):
        assert self.non_blocking and gpu.streams[-1] is self and gpu.private and not gc.isenabled()
        gpu.calls.append("begin")
        gpu.tape, gpu.fault, self.capturing = [], "", True

    def end_capture(self):
        gpu.calls.append("end")
        tape, gpu.tape, self.capturing = gpu.tape, None, False
        if gpu.fault:
            raise CUDARuntimeError("operation failed due to a previous error during capture")
        return Graph(tape)


class Event:
    def __init__(self, disable_timing=False):
        self.sources: list = []
        self.captured = False
        self.recorded = False

    def synchronize(self):
        gpu.calls.append("synchronize")
        _free(self.sources)


def _free(sources):
    for pinned in sources:
        pinned.busy = False


class Graph:
    def __init__(self, tape):
        self.tape = tape

    def launch(self, stream):
        assert gpu.streams[-1] is stream
        gpu.calls.append("launch")
        for act in self.tape:
            act()


@contextlib.contextmanager
def _using_allocator(allocator):
    before, gpu.private = gpu.private, allocator is not None
    try:
        yield
    finally:
        gpu.private = before


def _modules():
    module: Any = Module("cupy")
    extra: Any = ModuleType("cupyx")
    extra.__path__ = []  # a package
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0, CUDARuntimeError=CUDARuntimeError)
    runtime.getDeviceProperties = lambda device: {"name": b"stand-in"}
    pool = lambda: SimpleNamespace(malloc=lambda size: None)
    streams = {"Stream": Stream, "Event": Event, "get_current_stream": lambda: gpu.streams[-1]}
    streams["Device"] = lambda number: SimpleNamespace(use=lambda: None)
    module.cuda = SimpleNamespace(runtime=runtime, MemoryPool=pool, using_allocator=_using_allocator, **streams)
    module.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))
    extra.empty_pinned = lambda shape, dtype: np.empty(shape, dtype).view(Pinned)
    special: Any = ModuleType("cupyx.scipy.special")
    special.erf = lambda x: gpu.make(lambda: erf(x.host), x.host)
    return {"cupy": module, "cupyx": extra, "cupyx.scipy": ModuleType("cupyx.scipy"), "cupyx.scipy.special": special}


def _as_strided(x, shape, strides):
    return ndarray(np.lib.stride_tricks.as_strided(x.host, shape, strides))


@contextlib.contextmanager
def cupy():
    """`with cupy() as gpu:` device "cuda" is this file."""
    modules = _modules()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    gpu.__init__()  # type: ignore[misc]
    gpu.streams.append(Stream())
    try:
        with np.errstate(all="ignore"):  # a device does not warn
            yield gpu
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextlib.contextmanager
def without_a_gpu():
    """`with without_a_gpu() as gpu:` trainers on "cuda" train, by the reference, whose products count as kernels."""
    with cupy(), use("reference"):
        gpu.lenient = True
        yield gpu

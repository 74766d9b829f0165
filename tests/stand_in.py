"""A CuPy of NumPy arrays: what a training step asks of a GPU, rehearsed without one.

`with stand_in.cupy() as gpu:` puts a module `cupy` in its place whose arrays are refused wherever CuPy's are: a NumPy
function, a NumPy array beside one, a NumPy array written into one. Values go to the host by get, item, tolist, int,
float and bool alone, and each is noted in `gpu.reads`.

A capture carries out nothing. It notes what writes into arrays, and a graph's launch does exactly that again, with the
numbers and the memory of then: what a step keeps in Python would stand still, as it would on a device. While one is
running a host read or a copy from the host breaks it, and so does a product, unless `gpu.lenient` (for the reference's
operations, which no graph holds on a device). Time is not rehearsed, but for this: what is copied by a stream leaves
pinned memory only when an event after it has been waited for, and writing there before is an error.
"""

import contextlib
import dataclasses
import gc
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from core.dispatch import use
from core.op import Op
from core.reference.shape import embedding
from core.table import TABLE
from tests.stand_in_arrays import CUDARuntimeError, Module, Pinned, gpu, ndarray


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
    module, extra = Module("cupy"), ModuleType("cupyx")
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0, CUDARuntimeError=CUDARuntimeError)
    runtime.getDeviceProperties = lambda device: {"name": b"stand-in"}
    pool = lambda: SimpleNamespace(malloc=lambda size: None)
    streams = {"Stream": Stream, "Event": Event, "get_current_stream": lambda: gpu.streams[-1]}
    streams["Device"] = lambda number: SimpleNamespace(use=lambda: None)
    module.cuda = SimpleNamespace(runtime=runtime, MemoryPool=pool, using_allocator=_using_allocator, **streams)
    module.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))
    extra.empty_pinned = lambda shape, dtype: np.empty(shape, dtype).view(Pinned)  # type: ignore[attr-defined]
    return {"cupy": module, "cupyx": extra}


def _as_strided(x, shape, strides):
    return ndarray(np.lib.stride_tricks.as_strided(x.host, shape, strides))


@contextlib.contextmanager
def cupy():
    """`with cupy() as gpu:` device "cuda" is this file."""
    before = {name: sys.modules.get(name) for name in ("cupy", "cupyx")}
    sys.modules.update(_modules())
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
    row = TABLE["embedding"]
    try:
        with cupy(), use("reference"):
            TABLE["embedding"] = dataclasses.replace(row, reference=Op("embedding", embedding.forward, _scattered))
            gpu.lenient = True
            yield gpu
    finally:
        TABLE["embedding"] = row


def _scattered(saved, dy, needs):
    """The table's gradient without the reference's `unique`, whose result has a length that no graph knows."""
    ids, shape = saved
    dw = ndarray(np.empty(shape, dy.dtype))
    dw[...] = 0
    np.add.at(dw, ids, dy)
    return None, dw

"""A training step as one CUDA graph: hundreds of launches become one, whatever the host is doing.

A graph is what a stream was given to do while it was being captured: kernels, with the numbers and addresses they had
then. A replay runs no line of Python, so nothing that changes from step to step may live on the host, nothing may be
read from the device, and memory that the graph uses must stay its own. On top of that CUDA refuses some calls in a
capture, CuPy's products and random numbers among them; our kernels are allowed.

Of CuPy this needs a stream that does not wait for others, begin_capture, end_capture, events and a memory pool. No line
here has run on a device yet; tests/fakes/fake_cupy.py is a CuPy of NumPy arrays on which all of it has.

# next: models/training/trainer.py, whose `update` is captured; core/runtime/upload.py, how batches reach the device.
"""

import contextlib
import functools
import gc
import sys
from contextvars import ContextVar
from typing import Any

import numpy as np

from core.engine import scoped

WARM_UPS = 2  # calls before the capture: they compile, load and fill caches, none of which a capture may do
_held: ContextVar[list | None] = ContextVar("held", default=None)  # during a capture: what the graph must keep alive


class Captured:
    """Captured(function, key): each call carries out function(), from the third on as a replay of its graph.

    function takes nothing, gives nothing, and reads and writes device arrays only. key() says what a graph is good for
    (the addresses of inputs, say): when it changes the next calls warm up and capture anew. A function that cannot be
    captured is called every time instead, and `reason` says why; `replays` counts the calls that were replays.
    """

    def __init__(self, function, key):
        import cupy

        self.function, self.key, self.cuda = function, key, cupy.cuda
        self.stream = self.cuda.Stream(non_blocking=True)
        self.before, self.after = (self.cuda.Event(disable_timing=True) for _ in range(2))
        self.reason: str | None = None
        self.replays = 0
        self.good_for: Any = None
        self._forget()

    def _forget(self):
        """No graph, no warm-ups, and a pool of memory in which nobody else's arrays lie."""
        self.graph: Any = None
        self.warm_ups, self.held, self.pool = 0, [], self.cuda.MemoryPool()

    def __call__(self):
        """To everyone else this happens in the current stream: ours waits for it, and it waits for ours."""
        outside = self.cuda.get_current_stream()
        self.stream.wait_event(outside.record(self.before))
        try:
            with self.stream:
                self._call()
        finally:
            outside.wait_event(self.stream.record(self.after))

    def _call(self):
        if self.reason is None and self.key() != self.good_for:
            self._forget()
            self.good_for = self.key()
        if self.reason is None and self.graph is None:
            if self.warm_ups < WARM_UPS:
                with self.cuda.using_allocator(self.pool.malloc):
                    self.function()
                self.warm_ups += 1
                return
            self._capture()
        if self.graph is None:
            self.function()
        else:
            self.graph.launch(self.stream)
            self.replays += 1

    def _capture(self):
        """Make the graph, or note why there is none. Nothing of the function has been carried out after either."""
        collecting = gc.isenabled()
        gc.disable()  # what a collection frees may end in a call that is refused in a capture
        try:
            with self.cuda.using_allocator(self.pool.malloc), scoped((_held, self.held)):
                self.graph = self._recorded()
        except Exception as error:  # the function's own mistakes come again in the call that follows
            self._forget()
            line = next(iter(str(error).splitlines()), "")
            self.reason = f"{type(error).__name__}: {line}"
            print(f"a step runs kernel by kernel, it could not be captured: {self.reason}", file=sys.stderr)
        finally:
            if collecting:
                gc.enable()

    def _recorded(self):
        self.stream.begin_capture()
        try:
            self.function()
        except BaseException:
            with contextlib.suppress(Exception):  # it is the only way out of a capture, and says again that it failed
                self.stream.end_capture()
            raise
        return self.stream.end_capture()


def hold(*arrays):
    """The graph that is being captured, if one is, keeps these arrays alive: it has their addresses."""
    held = _held.get()
    if held is not None:
        held.extend(arrays)


def upload(xp, host) -> Any:
    """The NumPy array `host` as an array of xp. In a capture too it is copied now, aside: a copy in the graph would
    read the host's memory again at each replay, when something else is there."""
    if xp is np or _held.get() is None:
        return xp.asarray(host)
    stream = _aside()
    with stream:
        array = xp.asarray(host)
    stream.synchronize()
    return array


@functools.cache
def _aside():
    import cupy

    return cupy.cuda.Stream(non_blocking=True)

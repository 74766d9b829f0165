"""Sums over the ranks' GPUs: NCCL through CuPy's binding, a stream of its own beside the one that computes.

Arrays of the host still go by MPI, so that ranks meet there, within the time limit, at every step. NCCL itself waits
without end: a rank that is lost between two meetings leaves the others in a wait inside CUDA, which has no limit. Every
rank has one GPU, the one with its number on its machine. NCCL adds in an order that its topology decides, the same each
time on the same machines.

Untested on a device: all of it; tests/core/runtime/test_distributed.py rehearses it on a stand-in.
"""

import os

import numpy as np

from core.arrays import is_cupy
from core.runtime.distributed import Ranks

LOCAL = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")  # this rank's number on its machine


class Devices(Ranks):
    """Ranks with a GPU each."""

    def __init__(self, comm, timeout: float):
        super().__init__(comm, timeout)
        import cupy
        from cupy.cuda import nccl

        local = next((int(os.environ[name]) for name in LOCAL if name in os.environ), self.rank)
        cupy.cuda.Device(local).use()
        key = np.array(nccl.get_unique_id() if self.rank == 0 else [0] * 128, np.int64)
        super().broadcast_([key])
        self.cupy, self.nccl = cupy, nccl
        self.ours = nccl.NcclCommunicator(self.size, tuple(key.tolist()), self.rank)
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def sum_of(self, array):
        return DeviceSum(self, array) if is_cupy(array) else super().sum_of(array)

    def kind(self, array):
        """NCCL's number of its dtype."""
        names = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int64": "NCCL_INT64", "uint64": "NCCL_UINT64"}
        return getattr(self.nccl, names[str(array.dtype)])

    def broadcast_(self, arrays):
        """Device arrays travel by way of the host: it happens once, before the first step."""
        for array in arrays:
            host = array.get() if is_cupy(array) else array
            super().broadcast_([host])
            if is_cupy(array):
                array[...] = self.cupy.asarray(host)


class DeviceSum:
    """The sum of a device array, in the stream of sums."""

    def __init__(self, group, array):
        self.group, self.array, self.done = group, array, None

    def begin(self):
        """After what the current stream has been given so far, and beside what comes then."""
        w, pointer, Event = self.group, self.array.data.ptr, self.group.cupy.cuda.Event
        w.stream.wait_event(w.cupy.cuda.get_current_stream().record(Event(disable_timing=True)))
        w.ours.allReduce(pointer, pointer, self.array.size, w.kind(self.array), w.nccl.NCCL_SUM, w.stream.ptr)
        self.done = w.stream.record(Event(disable_timing=True))
        return self

    def advance(self):
        """It goes on by itself."""

    def finish(self):
        """The current stream waits for it; the host does not."""
        self.group.cupy.cuda.get_current_stream().wait_event(self.done)

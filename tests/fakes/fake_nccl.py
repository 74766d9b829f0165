"""Two ranks with a GPU each, rehearsed in one process: this rank, and another that holds the same and does the same.

`nccl` takes the place of cupy.cuda.nccl beside tests/fakes/fake_cupy.py. A sum doubles what is behind a pointer, in the
stream it was given; in a capture it is noted. What MPI carries comes from the other rank, that is, from this one.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

from tests.fakes.fake_cupy_arrays import gpu


class Communicator:
    """cupy.cuda.nccl.NcclCommunicator."""

    def __init__(self, size, key, rank):
        assert (size, rank, len(key)) == (2, 0, 128)

    def allReduce(self, source, target, count, kind, operation, stream):
        assert source == target and operation == "sum" and gpu.calls[-1] == "wait"
        assert stream.non_blocking and stream is not gpu.streams[-1], "a sum goes beside what computes"
        kinds = {"f4": (ctypes.c_float, np.float32), "f8": (ctypes.c_double, np.float64)}
        array = np.ctypeslib.as_array(ctypes.cast(source, ctypes.POINTER(kinds[kind][0])), (count,))
        gpu.calls.append("sum")
        gpu.write(lambda: np.multiply(array, 2, out=array))


nccl = SimpleNamespace(
    NcclCommunicator=Communicator,
    get_unique_id=lambda: tuple(range(128)),
    NCCL_SUM="sum",
    NCCL_FLOAT32="f4",
    NCCL_FLOAT64="f8",
)


class Mirror:
    """An MPI communicator of two, seen by rank 0: the other sends what it is sent."""

    def __init__(self):
        self.sent: dict = {}

    Get_rank, Get_size = lambda self: 0, lambda self: 2

    def Isend(self, array, to, tag):
        self.sent[tag] = array.copy()
        return SimpleNamespace(Test=lambda: True)

    def Irecv(self, array, source, tag):
        def test():
            if tag in self.sent:
                array[...] = self.sent[tag]
            return tag in self.sent

        return SimpleNamespace(Test=test)

"""Which processes this one trains with: `current()`, whether a launcher has started several, and what ends them all.

mpi4py is imported only where an MPI launcher has started several processes.

# next: core/runtime/distributed.py, what a process group can do; core/runtime/nccl.py, the same between GPUs
"""

import contextlib
import functools
import os
import subprocess

from core import check
from core.runtime.distributed import ALONE, TIMEOUT, Ranks
from core.runtime.nccl import Devices

LAUNCHERS = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))  # MPICH and kin, Open MPI


def launched() -> tuple[int, int]:
    """(rank, size) of this process, as its launcher says; (0, 1) without one."""
    for rank, size in LAUNCHERS:
        if os.environ.get(rank, "").isdigit() and os.environ.get(size, "").isdigit():
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


@functools.cache
def _communicator():
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # what ends a job says so in a line of its own
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    return MPI.COMM_WORLD


def met() -> bool:
    """Whether this process has joined the other ranks."""
    return bool(_communicator.cache_info().currsize)


def current(device: str = "cpu", timeout: float = TIMEOUT):
    """The process group of this process; on a GPU device arrays are summed by NCCL."""
    check.number("process_group.current", "timeout", timeout, 0)
    if launched()[1] == 1:
        return ALONE
    if device == "cpu":
        return Ranks(_communicator(), timeout)
    return Devices(_communicator(), timeout)


@contextlib.contextmanager
def watched(group, line: str):
    """`with watched(group, line):` should the launcher kill this job, `line` is the last thing it says.

    A launcher kills all other ranks where one has died, and gives them no time to speak: a child of rank 0 does, which
    reads until rank 0 says that it is done, or is no more."""
    if group.size == 1 or group.rank:
        yield
        return
    script = 'read done || printf "\\n%s\\n" "$0" >&2'
    child = subprocess.Popen(["sh", "-c", script, line], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        child.communicate(b"done\n")

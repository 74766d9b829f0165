"""Several processes that train one model on one batch: who they are, how they add up, and what ends them all.

    group            Alone, or Ranks where an MPI launcher started this process (core/runtime/process_group.py)
    group.share(n)   (first, last): the examples of a batch of n that are this rank's
    group.sum_(a)    a becomes its sum over the ranks, in the same bits on all of them and every time
    group.sum_of(a)  the same in two halves, `begin` and `finish`, so that other work fits between them

A sum goes in two stages. Every rank sends each other rank that one's slice, and adds up its own slice, first rank
first, whatever came first; then it sends the result to all. That is 2 (N - 1) / N times the bytes of the array out of
every rank, as in a ring, and no sum depends on the timing. What is SMALL goes whole to everyone, in one stage.

A rank that has not sent what others need within `timeout` seconds is named in a RankError, except where all wait for
what the first does alone (`patient`). The wait tests and gives its core away in turn, so that more ranks than cores
work; only time in which this process itself was running counts. A wait of a GPU's, inside CUDA, has no limit.

# next: core/runtime/buckets.py, the gradients
"""

import contextlib
import fcntl
import itertools
import math
import os
import termios
import time
import zlib
from array import array as numbers

import numpy as np

from core import check

SMALL = 1024  # elements
TIMEOUT = 300.0  # seconds
FAULT = (1 << 15) - 2  # the tag of an error's line; MPI promises tags below 2^15
PATIENT = 1.0  # seconds after which a wait sleeps between two looks


class RankError(RuntimeError):
    """Another rank did not arrive; the message is one clear line."""


class OtherError(RuntimeError):
    """Another rank has met an error; the message is its line."""


class Alone:
    """A process group of one rank; what others do with each other costs it nothing."""

    rank, size = 0, 1
    bytes_sent = 0  # so far

    def share(self, n: int, parts: int = 1, what: str = "batch") -> tuple[int, int]:
        """(first, last) of the n examples that are this rank's, which fall into `parts` parts of one length."""
        if n % (self.size * parts):
            check.fail(
                "Trainer", what, n, f"a multiple of {self.size * parts} (ranks: {self.size}, parts of each: {parts})"
            )
        return self.rank * n // self.size, (self.rank + 1) * n // self.size

    def sum_(self, array):
        """Make `array`, which is contiguous, its sum over the ranks."""

    def sum_of(self, array):
        """What sums `array` in place, as often as it is begun: .begin(), .advance() on the way, .finish()."""
        raise TypeError("a process group of one rank has nothing to sum")

    def broadcast_(self, arrays):
        """Make `arrays` what they are on rank 0."""

    def any(self, flag) -> bool:
        """Whether the flag is set on any rank: all ranks meet here."""
        return bool(flag)

    @contextlib.contextmanager
    def patient(self):
        """`with group.patient():` waits have no limit: another rank is at work, for as long as it may take."""
        yield

    def end(self, code: int):
        """End the processes of all ranks."""


ALONE = Alone()


def a_process_group(op: str, value):
    """Refuse, in the name of `op`, what is no process group."""
    if not isinstance(value, Alone):
        check.fail(op, "group", check.shown(value), "a process group of core.runtime.distributed")


class Ranks(Alone):
    """All processes of an MPI communicator; one thread of each speaks."""

    def __init__(self, comm, timeout: float = TIMEOUT):
        self.comm, self.timeout = comm, timeout
        self.overlap = True  # whether sums begin while a backward pass still goes on
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.others = [r for r in range(self.size) if r != self.rank]
        self.sums, self.bytes_sent = 0, 0

    def send(self, array, to, tag):
        self.bytes_sent += array.nbytes
        return self.comm.Isend(array.reshape(-1).view(np.uint8), to, tag)

    def receive(self, array, source, tag):
        return self.comm.Irecv(array.reshape(-1).view(np.uint8), source, tag)

    def tag(self) -> int:
        """The number of the next exchange: every rank makes the same ones in the same order."""
        self.sums = (self.sums + 1) % (FAULT // 2)  # a sum has two stages
        return 2 * self.sums

    def sum_of(self, array):
        return Sum(self, array)

    def sum_(self, array):
        self.sum_of(array).begin().finish()

    def broadcast_(self, arrays):
        for array in arrays:
            whole, tag = np.ascontiguousarray(array), self.tag()
            if self.rank:
                self.wait(Messages({0: [self.receive(whole, 0, tag)]}))
                array[...] = whole
            else:
                self.wait(Messages({r: [self.send(whole, r, tag)] for r in self.others}))

    def agree(self, known: dict):
        """Refuse ranks that would train different models, or on different data, since each has read them itself:
        `known` is {name: value}, the same names on all."""
        own = np.array([zlib.crc32(repr(value).encode()) for value in known.values()], np.int64)
        first = own.copy()
        self.broadcast_([first])
        differ = (own != first).astype(np.float32)
        self.sum_(differ)
        for name, n in zip(known, differ.astype(int)):
            if n:
                check.fail("Trainer", name, f"different on {n} of {self.size} ranks", "that of rank 0")

    def any(self, flag) -> bool:
        flags = np.array([bool(flag)], np.float32)
        self.sum_(flags)
        return bool(flags[0] > 0)

    def wait(self, what):
        """Until what.advance(); RankError after `timeout` seconds of running, one more in a second stage: those who
        miss a rank itself are to speak before those who miss what others could not send without it."""
        waited, before = 0.0, time.monotonic()
        while not what.advance():
            os.sched_yield()
            self._hear()
            if waited > PATIENT:
                time.sleep(0.001)
            now = time.monotonic()
            waited, before = waited + min(now - before, 1.0), now  # a longer gap: this process was stopped itself
            if waited > self.timeout + what.stage:
                missing = ", ".join(map(str, what.missing()))
                raise RankError(f"rank {missing} did not arrive within {self.timeout:g} s: stopped, or lost")

    def _hear(self):
        """Rank 0 speaks for all: an error that another has told it is its own."""
        if self.rank == 0 and self.comm.Iprobe(tag=FAULT):
            raise OtherError(self.comm.recv(tag=FAULT))

    def tell(self, line: str, seconds: float):
        """Hand rank 0 the line of an error. It ends this job as soon as it waits for others; back if it does not."""
        request = self.comm.isend(line, 0, FAULT)
        for _ in range(int(100 * seconds)):  # counted, not measured: a process may be stopped meanwhile
            request.test()
            time.sleep(0.01)

    @contextlib.contextmanager
    def patient(self):
        limit, self.timeout = self.timeout, math.inf
        try:
            yield
        finally:
            self.timeout = limit

    def end(self, code: int):
        """The launcher, once told, drops what was said and what it has not read yet: it gets 2 seconds to read."""
        unread = numbers("i", [1])
        with contextlib.suppress(OSError):  # what is said goes nowhere
            for _ in range(200):
                fcntl.ioctl(2, termios.FIONREAD, unread)
                if not unread[0]:
                    break
                time.sleep(0.01)
        self.comm.Abort(code)


class Messages:
    """{rank: requests} on their way; `advance` says whether all have come."""

    stage = 0

    def __init__(self, requests: dict):
        self.requests = requests

    def advance(self) -> bool:
        return all(request.Test() for requests in self.requests.values() for request in requests)

    def missing(self) -> list:
        return [rank for rank, requests in self.requests.items() if not all(r.Test() for r in requests)]


class Sum:
    """The sum over the ranks of one contiguous array, in place, as often as `begin` is called."""

    def __init__(self, group, array):
        flat, n = array.reshape(-1), group.size
        self.group, self.flat, self.whole = group, flat, flat.size <= SMALL
        edges = [i * flat.size // n for i in range(n + 1)]
        self.slices = [flat if self.whole else flat[a:b] for a, b in itertools.pairwise(edges)]
        self.mine = self.slices[group.rank]
        self.came = {r: np.empty_like(self.mine) for r in group.others}
        self.messages, self.stage, self.tag = Messages({}), 2, 0

    def begin(self):
        w, self.stage, self.tag = self.group, 0, self.group.tag()
        self.messages = Messages(
            {r: [w.receive(self.came[r], r, self.tag), w.send(self.slices[r], r, self.tag)] for r in w.others}
        )
        return self

    def advance(self) -> bool:
        """Go on as far as what has come allows; whether the sum is there."""
        while self.stage < 2 and self.messages.advance():
            if self.stage == 0:
                self._add()
            self.stage = 2 if self.whole or self.stage else 1
            if self.stage == 1:
                self._give_out()
        return self.stage == 2

    def _add(self):
        """This rank's slice, in the order of the ranks."""
        parts = [self.came.get(r, self.mine) for r in range(self.group.size)]
        total = self.came[self.group.others[0]]  # one of the first two, and nobody needs it any more
        with np.errstate(over="ignore", invalid="ignore"):  # scaled gradients may overflow; a loss scale is told so
            np.add(parts[0], parts[1], out=total)
            for part in parts[2:]:
                total += part
        self.mine[...] = total

    def _give_out(self):
        w, tag = self.group, self.tag + 1
        self.messages = Messages({r: [w.receive(self.slices[r], r, tag), w.send(self.mine, r, tag)] for r in w.others})

    def missing(self) -> list:
        return self.messages.missing()

    def finish(self):
        self.group.wait(self)

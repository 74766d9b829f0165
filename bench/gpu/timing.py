"""The clock: milliseconds on the GPU by events, and the host's by its own clock.

Single operations are timed call by call, each with a cold L2; whole training steps in a row, without waiting between
them and with whatever the last one left in the L2, as in training.
"""

import time
from typing import Any, NamedTuple

import numpy as np

WARM = 3  # calls before
REPEATS = 30  # timed calls
CALLS = 50  # calls in a row, without waiting, whose host time is divided by their number
ROUNDS, IN_A_ROW = 10, 20  # of whole steps: times they are taken, and steps between two events
FLUSH = 64 << 20  # bytes written between timed calls: more than any L2


class Clock(NamedTuple):
    """start() and stop() stand around a call; stop() gives milliseconds. flush() empties the L2."""

    flush: Any
    start: Any
    stop: Any
    wait: Any
    repeats: int
    calls: int


def clock(device, library) -> Clock:
    """The clock for work that "cupy" or "torch" starts; in a dry run the host's."""
    if device.dry:
        begun: list = []
        start = lambda: begun.append(time.perf_counter())
        return Clock(lambda: None, start, lambda: 1e3 * (time.perf_counter() - begun.pop()), lambda: None, 1, 1)
    if library == "cupy":
        cuda, flush = device.xp.cuda, device.xp.empty(FLUSH, "uint8")
        begin, end = cuda.Event(), cuda.Event()
        stop = lambda: _between(end, lambda: cuda.get_elapsed_time(begin, end))
        return Clock(lambda: flush.fill(0), begin.record, stop, cuda.Device().synchronize, REPEATS, CALLS)
    import torch

    empty = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stop = lambda: _between(last, lambda: first.elapsed_time(last))
    return Clock(empty.zero_, first.record, stop, torch.cuda.synchronize, REPEATS, CALLS)


def _between(end, elapsed) -> float:
    end.record()
    end.synchronize()
    return elapsed()


def measured(f, clock: Clock) -> dict:
    """Of the GPU the median of some calls, with the 20 % and 80 % quantiles; of the host the mean of calls in a row."""
    for _ in range(min(clock.repeats, WARM)):
        f()
    times = []
    for _ in range(clock.repeats):
        clock.flush()
        clock.start()
        f()
        times.append(clock.stop())
    clock.wait()
    began = time.perf_counter()
    for _ in range(clock.calls):
        f()
    host = 1e3 * (time.perf_counter() - began) / clock.calls
    clock.wait()
    low, median, high = (float(q) for q in np.quantile(times, (0.2, 0.5, 0.8)))
    return {"ms": round(median, 5), "low": round(low, 5), "high": round(high, 5), "host_ms": round(host, 5)}


def in_a_row(f, clock: Clock, calls: int) -> dict:
    """Milliseconds of a call when `calls` are begun without waiting, median and quantiles over some rounds: of the GPU,
    of the host until all are begun, and of the wall until all are done."""
    times, host, wall = [], [], []
    for _ in range(min(clock.repeats, ROUNDS)):
        clock.wait()
        began = time.perf_counter()
        clock.start()
        for _ in range(calls):
            f()
        host.append(1e3 * (time.perf_counter() - began) / calls)
        times.append(clock.stop() / calls)
        clock.wait()
        wall.append(1e3 * (time.perf_counter() - began) / calls)
    low, median, high = (round(float(q), 5) for q in np.quantile(times, (0.2, 0.5, 0.8)))
    rest = {"host_ms": round(float(np.median(host)), 5), "wall_ms": round(float(np.median(wall)), 5)}
    return {"ms": median, "low": low, "high": high, **rest}

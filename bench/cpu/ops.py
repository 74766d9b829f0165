"""Single operations at the models' sizes, on a CPU: `assay bench ops [PATTERN]`.

Ours, the reference and torch (for images in both memory formats), forward, and forward and backward, each side in a
process of its own and in turns (bench/cpu/interleaved.py). A row's limit is what its flops and bytes
(bench/roofline.py) would take at the speeds of a large matrix product and of reading and writing memory, both measured
on the spot."""

import contextlib
import statistics
import time
from pathlib import Path

import numpy as np

from bench import roofline
from bench.cpu.extra import EXTRAS
from bench.cpu.interleaved import Setting, Side, check_idle, quantiles
from bench.cpu.step import record
from bench.parity import comparing
from bench.parity.cases import BENCH, BY_NAME
from core import Tensor, dispatch
from core.runtime import threads
from models.training.progress import progress

PASSES = ("forward", "both")
TURN = 0.15  # seconds
PAIRS = 9
SAME = 0.05  # who is further from float64 computes something else
RESULTS = Path(__file__).parents[1] / "results" / "cpu-ops.json"


class Host:
    """The CPU, as bench/gpu/contenders.py wants a device: arrays are NumPy's."""

    torch, dry, xp = "cpu", False, np

    def __init__(self, mode):
        self.mode = mode

    def host(self, x):
        return x

    def tensors(self, case, arrays):
        return [
            Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a
            for a, n in zip(arrays, case.needs_input_grad(arrays))
        ]

    @contextlib.contextmanager
    def kernels(self, tf32=False):
        with dispatch.use(self.mode):
            yield


def prepare(name, who):
    """The contender's run of a case, its answers checked; or what is wrong with them."""
    if name in EXTRAS:
        return EXTRAS[name].make(who)
    from bench.gpu import contenders
    from bench.gpu.device import Precision

    case, host = BY_NAME[name], Host("reference" if who == "reference" else "auto")
    arrays = case.arrays(np.float32)
    outputs, gradients, dys = exact(case, arrays)
    who = "ours" if who == "reference" else who
    run = contenders.make(host, who, case, arrays, dys, Precision("float32", "float32"))
    found = run.results()
    for ours, oracle in zip((*found[0], *found[1]), (*outputs, *gradients)):
        if oracle is not None and not np.abs(ours - oracle).max() <= SAME * np.abs(oracle).max():
            return f"{who} is wrong on {name}"
    return run


def exact(case, arrays):
    """(outputs, gradients, dys) by torch in float64."""
    draw = lambda outputs: comparing.random_dys(case, outputs, np.float32)
    return comparing.run_torch(case, case.oracle or case.torch, arrays, np.float64, draw)


def limits() -> dict:
    """{"gflops", "gbytes"}: a second of a large product in float32, and of copying from memory to memory."""
    a, big = np.ones((2048, 2048), np.float32), np.ones(1 << 26, np.float32)
    copy, out = np.empty_like(big), np.empty_like(a)

    def copied(start, stop):
        copy[start:stop] = big[start:stop]

    product = min(_seconds(lambda: np.matmul(a, a, out=out)) for _ in range(8))
    moved = min(_seconds(lambda: threads.share(copied, big.size)) for _ in range(8))
    return {"gflops": 2 * 2048**3 / product / 1e9, "gbytes": 2 * big.nbytes / moved / 1e9}


def _seconds(f):
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def contenders(name):
    from bench.gpu import contenders

    known = () if name in EXTRAS else contenders.contenders(BY_NAME[name])
    return [who for who in known if who in ("torch eager", *contenders.FORMATS)] or ["torch eager"]


def measure(name, sides, pairs) -> dict:
    """One row."""
    theirs = contenders(name)
    row: dict = {"case": name, "threads": threads.COUNT}
    for what in EXTRAS[name].passes if name in EXTRAS else PASSES:
        calls = {who: _calls(sides, name, who, what) for who in ("ours", "reference", *theirs)}
        best = min(theirs, key=lambda who: calls[who][1])
        rounds = [[_median(sides, name, who, what, calls[who][0]) for who in ("ours", best)] for _ in range(pairs)]
        ours, torch = (statistics.median(column) for column in zip(*rounds))
        found = {"ours_ms": 1e3 * ours, "torch_ms": 1e3 * torch, "reference_ms": 1e3 * calls["reference"][1]}
        row[what] = {k: round(v, 4) for k, v in found.items()} | quantiles([b / a for a, b in rounds]) | {"torch": best}
    return row


def _calls(sides, name, who, what) -> tuple:
    """(how many calls make a turn, seconds of one)"""
    seconds = min(_median(sides, name, who, what, 2) for _ in range(2))
    return max(1, round(TURN / seconds)), seconds


def _median(sides, name, who, what, times) -> float:
    answer = sides["ours" if who in ("ours", "reference") else "torch"].ask([name, who, what, times])
    if "fault" in answer:
        raise ValueError(answer["fault"])
    return statistics.median(answer["seconds"])


def bounded(row, found) -> dict:
    """The row with the part of the limit that ours reaches: 1 would be all of the cores, or of the memory."""
    for what, (flops, moved) in zip(PASSES, work(row["case"])):
        times = {"flops": flops / found["gflops"] / 1e9, "bytes": moved / found["gbytes"] / 1e9}
        of = max(times, key=lambda k: times[k])
        row[what] |= {"limit": round(1e3 * times[of] / row[what]["ours_ms"], 3), "of": of}
    return row


def work(name):
    """(flops, bytes) of the passes."""
    if name in EXTRAS:
        return [(0, moved) for moved in EXTRAS[name].moved]
    case = BY_NAME[name]
    arrays = case.arrays(np.float32)
    outputs, gradients, _ = exact(case, arrays)
    as_float32 = lambda some: [None if a is None else np.asarray(a, np.float32) for a in some]
    return roofline.work(case, arrays, (as_float32(outputs), as_float32(gradients))).values()


def run(args):
    known = [*(case.name for case in BENCH), *EXTRAS]
    names = [name for name in known if args.pattern in name]
    if not names:
        raise ValueError(f"no case has {args.pattern!r} in its name; there are {', '.join(known)}")
    if not args.anyway:
        check_idle()
    found, rows = limits(), []
    print(f"a large product {found['gflops']:.0f} GF/s, copying {found['gbytes']:.0f} GB/s, {threads.COUNT} threads")
    setting = Setting(threads.COUNT)
    sides = {who: Side(["ops", who], setting) for who in ("ours", "torch")}
    try:
        for name in progress(names, "cases", disable=len(names) < 2):
            rows.append(bounded(measure(name, sides, args.pairs), found))
            print(line(rows[-1]))
            if args.record:
                record(RESULTS, rows[-1:], ("case",))
    finally:
        for side in sides.values():
            side.close()


def line(row) -> str:
    parts = [f"{row['case']:44}"]
    for what in (p for p in PASSES if p in row):
        r = row[what]
        parts.append(f"{what} {r['ours_ms']:8.3f} ms, torch {r['torch_ms']:8.3f}, ratio {r['ratio']:.2f}")
        parts.append(f"({r['low']:.2f} to {r['high']:.2f}), {r['limit']:.0%} of {r['of']};")
    return " ".join(parts)

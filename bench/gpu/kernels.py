"""The part `kernels`: times of the models' layers, ours beside every baseline's, after all their answers were checked.

A row is one contender on one case in one precision: its largest error against float64, and for each pass milliseconds
(a cold L2, the median with its 20 % and 80 % quantiles), the host's milliseconds, the floor and the part of it that was
reached, and the memory that the call held beside its inputs. Our rows also hold the ratio to the best baseline; over 1
we are faster. Losing rows stay.

Ours run in one child process, torch's in another (torch.compile and Liger want Triton with torch's driver, ours is
CuPy's). Before anything is timed our kernels are compiled by several processes at once; torch.compile comes last.
"""

import functools
import time

import numpy as np

from bench import roofline
from bench.gpu.device import PRECISIONS, NotRun, as_tuple, outcome
from bench.gpu.worker import COMPILERS, Worker, asked, compile_first, worker_command
from bench.parity import comparing, rule
from bench.parity.cases import BENCH, BY_NAME, DEVICE

TIMING = 90  # seconds for one question
SAME = 0.05  # a baseline whose largest error is above this computes something else
LARGE_TIMING = 300  # of a shape that only a GPU is asked: its inputs alone take half a minute to draw
PASSES = ("forward", "forward and backward", "weight gradient")  # the last of convolutions, where it can be had alone
DRY = (  # small relatives of the benches' cases
    *("conv2d/one-pixel-out", "conv_transpose2d/one-pixel", "attention/causal", "attention/one-token"),
    *("layer_norm/rows", "cross_entropy/mean-3d", "linear/no-bias"),
)

# --- asking ----------------------------------------


def chosen(device, precision):
    """The cases of a precision."""
    if not device.dry:  # targets for the large ones are in float16 alone
        return [*BENCH, *DEVICE] if precision.dtype == "float16" else BENCH
    return [BY_NAME[name] for name in (DRY if precision == PRECISIONS[0] else DRY[-1:])]


def kernels(device, until):
    """All rows, each as soon as it is there."""
    from bench.gpu import contenders

    jobs = [
        {"case": c.name, "precision": p.name, "who": who}
        for p in PRECISIONS
        for c in chosen(device, p)
        for who in contenders.contenders(c)
    ]
    jobs.sort(key=lambda job: (job["who"] == contenders.COMPILED, large(job["case"])))
    command = worker_command("kernels", device.dry)
    workers = [Worker(command) for _ in range(1 if device.dry else COMPILERS)]
    try:
        half = time.monotonic() + (until - time.monotonic()) / 2
        compile_first(workers, [job for job in jobs if job["who"] == "ours"], half)
        for worker in workers[1:]:
            worker.close()  # the last one starts anew, for torch: with a driver of torch's own
        rows: list = []
        for job in jobs:
            limit = LARGE_TIMING if large(job["case"]) else TIMING
            rows.append(asked(workers[0 if job["who"] == "ours" else -1], job, until, limit))
            compare(rows)
            yield rows[-1]
    finally:
        for worker in workers:
            worker.close()


def large(name) -> bool:
    return any(case.name == name for case in DEVICE)


def compare(rows):
    """Put the ratio to the best baseline so far into our row of the case that the last row is about."""
    same = [r for r in rows if r["passed"] and (r["case"], r["precision"]) == (rows[-1]["case"], rows[-1]["precision"])]
    ours = next((r for r in same if r["who"] == "ours"), None)
    if ours is None:
        return
    for name in PASSES:
        baselines = [r for r in same if r["who"] != "ours" and name in r]
        if baselines and name in ours:
            best = min(baselines, key=lambda r: r[name]["ms"])
            ratio = round(best[name]["ms"] / max(ours[name]["ms"], 1e-9), 3)
            ours[name].update(ratio=ratio, best_baseline=best["who"])


def summary(rows):
    """A line for each of our rows: time, part of the floor, ratio to the best baseline."""
    for row in rows:
        if row["passed"] and row.get("who") == "ours":
            for name, r in ((name, row[name]) for name in PASSES if name in row):
                part = f", {100 * r['of_floor']:.0f} % of the floor by {r['of']}" if "of" in r else ""
                ratio = f", {r['ratio']} x {r['best_baseline']}" if "ratio" in r else ""
                yield f"  {row['case']} {row['precision']} {name}: {r['ms']} ms{part}{ratio}, error {row['error']:.1e}"


# --- answering ----------------------------------------


def answer(device, question) -> dict:
    """The child's answer to one question."""
    case, precision = BY_NAME[question["case"]], next(p for p in PRECISIONS if p.name == question["precision"])
    if question["compile"]:
        return outcome(compiled, device, case, precision)
    return outcome(timed, device, case, precision, question["who"])


def compiled(device, case, precision) -> dict:
    """Run a case by our kernels, so that all of them are compiled."""
    device.set_torch(precision)
    arrays = case.arrays(precision.dtype)
    with device.kernels(precision.tf32):
        outputs = as_tuple(case.ours(*device.tensors(case, arrays)))
    device.run(case, arrays, comparing.random_dys(case, outputs, precision.dtype), precision.tf32)
    return {}


@functools.lru_cache(4)
def known(name, precision, where):
    """(inputs, dys, the oracle's outputs and gradients in float64) of a case."""
    case, dtype = BY_NAME[name], np.dtype(precision.dtype)
    arrays = case.arrays(dtype)
    draw = lambda outputs: comparing.random_dys(case, outputs, dtype)
    *oracle, dys = comparing.run_torch(case, case.oracle or case.torch, arrays, np.float64, draw, where)
    return arrays, dys, oracle


def of_oracle(device, name) -> str:
    """Where float64 is computed: by the CPU, but for shapes that would take it minutes."""
    return device.torch if large(name) else "cpu"


def timed(device, case, precision, who) -> dict:
    """Error and times of one contender; what is wrong raises instead."""
    from bench.gpu import contenders, memory, timing

    device.set_torch(precision)
    arrays, dys, oracle = known(case.name, precision, of_oracle(device, case.name))
    results = contenders.make(device, who, case, arrays, dys, precision).results()
    right = checked(device, case, precision) if who == "ours" else same(case, arrays, results, oracle, precision)
    row = {"error": right, "tf32": precision.tf32}
    work, peak = roofline.work(case, arrays, results), roofline.peaks(device.name)
    run = contenders.make(device, who, case, arrays, dys, precision)  # Liger has written over the last one's inputs
    library = "cupy" if who == "ours" else "torch"
    clock = timing.clock(device, library)
    for name, f in zip(PASSES, (run.forward, run.both, run.weight)):
        if f is None or (name == "forward" and who == "Liger" and case.op in contenders.WITH_GRADIENT):
            continue  # the latter would be compared with a forward pass that computes no gradient
        if run.dw is not None and f is run.weight:
            check_weight(run.dw(), oracle[1][1], right)
        row[name] = {**timing.measured(f, clock), "mib": memory.peak(device, library, f)[1]}
        if peak is not None:
            floor = roofline.floor_ms(work[name], precision, peak)
            row[name].update(floor, of_floor=round(floor["floor_ms"] / max(row[name]["ms"], 1e-9), 4))
    return row


def check_weight(dw, oracle, right):
    """What computes a weight gradient alone must have the one that was tested: cuDNN may add in another order."""
    off = float(rule.errors(dw, oracle).max())
    if not off <= 2 * right:
        raise ArithmeticError(f"the weight gradient alone is {off:.1e} off, should be at most {2 * right:.1e}")


def checked(device, case, precision) -> float:
    """Our largest error against float64, once the accuracy test has let all outputs and gradients pass."""
    run = functools.partial(device.run, tf32=precision.tf32)
    most = 1 if device.dry else comparing.MOST
    where = {"device": device.torch, "oracle": of_oracle(device, case.name)}
    found = comparing.comparisons(case, np.dtype(precision.dtype), subject=run, most=most, **where)
    for c in found:
        if c.verdict.fault:
            raise ArithmeticError(f"{c.what}: {c.verdict.fault}")
    return max(c.verdict.ours.max for c in found)


def same(case, arrays, results, oracle, precision) -> float:
    """A baseline's largest error against float64, if it computes the same thing at all."""
    nobody = [[None] * len(part) for part in oracle]
    draws = comparing.drawn(case, arrays, results, oracle, nobody)
    verdicts = {what: rule.assess([draw], precision.dtype) for what, draw in draws.items()}
    for what, verdict in verdicts.items():
        if verdict.ours.max > SAME or (verdict.fault and not verdict.entries):
            raise NotRun(f"{what} is another: {verdict.fault}")
    return max(verdict.ours.max for verdict in verdicts.values())

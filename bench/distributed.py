"""What ranks cost: `python -m bench distributed`, bench/results/distributed.json and the tables of docs/distributed.md.

The model of a step of N ranks is its time s without communication, and that of its sums:

    share = c / (s + c),     c = losses x start + buckets x latency + 2 (N - 1) / N x bytes / bandwidth

Start, latency and bandwidth are those of N ranks and fitted to sums of buckets that belong to no model (`fit`); s is a
step of one rank on B / N examples. What is measured is a training step of real ranks, of which the time from the moment
when all have their gradients until they have their sum is communication: ranks meet first, so that waiting for a slower
one is not counted. Each number is the median of several jobs, each of which gives the median of its steps.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.step import RESULTS as STEPS
from bench.turns import check_idle
from core import distributed, memory, nn
from core.buckets import Buckets
from models import MODELS

RESULTS = STEPS.parent / "distributed.json"
PAGE = STEPS.parent.parent.parent / "docs" / "distributed.md"
MARKS = "<!-- measured: made by `python -m bench distributed` -->", "<!-- end of measured -->"
SIZES = tuple((1 << k, count) for k in (18, 19, 20, 21, 22) for count in (1, 2, 4) if 1 << k >= count << 18)
STEPS_TIMED = 12
COLD = 1 << 24  # numbers, 64 MiB: more than a cache holds
MPIRUN = Path(sys.executable).parent / "mpirun"


# --- inside a rank ----------------------------------------


class Timed(Buckets):
    """Buckets that begin when all ranks have their gradients, and note how long their sums take."""

    seconds = 0.0

    def finish(self, values):
        self.world.any(False)
        began = time.perf_counter()
        result = super().finish(values)
        self.seconds = time.perf_counter() - began
        return result


def calibrate(world) -> list:
    """[(bytes, how many buckets, seconds)] of gradients that belong to no model.

    Before each exchange a large array is written: after a backward pass gradients are not in a cache either."""
    rows, large = [], np.zeros(COLD, np.float32)
    for size, count in SIZES:
        parameters = [nn.Parameter(np.zeros(size // 4 // count, np.float32)) for _ in range(count)]
        buckets, seconds = Timed(world, parameters), []
        for _ in range(2 * STEPS_TIMED):
            buckets.begin()
            for p, bucket in buckets.home.items():
                p.grad = np.ones_like(p.data)
                bucket.add(p)
            large += 1
            buckets.finish([np.float32(1)])
            seconds.append(buckets.seconds)
        rows.append((size, len(buckets.buckets), statistics.median(seconds[2:])))
    return rows


def steps(world, kind, batch, overlap) -> dict:
    """Medians of a training step, what its sums take, and what is sent. Where sums are timed ranks meet before them."""
    trainer = MODELS[kind](MODELS[kind].Config.preset("demo", batch=batch), world=world)
    batches = trainer.batches("train")
    world.overlap = overlap
    trainer.step(next(batches))
    if not overlap:
        trainer.buckets = {loss: Timed(world, list(b.home)[::-1]) for loss, b in trainer.buckets.items()}
    found: list = []
    for _ in range(STEPS_TIMED + 2):
        world.any(False)
        batch_, before, began = next(batches), world.bytes_sent, time.perf_counter()
        trainer.step(batch_)
        whole = time.perf_counter() - began
        found.append((whole, sum(getattr(b, "seconds", 0.0) for b in trainer.buckets.values())))
    whole, sums = (statistics.median(column) for column in zip(*found[2:]))
    every = [bucket.flat.nbytes for buckets in trainer.buckets.values() for bucket in buckets.buckets]
    counts = {"losses": len(trainer.buckets), "buckets": len(every), "gradients": sum(every)}
    return {"step": whole, "sums": sums, **counts, "sent": world.bytes_sent - before}


def rank(kind, batch, overlap):
    """What a rank does; the first prints JSON."""
    memory.keep_freed()
    world = distributed.world()
    found = {"calibration": calibrate(world) if world.size > 1 and overlap == "0" else []}
    if world.size == 1:
        found |= steps_alone(kind, int(batch))
    else:
        found |= steps(world, kind, int(batch), overlap == "1")
    if world.rank == 0:
        print(json.dumps(found))


def steps_alone(kind, batch) -> dict:
    """A step of one rank, which communicates nothing."""
    trainer = MODELS[kind](MODELS[kind].Config.preset("demo", batch=batch))
    batches, seconds = trainer.batches("train"), []
    for _ in range(STEPS_TIMED + 2):
        arrays, began = next(batches), time.perf_counter()
        trainer.step(arrays)
        seconds.append(time.perf_counter() - began)
    return {"step": statistics.median(seconds[2:])}


# --- outside ----------------------------------------


def job(ranks, kind, batch, overlap=False) -> dict:
    """One job of so many ranks, one thread each."""
    one = dict.fromkeys(("ASSAY_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [MPIRUN, "-n", ranks, sys.executable, "-m", "bench.distributed", kind, batch, int(overlap)]
    done = subprocess.run(list(map(str, command)), env={**os.environ, **one}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"a job of {ranks} ranks ended: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fit(calibration, ranks) -> list:
    """Seconds to start, seconds a bucket and seconds a byte of the model, by least squares of relative errors."""
    sizes, buckets, seconds = (np.array(column, float) for column in zip(*calibration))
    columns = np.stack([np.ones(len(sizes)), buckets, 2 * (ranks - 1) / ranks * sizes], axis=1)
    return np.linalg.lstsq(columns / seconds[:, None], np.ones(len(sizes)), rcond=None)[0].tolist()


def predicted(ranks, coefficients, losses, buckets, gradients) -> float:
    """Seconds of communication in a step, by the model."""
    return float(np.dot(coefficients, (losses, buckets, 2 * (ranks - 1) / ranks * gradients)))


def measure(kind, ranks, runs) -> dict:
    """One row: medians over so many jobs."""
    batch = MODELS[kind].Config.preset("demo").batch
    alone = [job(1, kind, batch // ranks) for _ in range(runs)]
    row = {"model": kind, "ranks": ranks, "batch": batch, "alone_ms": _ms(alone, "step")}
    if ranks == 1:
        return {**row, "step_ms": row["alone_ms"], "sums_ms": 0.0, "share": 0.0, "model_share": 0.0}
    plain, overlapped = ([job(ranks, kind, batch, o) for _ in range(runs)] for o in (False, True))
    found = [fit(one["calibration"], ranks) for one in plain]
    fitted = [statistics.median(column) for column in zip(*found)]
    sums, counts = _ms(plain, "sums"), {name: plain[0][name] for name in ("losses", "buckets", "gradients")}
    model = 1e3 * predicted(ranks, fitted, **counts)
    return {
        **row,
        "step_ms": _ms(plain, "step"),
        "overlapped_ms": _ms(overlapped, "step"),
        "sums_ms": sums,
        "model_ms": round(model, 3),
        "share": round(sums / _ms(plain, "step"), 4),
        "model_share": round(model / (row["alone_ms"] + model), 4),
        **counts,
        "sent": plain[0]["sent"],
        "start_us": round(1e6 * fitted[0], 1),
        "latency_us": round(1e6 * fitted[1], 1),
        "bandwidth_gb": round(1e-9 / fitted[2], 3),
    }


def _ms(runs, name):
    return round(1e3 * statistics.median(run[name] for run in runs), 3)


def run(args):
    if not args.anyway:
        check_idle()
    rows = [measure(kind, ranks, args.runs) for kind in ([args.model] if args.model else MODELS) for ranks in (1, 2)]
    print("\n".join(table(rows)))
    if args.record:
        RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
        write()


def table(rows) -> list:
    """The rows in Markdown."""
    lines = [
        "| model | ranks | step, ms | overlapped | of it sums, ms | by the model | share | by the model |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        overlapped, model = (f"{r[name]:.1f}" if name in r else "" for name in ("overlapped_ms", "model_ms"))
        share = f"{r['sums_ms']:.2f} | {model} | {r['share']:.1%} | {r['model_share']:.1%} |"
        lines.append(f"| {r['model']} | {r['ranks']} | {r['step_ms']:.1f} | {overlapped} | {share}")
    return lines


def write():
    """The table of docs/distributed.md again, from what is recorded."""
    if RESULTS.exists():
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        rows = table(json.loads(RESULTS.read_text(encoding="utf-8")))
        after = rest.partition(MARKS[1])[2]
        PAGE.write_text("\n\n".join((before + MARKS[0], "\n".join(rows), MARKS[1] + after)), encoding="utf-8")


if __name__ == "__main__":
    rank(*sys.argv[1:])

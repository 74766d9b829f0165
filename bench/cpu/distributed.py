"""What ranks cost: `assay bench distributed`, bench/results/distributed.json and the tables of docs/distributed.md.

The model of a step of N ranks is its time s without communication, and that of its sums:

    share = c / (s + c),     c = losses x start + buckets x latency + 2 (N - 1) / N x bytes / bandwidth

s is a step of one rank on B / N examples. Start, latency and bandwidth are fitted to sums that the model does not make:
of a quarter and of half of its gradients, in as many buckets and in twice as many, after backward passes of its own,
since what a pass leaves in the caches is half of what a sum costs. What is measured is a training step of real ranks,
of which the time from the moment when all have their gradients until they have their sum is communication: ranks meet
first, so that waiting for a slower one is not counted. Steps that are measured and steps whose sums are fitted to take
turns, as a machine's speed changes. Each number is the median of several jobs, each of which gives the median of its
steps; the model is fitted, and compared with what was measured, job by job.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.cpu.interleaved import check_idle
from bench.cpu.step import RESULTS as STEPS
from core.runtime import distributed, memory, process_group
from core.runtime.buckets import Buckets
from models import MODELS

RESULTS = STEPS.parent / "distributed.json"
PAGE = STEPS.parent.parent.parent / "docs" / "distributed.md"
MARKS = "<!-- measured: made by `assay bench distributed` -->", "<!-- end of measured -->"
TRIALS = tuple((share, pieces) for share in (0.25, 0.5) for pieces in (1, 2))  # of each bucket; a trial's buckets
STEPS_TIMED = 12
MPIRUN = Path(sys.executable).parent / "mpirun"


# --- inside a rank ----------------------------------------


def timed(group, work, *arguments) -> tuple:
    """(what `work` gives, its seconds), begun by all ranks together."""
    group.any(False)
    began = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - began


class Timed(Buckets):
    """Buckets that begin when all ranks have their gradients, and note how long their sums take."""

    seconds = 0.0
    trial: tuple | None = None  # one of TRIALS, which is to be made before the sums
    row: tuple = ()  # what it came to

    @classmethod
    def instead_of(cls, buckets: dict) -> dict:
        """A trainer's buckets, timed."""
        return {loss: cls(b.group, list(b.home)[::-1]) for loss, b in buckets.items()}

    def finish(self, values):
        if self.trial:
            self.row = self.try_(*self.trial)
        result, self.seconds = timed(self.group, super().finish, values)
        return result

    def try_(self, share, pieces) -> tuple:
        """(bytes, buckets, seconds) of summing a share of each bucket, cut into pieces. What was summed becomes the
        ranks' mean, so that the sum of everything is afterwards what it would have been."""
        some = [piece for b in self.buckets for piece in np.array_split(b.flat[: int(share * b.flat.size)], pieces)]
        _, seconds = timed(self.group, self.sum_, [*some, np.zeros(1)])
        for piece in some:
            piece /= self.group.size
        return sum(piece.nbytes for piece in some), len(some), seconds

    def sum_(self, arrays):
        """Arrays, all at the same time."""
        for one in [self.group.sum_of(array).begin() for array in arrays]:
            one.finish()


class Statistics:
    """A trainer's exchange of its batch norms' running statistics, timed like its sums."""

    def __init__(self, trainer):
        self.group, self.share, self.seconds = trainer.group, trainer._share_statistics, 0.0
        self.bytes = sum(2 * norm.running_mean.data.nbytes for norm in trainer.norms)
        if self.bytes:
            trainer._share_statistics = self

    def __call__(self):
        _, self.seconds = timed(self.group, self.share)


def plain(trainer) -> dict:
    """The median of a training step."""
    batches, seconds = trainer.batches("train"), []
    for _ in range(2 + STEPS_TIMED):
        batch = next(batches)
        seconds.append(timed(trainer.group, trainer.step, batch)[1])
    return {"step": statistics.median(seconds[2:])}


def summed(trainer) -> dict:
    """Medians of a training step, of what its sums take, and of the trials; what is summed and sent."""
    group, batches = trainer.group, trainer.batches("train")
    group.overlap = False
    trainer.step(next(batches))
    trainer.buckets = Timed.instead_of(trainer.buckets)
    every, norms = trainer.buckets.values(), Statistics(trainer)
    found: list = []
    trials: dict = {}
    for _ in range(2 + STEPS_TIMED):
        for trial in TRIALS:
            for buckets in every:
                buckets.trial = trial
            trainer.step(next(batches))
            for loss, buckets in trainer.buckets.items():
                trials.setdefault((loss, trial), []).append(buckets.row)
                buckets.trial = None
        batch, before = next(batches), group.bytes_sent
        whole = timed(group, trainer.step, batch)[1]
        found.append((whole, norms.seconds + sum(buckets.seconds for buckets in every)))
    whole, sums = _medians(found)
    own = [bucket.flat.nbytes for buckets in every for bucket in buckets.buckets]
    more = bool(norms.bytes)  # an exchange of one bucket
    counts = {"losses": len(every) + more, "buckets": len(own) + more, "summed": sum(own) + norms.bytes}
    sent = group.bytes_sent - before
    return {"step": whole, "sums": sums, **counts, "sent": sent, "trials": list(map(_medians, trials.values()))}


def _medians(rows):
    """Column by column, without the two rows of warming up."""
    return [statistics.median(column) for column in zip(*rows[2:])]


def rank(kind, batch, what):
    """What a rank does; the first prints JSON. `what`: "alone", each rank for itself, "summed" or "overlapped"."""
    memory.keep_freed()
    group = process_group.current()
    config = MODELS[kind].Config.preset("demo", batch=int(batch))
    trainer = MODELS[kind](config, group=distributed.ALONE if what == "alone" else group)
    found = summed(trainer) if what == "summed" else plain(trainer)
    if group.rank == 0:
        print(json.dumps(found))


# --- outside ----------------------------------------


def job(ranks, kind, batch, what) -> dict:
    """One job of so many ranks, one thread each."""
    one = dict.fromkeys(("ASSAY_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [MPIRUN, "-n", ranks, sys.executable, "-m", "bench.cpu.distributed", kind, batch, what]
    done = subprocess.run(list(map(str, command)), env={**os.environ, **one}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"a job of {ranks} ranks ended: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fit(trials, ranks) -> list:
    """Seconds to start, seconds a bucket and seconds a byte of the model, by least squares."""
    sizes, buckets, seconds = (np.array(column, float) for column in zip(*trials))
    columns = np.stack([np.ones(len(sizes)), buckets, 2 * (ranks - 1) / ranks * sizes], axis=1)
    return np.linalg.lstsq(columns, seconds, rcond=None)[0].tolist()


def predicted(ranks, coefficients, losses, buckets, summed) -> float:
    """Seconds of communication in a step, by the model."""
    return float(np.dot(coefficients, (losses, buckets, 2 * (ranks - 1) / ranks * summed)))


def measure(kind, ranks, runs) -> dict:
    """One row: medians over so many jobs."""
    batch = MODELS[kind].Config.preset("demo").batch
    row = {"model": kind, "ranks": ranks, "batch": batch}
    if ranks == 1:
        step_ms = round(1e3 * statistics.median(job(1, kind, batch, "alone")["step"] for _ in range(runs)), 3)
        return {**row, "step_ms": step_ms, "sums_ms": 0.0, "share": 0.0, "model_share": 0.0}
    found = [_compared(kind, ranks, batch) for _ in range(runs)]
    middle = {name: round(statistics.median(one[name] for one in found), 4) for name in found[0]}
    return row | middle


def _compared(kind, ranks, batch) -> dict:
    """What was measured, and what the model says, of jobs that follow each other at once."""
    alone = job(ranks, kind, batch // ranks, "alone")["step"]
    one, overlapped = (job(ranks, kind, batch, what) for what in ("summed", "overlapped"))
    fitted, counts = fit(one["trials"], ranks), {name: one[name] for name in ("losses", "buckets", "summed")}
    model = predicted(ranks, fitted, **counts)
    return {
        "alone_ms": 1e3 * alone,
        "step_ms": 1e3 * one["step"],
        "overlapped_ms": 1e3 * overlapped["step"],
        "sums_ms": 1e3 * one["sums"],
        "model_ms": 1e3 * model,
        "share": one["sums"] / one["step"],
        "model_share": model / (alone + model),
        **counts,
        "sent": one["sent"],
        "start_us": 1e6 * fitted[0],
        "latency_us": 1e6 * fitted[1],
        "bandwidth_gb": 1e-9 / fitted[2],
    }


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
        "| model | ranks | step, ms | overlapped | sums, ms | by the model | share | by the model | model / measured |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        if r["ranks"] == 1:
            lines.append(f"| {r['model']} | 1 | {r['step_ms']:.1f} | | 0 | 0 | 0 | 0 | |")
            continue
        step = f"{r['step_ms']:.1f} | {r['overlapped_ms']:.1f} | {r['sums_ms']:.2f} | {r['model_ms']:.2f}"
        share = f"{r['share']:.2%} | {r['model_share']:.2%} | {r['model_share'] / r['share']:.2f}"
        lines.append(f"| {r['model']} | {r['ranks']} | {step} | {share} |")
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

"""The part `steps`: training steps and sampling of whole models, ours beside PyTorch's, after all losses were checked.

A row is one contender on one model in one precision: milliseconds of a step by the GPU's events around some steps in a
row, the median with its 20 % and 80 % quantiles, without emptying the L2 between them; the host's time to start a step,
and the wall's; the most memory that the library's allocator handed out, and what the driver has less of afterwards.
Rows of sampling hold images or tokens a second. Our rows also hold the ratio to the best baseline; over 1 we are
faster.

Ours run in one child process, then torch's in another, each question within a time limit; torch.compile comes last. A
step is timed as users take it: kernels where they take the arguments, the reference elsewhere.
"""

import itertools
import time

from bench.gpu import memory, sampling, steppers, timing
from bench.gpu.device import PRECISIONS, outcome
from bench.gpu.worker import COMPILERS, Worker, asked, compile_first, worker_command
from bench.parity import small_models

STEPS = (  # model, preset, batch
    *(("gan", "paper", 64), ("gan", "paper", 256), ("vae", "paper", 128)),
    *(("gpt", "demo", 12), ("gpt", "small", 32), ("seq2seq", "demo", 32), ("diffusion", "demo", 64)),
)
SAMPLES = (
    *(("gan", "paper", 256), ("vae", "paper", 128)),
    *(("gpt", "demo", 1), ("gpt", "demo", 32), ("gpt", "small", 1), ("gpt", "small", 32)),
)
DRY_STEPS = tuple((kind, "demo", 2) for kind in small_models.SMALL)
SAMPLED_IN = [p for p in PRECISIONS if p.dtype == "float32"]  # trainers train in float16, and sample in float32
LIMIT = 240  # seconds for one question: torch.compile has to compile twice
KEYS = ("task", "model", "preset", "batch", "precision")

# --- asking ----------------------------------------


def jobs(device) -> list:
    """All rows to be, the quickest contenders first: when time runs out, the most telling ones are there."""
    steps, samples = (DRY_STEPS, DRY_STEPS[:3]) if device.dry else (STEPS, SAMPLES)
    precisions = device.precisions()
    tasks = [("step", *job, p.name, steppers.contenders(job[0])) for p in precisions for job in steps]
    tasks += [("sample", *job, p.name, sampling.CONTENDERS) for p in precisions if p in SAMPLED_IN for job in samples]
    found = [{**dict(zip(KEYS, task)), "who": who} for *task, names in tasks for who in names]
    if device.dry:  # one model's compiling shows as much as all
        found = [job for job in found if job["who"] not in steppers.MODES or job["model"] == "gan"]
    order = steppers.contenders("gan")
    return sorted(found, key=lambda job: order.index(job["who"]))


def steps(device, until):
    """All rows, each as soon as it is there."""
    todo = jobs(device)
    if not device.dry:
        _compile([job for job in todo if job["who"] == "ours"], time.monotonic() + (until - time.monotonic()) / 3)
    rows: list = []
    for _, side in itertools.groupby(todo, key=lambda job: device.dry or job["who"] == "ours"):
        worker = Worker(worker_command("steps", device.dry))
        try:
            for job in side:
                rows.append(asked(worker, job, until, LIMIT))
                compare(rows)
                yield rows[-1]
        finally:
            worker.close()


def _compile(ours, until):
    workers = [Worker(worker_command("steps", dry=False)) for _ in range(COMPILERS)]
    try:
        compile_first(workers, ours, until)
    finally:
        for worker in workers:
            worker.close()


def cost(row) -> float:
    """What is compared: a step's time, or the time for an image or token."""
    return row["ms"] if row["task"] == "step" else 1e3 / row["per_second"]


def compare(rows):
    """Put the ratio to the best baseline so far into our row of what the last row is about."""
    same = [r for r in rows if r["passed"] and [r[k] for k in KEYS] == [rows[-1][k] for k in KEYS]]
    ours = next((r for r in same if r["who"] == "ours"), None)
    baselines = [r for r in same if r["who"] != "ours"]
    if ours and baselines:
        best = min(baselines, key=cost)
        ours.update(ratio=round(cost(best) / cost(ours), 3), best_baseline=best["who"])


def steps_summary(rows):
    """A line for each of our rows."""
    for row in rows:
        if row["passed"] and row.get("who") == "ours":
            rate = f"{row['per_second']:.0f} a second" if row["task"] == "sample" else f"{row['ms']} ms"
            ratio = f", {row['ratio']} x {row['best_baseline']}" if "ratio" in row else ""
            yield f"  {row['task']} {row['model']} {row['preset']} {row['batch']} {row['precision']}: {rate}{ratio}"


# --- answering ----------------------------------------


def answer_step(device, question) -> dict:
    """The child's answer to one question."""
    return outcome(_compiled if question["compile"] else _timed, device, question)


def _side(device, question) -> tuple:
    """(the contender, how many things a call of it makes in turn)"""
    batch, precision = question["batch"], next(p for p in PRECISIONS if p.name == question["precision"])
    device.set_torch(precision._replace(tf32=precision.name != "float32"))  # what float16 leaves over, as ours does
    if question["task"] == "step":
        begin = steppers.start(question["model"], question["preset"], batch, device.dry)
        return steppers.make(device, question["who"], begin, precision), 1
    t = steppers.trainer(question["model"], question["preset"], 1, device.dry)
    return sampling.make(device, question["who"], t, batch, precision), sampling.made(t)


def _compiled(device, question) -> dict:
    """Our side is made, which takes a step: all of its kernels are compiled then."""
    _side(device, question)
    return {}


def _timed(device, question) -> dict:
    """Losses, times and memory of one contender; what is wrong raises instead."""
    library = "cupy" if question["who"] == "ours" else "torch"
    side, made = _side(device, question)
    memory.tidy(device, library)
    before, clock = memory.free(device, library), timing.clock(device, library)

    def warm():
        f = side.build()
        for _ in range(steppers.WARM):
            f()
        return f

    f, mib = memory.peak(device, library, warm)
    step = question["task"] == "step"
    row = timing.in_a_row(f, clock, timing.IN_A_ROW if step and not device.dry else 1)
    more = {} if step else {"per_second": round(question["batch"] * made * 1e3 / row["wall_ms"], 1)}
    held = {"mib": mib, "driver_mib": round(before - memory.free(device, library), 1)}
    return {**row, **more, **held, "losses checked": side.off}

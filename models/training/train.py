"""The training loop: steps, a progress bar, metrics, samples and checkpoints along the way, and a clean end.

A checkpoint is complete before the next step begins and every line of metrics up to it is on disk before it, so a run
that is killed at any moment continues from the last checkpoint and ends in the same bits.
"""

import contextlib
import json
import math
import os
import signal
import threading
import time

from core import AnomalyError, detect_anomaly
from core.checkpoint import CheckpointError
from core.runtime import threads
from core.runtime.distributed import ALONE, RankError
from core.runtime.process_group import watched
from models.training.pictures import save_losses, save_samples, save_set
from models.training.progress import progress
from models.training.readings import Readings
from models.training.runs import Run, RunError, describe_device, note, versions

# Commands report these in one line.
ERRORS = (ValueError, LookupError, TypeError, OSError, RuntimeError, MemoryError, ArithmeticError)
STOPS = (signal.SIGINT, signal.SIGTERM)  # from a keyboard, from a scheduler


class Stopped(KeyboardInterrupt):
    """A signal has ended a run in an orderly way: its last step is saved, on several ranks by all of them."""


def train(run: Run, trainer, save_every: int | None = None, anomalies: bool = False):
    """Train to config.steps in `run`, with a checkpoint every `save_every` steps (by default five or more in a run).

    anomalies: name the operation that makes the first NaN or infinity, which takes longer. Ctrl-C and SIGTERM save and
    raise Stopped(exit code). Of several ranks all step, the first writes. Returns the seconds it took.
    """
    with _clear_errors(run):
        trainer.synchronise(run.settings["data"]["sha256"])
        started = time.perf_counter()
        _prepare(run, trainer)
    steps, done, first = trainer.config.steps, trainer.steps, trainer.group.rank == 0
    save_every = save_every or max(50, min(500, steps // 5))
    batches, readings, saved = trainer.batches("train"), Readings(trainer), True
    bar = progress(total=steps, initial=done, desc=trainer.kind, unit="step", disable=not first)
    log = open(run.metrics if first else os.devnull, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
    with _clear_errors(run), bar, log, _asked_to_stop() as stop:
        while done < steps and not trainer.group.any(stop):
            _step(trainer, readings, batches, anomalies)
            done += 1
            saved = done % save_every == 0 or done == steps
            for step, losses, seconds in readings.all() if saved else readings.ready():
                _log(run, trainer, step, losses, anomalies, seconds, log, bar)
            if saved:
                _save(run, trainer, done, log, anomalies)
        if not saved:  # a signal came, here or to another rank
            for step, losses, seconds in readings.all():
                _log(run, trainer, step, losses, anomalies, seconds, log, bar)
            _save(run, trainer, done, log, anomalies)
    if done < steps:
        note(f"stopped at step {done}; continue with --resume {run.folder}")
        raise Stopped(*(128 + number for number in stop[:1]))
    return time.perf_counter() - started


def _prepare(run, trainer):
    """The folder is as it was at this step."""
    done = trainer.steps
    if trainer.group.rank == 0:
        run.cut_metrics(done, trainer.METRICS)
        run.samples.mkdir(exist_ok=True)
        if done and not any(run.samples.glob(f"step_{done:06d}.*")):  # killed between a checkpoint and its pictures
            _show(run, trainer, done)
    _meet(trainer.group)


def _meet(group):
    """The others wait for the first rank, which alone writes; pictures of a large model may take it minutes."""
    with group.patient():
        group.any(False)


@contextlib.contextmanager
def _asked_to_stop():
    """A list that a signal of STOPS makes non-empty, so that a step is never left half done; a second ends at once."""
    stop: list = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield stop
        return

    def hear(number, frame):
        stop.append(number)
        restore()

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, hear) for number in STOPS}
    try:
        yield stop
    finally:
        restore()


@contextlib.contextmanager
def _clear_errors(run):
    """A write that fails, or a rank that does, ends the run in a line that says where, and what is kept."""
    try:
        yield
    except RankError as error:
        raise RunError(f"{error}; the last checkpoint is {run.saved() or 'not written yet'}") from None
    except OSError as error:
        what = f"{error.filename or run.metrics}: cannot be written ({error.strerror})" if error.errno else str(error)
        raise RunError(f"{what}; the last checkpoint is {run.saved() or 'not written yet'}") from None


def _step(trainer, readings, batches, anomalies):
    if not anomalies:
        readings.step(batches)
        return
    try:
        with detect_anomaly(trainer.model):
            readings.step(batches)
    except AnomalyError as error:
        raise RunError(f"{trainer.kind}: step {trainer.steps + 1}: {error}") from None


def _end(run, trainer, step, what, anomalies):
    """The error that ends a run whose numbers are not finite: what is kept, and how to find the cause."""
    saved, again = run.saved(), f"--resume {run.folder}" if run.saved() else "the same command"
    kept = f"the last healthy checkpoint is {saved}" if saved else "no checkpoint was written yet"
    look = "" if anomalies else f"; {again} with --detect-anomaly names the operation"
    return RunError(f"{trainer.kind}: {what} at step {step}; {kept}{look}")


def _log(run, trainer, step, losses, anomalies, seconds, log, bar):
    """One line of metrics, and the bar moves on. A loss that is not finite ends the run before it is saved."""
    if not all(math.isfinite(v) for v in losses.values()):
        raise _end(run, trainer, step, f"the loss is not finite ({losses})", anomalies)
    log.write(json.dumps({"step": step, **losses, "seconds": round(seconds, 5)}) + "\n")
    bar.set_postfix(
        {**{k: f"{v:.3f}" for k, v in losses.items()}, "per_s": f"{trainer.config.batch / seconds:.0f}"}, refresh=False
    )
    bar.update()


def _save(run, trainer, step, log, anomalies):
    if trainer.group.rank == 0:
        log.flush()
        os.fsync(log.fileno())
        try:
            run.save(trainer)
        except CheckpointError as error:
            raise _end(run, trainer, step, str(error), anomalies) from None
        _show(run, trainer, step)
    _meet(trainer.group)


def _show(run, trainer, step):
    """The curves, then samples: where these are, all that belongs to a step's checkpoint is."""
    with open(run.metrics, encoding="utf-8") as lines:
        save_losses(run.folder / "loss.png", lines)
    if trainer.KEPT:
        save_set(run.samples / f"set_{step:06d}.npz", trainer.sample(trainer.KEPT, seed=1))
    save_samples(run.samples / f"step_{step:06d}", trainer.sample(shown(trainer)), trainer.classes or None)


def shown(trainer) -> int:
    """How many samples are shown: with classes, which take turns, whole rows in which each stands once."""
    n, columns = trainer.SHOWN, trainer.classes or 1
    return -(-n // columns) * columns


def train_new(
    kind,
    trainer_type,
    *,
    preset,
    changes,
    seed,
    out,
    data_path,
    device,
    precision="fp32",
    graph=True,
    save_every=None,
    anomalies=False,
    accumulate=1,
    sync_batch_norm=False,
    group=ALONE,
):
    """Begin a run in folder `out` and finish it; (run, trainer, seconds). Without data it is the preset's."""
    data_path = trainer_type.Config.DATA.get(preset) if data_path is None else data_path
    config = trainer_type.Config.preset(preset, **changes)
    ranks = {"accumulate": accumulate, "sync_batch_norm": sync_batch_norm}
    group.share(config.batch, accumulate)  # refused before there is a folder
    run = Run.create(out, kind, preset, config, seed, data_path, device, precision, ranks=group.size, **ranks)
    with _held(run, group):
        options = {"device": device, "precision": precision, "graph": graph, "group": group, **ranks}
        if group.rank == 0:
            run.clear()
        trainer = trainer_type(config, seed=seed, data=data_path, **options)
        if group.rank == 0:
            run.write_settings()
            run.write_tokenizer(trainer)
        return run, trainer, train(run, trainer, save_every, anomalies)


def resume(
    folder, *, steps=None, device="cpu", graph=True, save_every=None, anomalies=False, accumulate=None, group=ALONE
):
    """Continue a run to `steps` in all, on as many ranks as there are now; (run, trainer, seconds)."""
    run = Run.open(folder)
    with _held(run, group):
        planned = run.config().steps
        accumulate = accumulate or run.settings.get("accumulate", 1)  # older runs name none of these
        ranks = {"accumulate": accumulate, "sync_batch_norm": run.settings.get("sync_batch_norm", False)}
        changes = {} if steps is None else {"steps": steps}
        trainer = run.trainer(device, {"group": group, **ranks}, **changes)
        trainer.graph = graph
        if trainer.config.steps < trainer.steps:
            raise RunError(f"{folder}: has {trainer.steps} steps already, --steps {steps} should be at least that")
        if group.rank == 0:
            _note_changes(run, trainer, planned, device)
        return run, trainer, train(run, trainer, save_every, anomalies)


@contextlib.contextmanager
def _held(run, group):
    """The first rank's process holds the run; what it says should the job be killed is agreed with its launcher."""
    line = f"error: a process of this job was killed; continue with --resume {run.folder}, on any number of ranks"
    with contextlib.nullcontext() if group.rank else run.locked(), watched(group, line):
        yield


def _note_changes(run, trainer, planned, device):
    """Write down and say what is not as it was when the run began."""
    folder, steps = run.folder, trainer.config.steps
    run.write_tokenizer(trainer)
    if steps != planned:
        note(f"{folder}: {planned} steps were planned; a schedule of the learning rate now reaches to {steps}")
        run.settings["config"]["steps"] = steps
        run.write_settings()
    now = {"threads": threads.COUNT, "versions": versions(), "device": describe_device(device)}
    now |= {"ranks": trainer.group.size, "accumulate": trainer.accumulate}
    for name, value in now.items():
        before = run.settings.get(name, 1 if name in ("ranks", "accumulate") else value)  # older runs name no device
        if before != value:
            note(f"{folder}: {name}: {before} when the run began, {value} now: the bits may not be the same")
            alone = name == "ranks" and not run.settings.get("sync_batch_norm")
            if trainer.norms and (alone or name == "accumulate"):
                note(f"{folder}: {name}: its batch norms now normalise other examples together")


def in_words(error) -> str:
    """An error of ERRORS in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).replace("\n", " ") or type(error).__name__


def exit_code(interrupt) -> int:
    """Of a command that a signal has ended: 128 + its number, as in a shell."""
    return interrupt.args[0] if interrupt.args else 128 + signal.SIGINT

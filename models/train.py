"""The training loop: steps, a progress bar, metrics, samples and checkpoints along the way, and a clean end.

A checkpoint is complete before the next step begins and every line of metrics up to it is on disk before it, so a run
that is killed at any moment continues from the last checkpoint and ends in the same bits.
"""

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time

from tqdm import tqdm

from core import threads
from models.pictures import save_losses, save_samples
from models.readings import Readings
from models.runs import Run, RunError, versions

ERRORS = (ValueError, IndexError, TypeError, OSError, RuntimeError, MemoryError)  # commands report them in one line
SAMPLES = {"gan": 64, "vae": 64, "gpt": 1, "seq2seq": 5}  # shown at each checkpoint


def train(run: Run, trainer, save_every: int | None = None):
    """Train to config.steps in `run`, with a checkpoint every `save_every` steps (by default five or more in a run).

    Ctrl-C saves and raises KeyboardInterrupt. Returns the seconds it took.
    """
    steps, done = trainer.config.steps, trainer.steps
    save_every = save_every or max(50, min(500, steps // 5))
    started = time.perf_counter()
    run.cut_metrics(done)
    batches, readings, saved = trainer.batches("train"), Readings(trainer), True
    bar = tqdm(total=steps, initial=done, desc=trainer.kind, unit="step", dynamic_ncols=True)
    with bar, open(run.metrics, "a", encoding="utf-8") as log, _asked_to_stop() as stop:
        while done < steps and not stop:
            readings.step(batches)
            done += 1
            saved = done % save_every == 0 or done == steps
            for step, losses, seconds in readings.all() if saved else readings.ready():
                _log(run, trainer, step, losses, seconds, log, bar)
            if saved:
                _save(run, trainer, done, log)
        if stop and not saved:
            for step, losses, seconds in readings.all():
                _log(run, trainer, step, losses, seconds, log, bar)
            _save(run, trainer, done, log)
    if done < steps:
        note(f"stopped at step {done}; continue with --resume {run.folder}")
        raise KeyboardInterrupt
    return time.perf_counter() - started


@contextlib.contextmanager
def _asked_to_stop():
    """A list that Ctrl-C makes non-empty, so that a step is never left half done; a second Ctrl-C stops at once."""
    stop: list = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield stop
        return

    def hear(number, frame):
        stop.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _log(run, trainer, step, losses, seconds, log, bar):
    """One line of metrics, and the bar moves on. A loss that is not finite ends the run before it is saved."""
    if not all(math.isfinite(v) for v in losses.values()):
        kept = f"the last checkpoint is {run.saved()}" if run.saved() else "no checkpoint was written yet"
        raise RunError(f"{trainer.kind}: the loss is not finite at step {step} ({losses}); {kept}")
    log.write(json.dumps({"step": step, **losses, "seconds": round(seconds, 5)}) + "\n")
    bar.set_postfix({**{k: f"{v:.3f}" for k, v in losses.items()}, "per_s": f"{trainer.config.batch / seconds:.0f}"})
    bar.update()


def _save(run, trainer, step, log):
    log.flush()
    os.fsync(log.fileno())
    run.save(trainer)
    save_samples(run.samples / f"step_{step:06d}", trainer.sample(SAMPLES[trainer.kind]))
    with open(run.metrics, encoding="utf-8") as lines:
        save_losses(run.folder / "loss.png", lines)


def train_new(kind, trainer_type, *, preset, changes, seed, out, data_path, device, save_every=None, graph=True):
    """Begin a run in folder `out` and finish it; (run, trainer, seconds)."""
    config = trainer_type.Config.preset(preset, **changes)
    run = Run.create(out, kind, preset, config, seed, data_path)
    with run.locked():
        run.clear()
        trainer = trainer_type(config, seed=seed, device=device, data=data_path, graph=graph)
        run.write_settings()
        run.write_tokenizer(trainer)
        return run, trainer, train(run, trainer, save_every)


def resume(folder, *, steps=None, device="cpu", save_every=None, graph=True):
    """Continue a run to `steps` in all; (run, trainer, seconds)."""
    run = Run.open(folder)
    with run.locked():
        planned = run.settings["config"]["steps"]
        trainer = run.trainer(device, **({} if steps is None else {"steps": steps}))
        trainer.graph = graph
        if trainer.config.steps < trainer.steps:
            raise RunError(f"{folder}: has {trainer.steps} steps already, --steps {steps} should be at least that")
        run.write_tokenizer(trainer)
        if trainer.config.steps != planned:
            note(f"{folder}: {planned} steps were planned; a schedule of the learning rate now reaches to {steps}")
            run.settings["config"]["steps"] = steps
            run.write_settings()
        for name, now in (("threads", threads.COUNT), ("versions", versions())):
            if run.settings[name] != now:
                note(f"{folder}: {name} differ from the run's ({run.settings[name]}, now {now}): not the same bits")
        return run, trainer, train(run, trainer, save_every)


def note(line):
    print(line, file=sys.stderr)

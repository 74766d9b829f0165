"""The part `graph`: a training step captured in one CUDA graph is the step itself, and costs the host less.

For each model, small: STEPS steps launched kernel by kernel against as many by a graph, from the same seed, and again
with a checkpoint in the middle that another trainer goes on from. All state arrays have the same bits. The launches of
a step are counted while it is captured; a replay makes none. A capture that fell back is a failure, with its reason; so
is one that was never replayed, and a step that launched no kernel: it would compare the reference with itself.

A dry run takes whatever `device.fake_gpu` puts in CuPy's place, and the reference for the kernels, of which it counts
none.
"""

import tempfile
import time
from pathlib import Path

import models
from bench.parity import small_models
from core.runtime.capture import WARM_UPS
from kernels import launch

STEPS, DRY_STEPS = 20, 8


def graph(device, until):
    """A row for each model."""
    with device.fake_gpu():
        for kind in models.MODELS:
            if time.monotonic() > until:
                yield {"case": kind, "passed": False, "fault": "not run: out of time"}
                continue
            try:
                yield {"case": kind, **compared(kind, DRY_STEPS if device.dry else STEPS, device.dry)}
            except Exception as error:
                yield {"case": kind, "passed": False, "fault": f"{type(error).__name__}: {error}"}


def compared(kind, steps, dry) -> dict:
    """Captured, not captured, and gone on with from a checkpoint: the row's other entries."""
    plain, captured = (small_models.trainer(kind, device="cuda", graph=graph) for graph in (False, True))
    timed = {name: taken(t, steps) for name, t in (("kernel_by_kernel", plain), ("graph", captured))}
    again = resumed(kind, steps)
    faults = [*_not_replayed(captured, steps), *_not_replayed(again, steps - steps // 2)]
    if not dry and not timed["kernel_by_kernel"]["launches"]:
        faults.append("no kernel was launched: the reference ran")
    wanted = on_host(plain)
    for name, t in (("captured", captured), ("resumed", again)):
        differ = small_models.different(wanted, on_host(t))
        faults += [f"{name}: other bits in {', '.join(differ[:3])}"] if differ else []
    if timed["graph"]["launches"]:
        faults.append(f"a replay launched {timed['graph']['launches']} kernels itself")
    return {"passed": not faults, "fault": faults[0] if faults else "", **timed}


def _not_replayed(trainer, steps):
    """What is wrong where the last `steps` steps, from a capture's warm-up on, were not all replays of a graph."""
    graph, wanted = trainer.captured, steps - WARM_UPS
    if graph.reason:
        yield f"not captured: {graph.reason}"
    elif graph.replays < wanted:
        yield f"{graph.replays} of {steps} steps were replays, should be {wanted}"


def taken(trainer, steps) -> dict:
    """Take `steps` steps; launches, and milliseconds of the host, for one of the later half: it waits for none."""
    batches = trainer.batches("train")
    for _ in range(steps // 2):
        trainer.step(next(batches), read=False)
    trainer.metrics()
    rest = [next(batches) for _ in range(steps - steps // 2)]
    began, before = time.perf_counter(), launch.COUNT.total()
    for batch in rest:
        trainer.step(batch, read=False)
    seconds, launches = time.perf_counter() - began, launch.COUNT.total() - before
    return {"launches": launches // len(rest), "host_ms": round(1000 * seconds / len(rest), 4)}


def resumed(kind, steps):
    """The second of two trainers that took as many steps by graphs, with a checkpoint between them."""
    first, second = (small_models.trainer(kind, seed=seed, device="cuda") for seed in (0, 1))
    small_models.run(second, 4)  # it has a graph of its own, of other values, when the checkpoint is loaded
    small_models.run(first, steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder) / "half")
        second.load(Path(folder) / "half")
    second.captured.replays = 0
    small_models.run(second, steps - steps // 2)
    return second


def on_host(trainer) -> dict:
    return {name: a.get() if hasattr(a, "get") else a for name, a in trainer.state().items()}

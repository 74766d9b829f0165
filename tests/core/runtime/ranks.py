"""mpirun -n N python -m tests.core.runtime.ranks FOLDER JOBS: what every rank does for
tests/core/runtime/test_distributed.py.

JOBS is a JSON list of [name, kind, seed, options]: each rank makes the small trainer of that kind and takes one step,
after which all ranks must hold the same bits; the first writes losses, gradients and state to FOLDER/name.npz. Before
that the ranks exchange arrays whose sums are known.
"""

import json
import os
import subprocess
import sys
import traceback
import warnings
import zlib
from unittest import mock

import numpy as np

from bench.cpu import distributed as cost
from bench.parity import small_models
from core.runtime import distributed, process_group
from core.runtime.buckets import Buckets
from tests import ROOT

MPIRUN = ROOT / ".venv" / "bin" / "mpirun"


def job(*programs):
    """The command that runs [(ranks, arguments of Python), ...] as the ranks of one job."""
    parts = [[":", "-n", str(n), sys.executable, *map(str, arguments)] for n, arguments in programs]
    return [str(MPIRUN), *[word for part in parts for word in part][1:]]


def launch(*programs):
    """Run such a job, one thread a rank, to its end; the finished process."""
    environment = {**os.environ, "ASSAY_THREADS": "1"}
    return subprocess.run(job(*programs), cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


def step(group, kind, seed, **options):
    """A trainer's step on the second batch of its data: {what: array} of losses, gradients and state."""
    t = small_models.trainer(kind, seed, group=group, **options)
    batches = t.batches("train")
    next(batches)
    found = {f"loss {name}": np.array(value, np.float32) for name, value in t.step(next(batches)).items()}
    found |= {f"gradient {name}": p.grad for name, p in t.model.named_parameters().items() if p.grad is not None}
    return found | {f"state {name}": np.array(a) for name, a in t.model.state_dict().items()}


def same_everywhere(group, arrays) -> bool:
    """Whether all ranks hold the bits of the first."""
    own = np.array([zlib.crc32(np.ascontiguousarray(a)) for a in arrays], np.int64)
    first = own.copy()
    group.broadcast_([first])
    return not group.any((own != first).any())


def exchange(group):
    """Sums of every length and dtype come to what they should, first rank first."""
    draw = lambda rank, n: np.random.default_rng([rank, n]).standard_normal(n, np.float32)
    for n in (1, 3, distributed.SMALL, distributed.SMALL + 1, 30_011):
        mine, expected = draw(group.rank, n), draw(0, n)
        group.sum_(mine)
        for rank in range(1, group.size):
            expected += draw(rank, n)
        assert mine.tobytes() == expected.tobytes(), f"a sum of {n} numbers"
    count = np.asarray(group.rank + 2**40)
    group.sum_(count)
    assert int(count) == group.size * 2**40 + sum(range(group.size))
    large = np.array([3e38, -np.inf if group.rank else np.inf], np.float32)
    with warnings.catch_warnings(action="error"):  # scaled gradients overflow at times
        group.sum_(large)
    assert np.isposinf(large[0]) and np.isnan(large[1])
    assert group.any(group.rank == group.size - 1) and not group.any(False)


def start(group):
    """Ranks that would begin with other parameters, and elsewhere in the data, begin as the first."""
    t = small_models.trainer("gan", seed=group.rank, group=group)
    next(t.batches("train"))
    t.order.position += group.rank
    t.synchronise()
    assert (t.seed, t.order.seed, t.generator.seed, int(t.order.position)) == (0, 0, 0, t.config.batch)
    assert same_everywhere(group, t.state().values())


def overlapped(group):
    """Sums begin while a backward pass still goes on, if they may, and that changes no bit of them."""
    found, early, finish = [], [], Buckets.finish

    def watched(buckets, values):
        early.append([bucket.begun for bucket in buckets.buckets[:-1]])
        return finish(buckets, values)

    with mock.patch.object(Buckets, "finish", watched):
        for group.overlap in (False, True):
            found.append([a.tobytes() for a in step(group, "vae", 0).values()])
    assert found[0] == found[1]
    assert len(early[1]) > 1 and not any(early[0]) and any(early[1])


def overflowed(group):
    """Float16 gradients that overflow, on one rank or on all, are left out on all, and nobody says a word about it."""
    t = small_models.trainer("gpt", precision="fp16", group=group)
    batches, before = t.batches("train"), small_models.snapshot(t)
    kept = {name for name in before if name.startswith(("model.", "optim."))}
    for from_, scale in ((group.size - 1, 2.0**15), (0, 2.0**14)):
        t.scales["loss"].scale[...] = 1e38 if group.rank >= from_ else 2 * scale
        with warnings.catch_warnings(action="error"):
            assert t.step(next(batches))["grad_norm"] == 0
        assert not kept & set(small_models.different(before, small_models.snapshot(t)))
        t.scales["loss"].scale[...] = scale
    assert t.step(next(batches))["grad_norm"] > 0
    assert "model.wte.weight" in small_models.different(before, small_models.snapshot(t))
    assert same_everywhere(group, t.model.state_dict().values())


def tried(group):
    """The sums on which bench/cpu/distributed.py tries its model out leave every gradient what it would have been."""
    found, group.overlap = [], False
    for trial in (None, *cost.TRIALS):
        t = small_models.trainer("vae", group=group)
        batches = t.batches("train")
        t.step(next(batches))
        t.buckets = cost.Timed.instead_of(t.buckets)
        for buckets in t.buckets.values():
            buckets.trial = trial
        t.step(next(batches))
        found.append([p.grad.tobytes() for p in t.model.parameters()])
    assert all(one == found[0] for one in found)


def main(folder, jobs):
    group = process_group.current()
    exchange(group)
    start(group)
    overflowed(group)
    tried(group)
    overlapped(group)
    for name, kind, seed, options in json.loads(jobs):
        found = step(group, kind, seed, **options)
        assert same_everywhere(group, found.values()), f"{name}: ranks differ"
        if group.rank == 0:
            np.savez(f"{folder}/{name}.npz", **found)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception:
        traceback.print_exc()
        process_group.current().end(1)  # the others would wait for this one

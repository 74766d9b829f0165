"""Long runs: memory stays flat, steps do not become slower, and a step leaves nothing for the garbage collector.

A child process trains one model and writes down, after each step, its resident memory and how long the step took: in
processor time, since time on the wall would measure the machine's other work, and over a fixed piece of work that is
timed right after it, which other work slows as much. Freed memory stays with the process (core/runtime/memory.py), so
that what is resident is what was held at once at most. An ordinary run takes 150 steps of small models, a full one
2,000 of the demo's.

How much may change is taken from the same run: memory from the end of its first fifth on may grow by no more than
twice what it swung by within that fifth's second half, or by 1 MiB (a page here and there), where a leak of 4 KiB a
step would come to 6 MiB in 2,000; the last tenth's median step by no more than 10% and four standard errors of the
two medians. A machine that turns slow half-way does look like that: a run that has is repeated, twice at most; what is
in the program is there each time.
"""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest

from bench.parity import small_models
from tests import ROOT

MiB, ATTEMPTS = 2**20, 3
CODE = """
import json, resource, sys, time
import numpy as np
import models
from bench.parity import small_models

kind, demo, steps, leak = json.loads(sys.argv[1])
trainer = models.MODELS[kind](seed=0) if demo else small_models.trainer(kind)
batches, kept = trainer.batches("train"), []
memory, times = np.ones(steps, np.int64), np.ones((steps, 2))  # written before, so that watching itself takes no memory
page, a = resource.getpagesize(), np.ones((128, 128), np.float32)

def timed(work):
    began = time.process_time()
    work()
    return time.process_time() - began

def baseline():
    for i in range(20):
        (a @ a).sum(), sum(range(1000))

for i in range(steps):
    batch = next(batches)
    took = timed(lambda: trainer.step(batch))
    times[i] = took, took / timed(baseline)
    if leak:
        kept.append(bytearray(leak))
    with open("/proc/self/statm") as f:
        memory[i] = int(f.read().split()[1]) * page
print(json.dumps([memory.tolist(), times.tolist()]))
"""


def watched(kind, demo, steps, leak=0):
    """Resident bytes after each step; processor seconds that it took, and over those of the
    reference work. `leak` bytes are kept of each step."""
    command = [sys.executable, "-c", CODE, json.dumps([kind, demo, steps, leak])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    memory, times = map(np.array, json.loads(done.stdout))
    return memory, times[:, 0], times[:, 1]


def growth(memory):
    """(how much memory grew after a warm-up of a fifth of the run, how much of that may be noise), in bytes."""
    fifth = len(memory) // 5
    settled, last = memory[fifth // 2 : fifth], memory[-fifth:]
    return np.median(last) - settled.max(), max(2 * (settled.max() - settled.min()), MiB)


def slowing(times):
    """(the last tenth's median step over the second tenth's, the largest ratio that may be noise)."""
    tenth = len(times) // 10
    early, late = times[tenth : 2 * tenth], times[-tenth:]
    errors = [1.25 * np.std(t) / np.sqrt(tenth) / np.median(t) for t in (early, late)]  # of a median, relative
    return np.median(late) / np.median(early), 1.1 + 4 * np.hypot(*errors)


def check(kind, demo, steps):
    for _ in range(ATTEMPTS):
        memory, times, relative = watched(kind, demo, steps)
        (grew, most), (ratio, highest) = growth(memory), slowing(relative)
        print(
            f"{kind}: {steps} steps, grew {grew / MiB:.2f} MiB of {most / MiB:.2f}, {memory[-1] / MiB:.0f} MiB in all; "
        )
        print(f"step time {np.median(times) * 1e3:.1f} ms, last tenth {ratio:.3f} of the second, at most {highest:.3f}")
        assert grew <= most
        if ratio <= highest:
            return
    raise AssertionError(
        f"{kind}: steps became slower {ATTEMPTS} times, at last {ratio:.3f} where {highest:.3f} may be noise"
    )


@pytest.mark.parametrize("kind", ["gan", "gpt"])
def test_memory_and_step_time_stay_as_they_were(kind):
    check(kind, demo=False, steps=150)


@pytest.mark.full
@pytest.mark.parametrize("kind", small_models.SMALL)
def test_memory_and_step_time_stay_as_they_were_for_2000_steps(kind):
    check(kind, demo=True, steps=2000)


def test_a_leak_and_a_slowdown_would_be_seen():
    """In a real run that keeps 32 KiB of each step; in times that grow by a fifth."""
    memory, *_ = watched("gpt", False, 150, leak=2**15)
    grew, most = growth(memory)
    assert grew > most
    times = np.random.default_rng(0).normal(1, 0.05, 2000)
    assert slowing(times)[0] < slowing(times)[1]
    times *= np.linspace(1, 1.25, 2000)
    assert slowing(times)[0] > slowing(times)[1]


@pytest.mark.parametrize("kind", small_models.SMALL)
def test_a_step_leaves_no_cycles(kind):
    """Graphs are freed by counting references alone: with the collector off, a step leaves it nothing to find."""
    t = small_models.trainer(kind)
    small_models.run(t, 2)
    gc.collect()
    gc.disable()
    try:
        small_models.run(t, 3)
        assert gc.collect() == 0
    finally:
        gc.enable()

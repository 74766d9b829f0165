"""How time and memory grow: `assay bench scaling`, bench/results/scaling.json and docs/images/scaling.png.

Attention over T tokens and linear cross entropy over V words, forward and backward, by kernels and by the reference,
which holds all scores, or a chunk of the logits. Every point is a process of its own: seconds are the least of three,
memory is the most held during the pass beyond what was held before it.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from matplotlib import pyplot as plt

import core.functional as F
from bench.cpu import step, worker
from core import Tensor, use
from models.training.progress import progress

TOKENS = tuple(2**i for i in range(8, 14))  # 256 to 8,192
WORDS = tuple(2**i for i in range(10, 18))  # 1,024 to 131,072
SERIES = {"attention": ("tokens T", TOKENS), "linear_cross_entropy": ("words V", WORDS)}
MODES = ("kernels", "reference")
RESULTS = step.RESULTS.parent / "scaling.json"
PICTURE = step.RESULTS.parent.parent.parent / "docs" / "images" / "scaling.png"


def work(what, size):
    """A forward and backward pass, as a function."""
    draw = lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32)
    if what == "attention":  # (B, h, T, d)
        q, k, v = (Tensor(draw(1, 4, size, 64), requires_grad=True) for _ in range(3))
        return lambda: F.attention(q, k, v, causal=True).backward(q.data)
    x, w = Tensor(draw(1024, 128), requires_grad=True), Tensor(draw(size, 128) / 11, requires_grad=True)
    target = np.arange(1024) % size
    return lambda: F.linear_cross_entropy(x, w, target).backward()


def point(what, size, mode):
    """Print one point as JSON."""
    f = work(what, size)
    with use(mode):
        work(what, 64)()  # loads the kernels
        worker.reset_peak()
        before = worker.peak()
        seconds = [worker.timed(f)]
        mib = worker.peak() - before
        seconds += [worker.timed(f) for _ in range(2)]
    print(json.dumps({"what": what, "size": size, "mode": mode, "seconds": min(seconds), "mib": round(mib, 1)}))


def run(args):
    jobs = [(what, size, mode) for what, (_, sizes) in SERIES.items() for size in sizes for mode in MODES]
    found = []
    for job in progress(jobs, "points"):
        command = [sys.executable, "-m", "bench.cpu.scaling", *map(str, job)]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n", encoding="utf-8")
    draw(found)


def draw(found):
    """Both series, time above and memory below, with a line of slope one."""
    fig, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for column, (what, (label, sizes)) in zip(axes.T, SERIES.items()):
        for axis, key, unit in zip(column, ("seconds", "mib"), ("seconds", "MiB beyond the inputs")):
            for mode, style in zip(MODES, ("tab:orange", "0.5")):
                values = [p[key] for p in found if (p["what"], p["mode"]) == (what, mode)]
                axis.loglog(sizes, np.maximum(values, 0.1 if key == "mib" else 0), "o-", color=style, label=mode)
            ours = [p[key] for p in found if (p["what"], p["mode"]) == (what, "kernels")]
            axis.loglog(sizes, ours[-1] * np.array(sizes) / sizes[-1], "k:", label="in proportion")
            axis.set_xscale("log", base=2)
            axis.set(xlabel=label, ylabel=unit, title=what.replace("_", " "))
            axis.legend()
    fig.savefig(PICTURE, dpi=90, metadata={"Software": None})
    plt.close(fig)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.cpu.scaling", description="One point of the picture.")
    parser.add_argument("what", choices=SERIES)
    parser.add_argument("size", type=int)
    parser.add_argument("mode", choices=MODES)
    point(**vars(parser.parse_args()))

"""One side of a comparison, in a process of its own: `python -m bench.worker SIDE MODEL ...`, driven by bench/step.py.

It builds the model, takes steps to warm up, and answers each line on its input, a number of steps, by a line of JSON:
{"seconds": of each step, "peak": MiB}, the highest memory held since warming up. The side "torch" first takes one step
together with ours, on the same batch, noise and masks: what is timed has to agree.
"""

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from core import random
from models import MODELS

TOLERANCE = 1e-3  # of a loss after one step: a different model would be off by far more, rounding by far less


def build(args):
    """(a function that takes one step on a batch, four batches)"""
    config = MODELS[args.model].Config.preset(args.preset, **({"batch": args.batch} if args.batch else {}))
    trainer = MODELS[args.model](config)
    batches = [tuple(np.array(a) for a in batch) for batch in itertools.islice(trainer.batches("train"), 4)]
    if args.side == "ours":
        return trainer.step, batches
    import torch

    from bench.twins import TWINS

    torch.set_num_threads(args.threads)
    twin = TWINS[args.model](trainer, memory_format=getattr(torch, args.format), fused=True)
    check(trainer, twin, batches[0])
    if args.compile:
        twin.train_step = torch.compile(twin.train_step)
    return twin.step, batches


def check(trainer, twin, batch):
    """Raise ValueError unless both sides have the same losses on one batch."""
    with random.record() as draws:
        ours = trainer.step(batch)
    theirs = twin.step(batch, draws)
    twin.feed(None)
    for name, value in theirs.items():
        if not abs(ours[name] - value) <= TOLERANCE * max(1, abs(value)):
            raise ValueError(f"{name} is {ours[name]} with us and {value} with torch: nothing is timed")


def peak() -> float:
    """The most memory this process has held since `reset_peak`, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=("ours", "torch"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--batch", type=int, default=0, help="0, the default: the preset's")
    parser.add_argument("--threads", type=int, default=1, help="torch's; ours are ASSAY_THREADS")
    parser.add_argument("--format", default="contiguous_format", help="torch's memory format")
    parser.add_argument("--compile", action="store_true", help="torch.compile the step")
    args = parser.parse_args()
    step, ready = build(args)
    for batch in ready[:2]:
        step(batch)
    reset_peak()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds = []
        for i in range(int(line)):
            began = time.perf_counter()
            step(ready[i % len(ready)])
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "peak": peak()}), flush=True)


if __name__ == "__main__":
    main()

"""One side of a comparison, in a process of its own: `python -m bench.cpu.worker`, which bench/cpu/interleaved.py
starts and asks.

step SIDE MODEL   takes training steps; asked for a number of them, it answers {"seconds": of each, "peak": MiB}, the
                  most memory held since warming up. The side "torch" first takes one step together with ours, on the
                  same batch, noise and masks: what is timed has to agree
ops SIDE          runs single operations; asked [case, who, pass, times], it answers {"seconds": of each}. The first
                  time it checks outputs and gradients against float64, and answers {"fault": ...} where they are off
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
from core.runtime import memory
from models import MODELS

TOLERANCE = 1e-3  # of a loss after one step: a different model would be off by far more, rounding by far less


def stepper(args):
    """The function that answers questions about a model's step."""
    config = MODELS[args.model].Config.preset(args.preset, **({"batch": args.batch} if args.batch else {}))
    trainer = MODELS[args.model](config)
    batches = [tuple(np.array(a) for a in batch) for batch in itertools.islice(trainer.batches("train"), 4)]
    step = trainer.step if args.side == "ours" else counterpart_of(trainer, args, batches[0]).step
    for batch in batches[:2]:
        step(batch)
    reset_peak()
    return lambda steps: {"seconds": [timed(step, batches[i % 4]) for i in range(steps)], "peak": peak()}


def counterpart_of(trainer, args, batch):
    """The trainer's counterpart in torch, after a step in which both had the same losses."""
    import torch

    from bench.torch_models import COUNTERPARTS

    torch.set_num_threads(args.threads)
    counterpart = COUNTERPARTS[args.model](trainer, memory_format=getattr(torch, args.format), fused=True)
    with random.record() as draws:
        ours = trainer.step(batch)
    theirs = counterpart.step(batch, draws)
    counterpart.feed(None)
    for name, value in theirs.items():
        if not abs(ours[name] - value) <= TOLERANCE * max(1, abs(value)):
            raise ValueError(f"{name} is {ours[name]} with us and {value} with torch: nothing is timed")
    if args.compile:
        for name in counterpart.PARTS:
            setattr(counterpart, name, torch.compile(getattr(counterpart, name)))
    return counterpart


def operations(args):
    """The function that answers questions about operations."""
    if args.side == "torch":
        import torch

        torch.set_num_threads(args.threads)
    else:
        memory.keep_freed()  # as trainers do
    from bench.cpu import ops

    known: dict = {}

    def answer(question):
        case, who, what, times = question
        if (case, who) not in known:
            known.clear()  # one case's arrays at a time
            known[case, who] = ops.prepare(case, who)
        found = known[case, who]
        if isinstance(found, str):
            return {"fault": found}
        return {"seconds": [timed(getattr(found, what)) for _ in range(times)]}

    return answer


def timed(f, *arguments) -> float:
    began = time.perf_counter()
    f(*arguments)
    return time.perf_counter() - began


def peak() -> float:
    """The most memory this process has held since `reset_peak`, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.cpu.worker", description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    stepping, ops = kinds.add_parser("step"), kinds.add_parser("ops")
    for kind in (stepping, ops):
        kind.add_argument("side", choices=("ours", "torch"))
        kind.add_argument("--threads", type=int, default=1, help="torch's; ours are ASSAY_THREADS")
    stepping.add_argument("model", choices=MODELS)
    stepping.add_argument("--preset", default="demo")
    stepping.add_argument("--batch", type=int, default=0, help="0, the default: the preset's")
    stepping.add_argument("--format", default="contiguous_format", help="torch's memory format")
    stepping.add_argument("--compile", action="store_true", help="torch.compile the step")
    args = parser.parse_args()
    answer = stepper(args) if args.kind == "step" else operations(args)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

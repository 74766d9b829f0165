"""A training step beside its twin in PyTorch: `python -m bench step MODEL [--preset P] --batch N [--compile]`.

Each side runs in a process of its own, and they take turns: A B A B. Whoever waits is stopped by a signal, because the
spinning threads of the one would take the other's cores. torch has its best setting: fused Adam, and of OMP_WAIT_POLICY
active and passive, and for images of both memory formats, what is fastest in a first round; if it is faster on one
thread than on all, both sides have one. The ratio is the median over pairs of turns, with its 10 to 90 % spread.
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import threads

IMAGES = ("gan", "vae", "diffusion")
TURN = 1.0  # seconds
PAIRS = 15
LOST = 0.05  # of a core's time: with more, somebody else is using it
RESULTS = Path(__file__).parent / "results" / "cpu.json"


class Side:
    """A worker process, stopped except during its turns."""

    def __init__(self, name, args, count, policy="passive", memory_format="contiguous_format", compiled=False):
        self.label = name if name == "ours" else f"{policy}, {memory_format.split('_')[0]}, {count} threads"
        options = ["--preset", args.preset, "--batch", str(args.batch), "--threads", str(count)]
        options += ["--format", memory_format, *(["--compile"] if compiled else [])]
        environment = {
            **os.environ,
            "OMP_WAIT_POLICY": policy,
            "ASSAY_THREADS": str(count),
            "OMP_NUM_THREADS": str(count),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", name, args.model, *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps, self.peak = 1, 0.0
        self._answer()
        self.process.send_signal(signal.SIGSTOP)
        self.steps = max(1, round(TURN / self.turn()))

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"the process of {self.label} ended: see above")
        return json.loads(line)

    def turn(self) -> float:
        """Median seconds of a step in one turn."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        self.peak = answer["peak"]
        return statistics.median(answer["seconds"])

    def close(self):
        self.process.kill()
        self.process.wait()


def check_idle():
    """Raise ValueError if a core is in use: each is spun for a second, and has to get that second."""
    spin = "import time\nb = time.perf_counter()\nwhile time.perf_counter() - b < 1: pass\nprint(time.process_time())"
    began = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(threads.COUNT)]
    lost = max(1 - float(p.communicate()[0]) for p in began)
    if lost > LOST:
        raise ValueError(f"a core lost {lost:.0%} of a second to other programs: timings would be wrong (see --anyway)")


def best_torch(args) -> Side:
    """torch in the setting that is fastest here."""
    formats = ("contiguous_format", "channels_last") if args.model in IMAGES else ("contiguous_format",)
    settings = [(threads.COUNT, *s) for s in itertools.product(("active", "passive"), formats)]
    best = _fastest(args, settings)
    if threads.COUNT > 1:
        best = _fastest(args, [best, (1, "passive", best[2])])
    return Side("torch", args, *best, compiled=args.compile)


def _fastest(args, settings):
    times = {}
    for setting in tqdm(settings, "torch's settings", leave=False):
        side = Side("torch", args, *setting)
        times[setting] = min(side.turn() for _ in range(3))
        side.close()
    return min(times, key=times.get)


def compare(args) -> dict:
    """Both sides, turn by turn: a row for the table."""
    if not args.anyway:
        check_idle()
    torch = best_torch(args)
    ours = Side("ours", args, int(torch.label.split()[-2]))
    try:
        pairs = [(ours.turn(), torch.turn()) for _ in tqdm(range(args.pairs), "pairs of turns")]
    finally:
        ours.close()
        torch.close()
    ratios = [b / a for a, b in pairs]
    low, high = np.quantile(ratios, (0.1, 0.9))
    return {
        "model": args.model,
        "preset": args.preset,
        "batch": args.batch,
        "compiled": args.compile,
        "torch": torch.label,
        "ours_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "torch_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "low": float(low),
        "high": float(high),
        "ours_mib": ours.peak,
        "torch_mib": torch.peak,
    }


def run(args):
    row = compare(args)
    print(f"torch: {row['torch']}{', torch.compile' if args.compile else ''}; seconds of a step are medians")
    print(f"ours  {row['ours_ms']:8.1f} ms   peak {row['ours_mib']:6.0f} MiB")
    print(f"torch {row['torch_ms']:8.1f} ms   peak {row['torch_mib']:6.0f} MiB")
    print(f"ratio torch/ours: {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
    if args.record:
        record(row)


def record(row):
    """Put the row into bench/results/cpu.json, in place of one of the same model, preset and batch."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    key = lambda r: (r["model"], r["preset"], r["batch"], r["compiled"])
    rows = sorted([*(r for r in rows if key(r) != key(row)), {**row, "date": time.strftime("%Y-%m-%d")}], key=key)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

"""A training step beside its counterpart in PyTorch: `assay bench step MODEL [--preset P] --batch N [--compile]`.

Each side has a process of its own, and they take turns (bench/cpu/interleaved.py). torch has its best setting: fused
Adam, and of OMP_WAIT_POLICY active and passive, and for images of both memory formats, what is fastest in a first
round; if it is faster on one thread than on all, both sides have one. The ratio is the median over pairs of turns."""

import itertools
import json
import statistics
import time
from pathlib import Path

from bench.cpu.interleaved import Setting, Side, check_idle, quantiles
from core.runtime import threads
from models import MODELS
from models.training.progress import progress

IMAGES = ("gan", "vae", "diffusion")
TURN = 1.0  # seconds
PAIRS = 15
RESULTS = Path(__file__).parents[1] / "results" / "cpu-steps.json"


class Stepper(Side):
    """One side's model."""

    def __init__(self, who, args, setting: Setting, compiled=False):
        options = ["--preset", args.preset, "--batch", str(args.batch), "--format", setting.memory_format]
        super().__init__(["step", who, args.model, *options, *(["--compile"] if compiled else [])], setting)
        self.steps, self.peak = 1, 0.0
        self.steps = max(1, round(TURN / self.turn()))

    def turn(self) -> float:
        """Median seconds of a step in one turn."""
        answer = self.ask(self.steps)
        self.peak = answer["peak"]
        return statistics.median(answer["seconds"])


def best_setting(args) -> Setting:
    """The setting in which torch is fastest here."""
    formats = ("contiguous_format", "channels_last") if args.model in IMAGES else ("contiguous_format",)
    policies = ("active", "passive")
    best = _fastest(args, [Setting(threads.COUNT, p, f) for p, f in itertools.product(policies, formats)])
    return _fastest(args, [best, best._replace(threads=1)]) if threads.COUNT > 1 else best


def _fastest(args, settings) -> Setting:
    times = []
    for setting in progress(settings, "torch's settings", leave=False):
        side = Stepper("torch", args, setting)
        times.append((min(side.turn() for _ in range(3)), setting))
        side.close()
    return min(times)[1]


def compare(args) -> dict:
    """Both sides, turn by turn: a row for the table."""
    if not args.anyway:
        check_idle()
    setting = best_setting(args)
    torch, ours = Stepper("torch", args, setting, args.compile), Stepper("ours", args, Setting(setting.threads))
    try:
        pairs = [(ours.turn(), torch.turn()) for _ in progress(range(args.pairs), "pairs of turns")]
    finally:
        ours.close()
        torch.close()
    return {
        **{name: getattr(args, name) for name in ("model", "preset", "batch", "compile")},
        "torch": str(setting),
        "ours_ms": round(1e3 * statistics.median(a for a, _ in pairs), 2),
        "torch_ms": round(1e3 * statistics.median(b for _, b in pairs), 2),
        **quantiles([b / a for a, b in pairs]),
        "ours_mib": round(ours.peak),
        "torch_mib": round(torch.peak),
    }


def run(args):
    preset = MODELS[args.model].Config.preset(args.preset)  # which refuses a name it does not know
    args.batch = args.batch or preset.batch
    row = compare(args)
    print(f"torch: {row['torch']}{', torch.compile' if args.compile else ''}; seconds of a step are medians")
    print(f"ours  {row['ours_ms']:8.1f} ms   peak {row['ours_mib']:6.0f} MiB")
    print(f"torch {row['torch_ms']:8.1f} ms   peak {row['torch_mib']:6.0f} MiB")
    if args.record:
        record(RESULTS, [row], ("model", "preset", "batch", "compile"))
    print(f"ratio torch/ours: {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})")


def record(path, rows, key):
    """Put rows into a file of results, each in place of the one that has the same `key`."""
    name = lambda row: [row[k] for k in key]
    new = [name(row) for row in rows]
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    date = {"date": time.strftime("%Y-%m-%d")}
    kept = [row for row in old if name(row) not in new] + [{**row, **date} for row in rows]
    lines = ",\n".join(json.dumps(row) for row in sorted(kept, key=name))
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")

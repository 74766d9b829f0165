"""What is measured, and what is made of the measurements.

assay bench step MODEL a training step beside PyTorch's, in turns; --help says how
assay bench ops [PATTERN] single operations beside PyTorch's
assay bench scaling    time and memory of attention and linear cross entropy as they grow, and a picture
assay bench distributed  training steps of 1 and 2 ranks, what their sums take, and what a model says they take
assay bench presets    parameters and seconds a training step of every model and preset, as a Markdown table
assay bench report     the tables, pages and pictures of bench/results again, each GPU's too, and docs/results.md
"""

import resource
import statistics
import subprocess
import sys
import time

from bench.cpu import step
from models import MODELS
from models.training.commands import Parser, positive

# Batches that a machine of 24 GB can hold; the presets' own where they are not named.
BATCHES = {("gpt", "paper"): 1, ("seq2seq", "paper"): 32}


def measure(kind, preset, batch, steps):
    """One row: a warm-up step, then the median of `steps`, and the most memory the process held."""
    config = MODELS[kind].Config.preset(preset, **({"batch": batch} if batch else {}))
    trainer = MODELS[kind](config, data=config.DATA.get(preset))
    batches = trainer.batches("train")
    seconds = []
    for _ in range(steps + 1):
        arrays = next(batches)
        began = time.perf_counter()
        trainer.step(arrays)
        seconds.append(time.perf_counter() - began)
    parameters = sum(p.size for p in trainer.model.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    median = statistics.median(seconds[1:])
    print(f"| {kind} | {preset} | {parameters:,} | {config.batch} | {median:.3g} | {peak:.2g} |", flush=True)


def presets(args):
    """Every row in a process of its own, so that its memory is its own."""
    print(
        "| model | preset | parameters | batch | seconds a step | peak GiB |\n|---|---|---:|---:|---:|---:|", flush=True
    )
    for kind, trainer in MODELS.items():
        for preset in trainer.Config.PRESETS:
            batch = BATCHES.get((kind, preset), 0)
            options = ["--model", kind, "--preset", preset, "--batch", str(batch), "--steps", str(args.steps)]
            if subprocess.run([sys.executable, "-m", "bench.command", "bench", "row", *options]).returncode:
                sys.exit(f"error: the row of {kind} {preset} failed")


def report(args):
    """Needs torch, whose results it compares with: imported here, so that `presets` does without."""
    from bench.cpu import distributed, speed
    from bench.gpu import report as gpu_report
    from bench.parity.tables import write_parity

    write_parity()
    speed.write()
    gpu_report.write()
    distributed.write()


def run_ops(args):
    """Needs torch for its cases: imported here, as above."""
    from bench.cpu import ops

    ops.run(args)


def run_scaling(args):
    """Needs matplotlib: imported here, as above."""
    from bench.cpu import scaling

    scaling.run(args)


def run_distributed(args):
    from bench.cpu import distributed

    distributed.run(args)


def main(arguments=None) -> int:
    parser = Parser(prog="assay bench", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    all_rows = commands.add_parser("presets", help="the whole table")
    all_rows.set_defaults(run=presets)
    commands.add_parser("report", help="tables and pictures from bench/results").set_defaults(run=report)
    stepping = commands.add_parser("step", help="a training step beside its counterpart in PyTorch")
    stepping.add_argument("model", choices=MODELS)
    stepping.add_argument("--preset", default="demo", help="default demo")
    stepping.add_argument("--batch", type=positive, default=0, help="default the preset's")
    stepping.add_argument("--compile", action="store_true", help="torch.compile the counterpart")
    stepping.set_defaults(run=step.run)
    single = commands.add_parser("ops", help="single operations beside PyTorch's")
    single.add_argument("pattern", nargs="?", default="", help="only cases whose name holds this")
    single.set_defaults(run=run_ops)
    ranks = commands.add_parser("distributed", help="what ranks cost, on an idle machine")
    ranks.add_argument("model", nargs="?", choices=MODELS, help="default all")
    ranks.add_argument("--runs", type=positive, default=5, help="jobs of each; default 5")
    ranks.add_argument("--anyway", action="store_true", help="measure though other programs use the cores")
    ranks.add_argument("--record", action="store_true", help="keep the rows in bench/results/distributed.json")
    ranks.set_defaults(run=run_distributed)
    commands.add_parser("scaling", help="how time and memory grow").set_defaults(run=run_scaling)
    for command, pairs, file in ((stepping, step.PAIRS, step.RESULTS), (single, 9, "bench/results/cpu-ops.json")):
        command.add_argument("--pairs", type=positive, default=pairs, help=f"turns of each; default {pairs}")
        command.add_argument("--anyway", action="store_true", help="measure though other programs use the cores")
        command.add_argument("--record", action="store_true", help=f"keep the rows in {file}")
    row = commands.add_parser("row", help="one row of it")
    row.add_argument("--model", choices=MODELS, required=True)
    row.add_argument("--preset", default="demo", help="default demo")
    row.add_argument("--batch", type=int, default=0, help="0, the default: the preset's")
    row.set_defaults(run=lambda a: measure(a.model, a.preset, a.batch, a.steps))
    for command in (all_rows, row):
        command.add_argument("--steps", type=positive, default=5, help="steps timed, after one that is not")
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

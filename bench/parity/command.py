"""`assay parity`: a function of yours, or everything of ours, held to the accuracy rule of bench/parity/rule.py."""

import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import core.functional
from models.training.commands import Parser


def load(place: str):
    """The function at "path/to/file.py:name" or "package.module:name"."""
    where, _, name = place.rpartition(":")
    if not where:
        raise ValueError(f"{place!r} should be FILE.py:NAME or MODULE:NAME")
    if where.endswith(".py"):
        if not Path(where).exists():
            raise ValueError(f"{where}: no such file")
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert spec and spec.loader  # of a file that ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise ValueError(f"{where} cannot be imported: {error}") from None
    if not hasattr(module, name):
        raise ValueError(f"{where} has no {name}")
    return getattr(module, name)


def report(rows) -> int:
    """Print every comparison that failed and a summary; how many failed."""
    broken = [f"{name}: {outcome}" for name, outcome in rows if isinstance(outcome, str)]
    refused = Counter(line.partition(": not supported: ")[2] for line in broken if ": not supported: " in line)
    found = [c for _, outcome in rows if not isinstance(outcome, str) for c in outcome]
    failed = [f"{c.case}: {c.what}: FAILED: {c.verdict.fault}" for c in found if c.verdict.fault]
    failed += [line for line in broken if ": not supported: " not in line]
    ratios = [c.verdict.ratio for c in found if c.verdict.entries and not c.verdict.fault]
    print(*failed, sep="\n", end="\n" if failed else "")
    for why, count in refused.items():
        print(f"{count} cases not supported: {why}")
    print(f"{len(rows) - refused.total()} cases tested: {len(ratios)} comparisons pass, {len(failed)} fail")
    if ratios:
        print(f"median error where it passes: {np.median(ratios):.2f} of torch's")
    return len(failed)


def parser():
    p = Parser(
        prog="assay parity",
        description="Test a function of yours against a float64 oracle, by PyTorch's own error, on Assay's cases.",
        epilog="The rule is in the docstring of bench/parity/rule.py; docs/your-own-function.md has an example.",
    )
    p.add_argument(
        "op", nargs="?", metavar="OP", help="the function of core.functional that yours stands for: attention, ..."
    )
    p.add_argument("function", nargs="?", metavar="FILE:FUNCTION", help="yours: FILE.py:NAME or MODULE:NAME")
    p.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    p.add_argument(
        "--takes", default="torch", choices=("torch", "assay"), help="torch tensors (default) or Assay's Tensors"
    )
    p.add_argument("--device", default="cpu", help="where torch tensors live: cpu (default) or cuda")
    p.add_argument("--forward-only", action="store_true", help="do not ask for gradients")
    p.add_argument("--case", default="", help="only cases whose name holds this")
    p.add_argument("--list", action="store_true", help="list the cases of OP and stop")
    p.add_argument(
        "--report", action="store_true", help="everything of ours, written to bench/results/parity.md and .html"
    )
    p.add_argument("--no-trajectories", action="store_true", help="with --report: keep the recorded training curves")
    return p


def main(arguments=None) -> int:
    p = parser()
    args = p.parse_args(arguments)
    if not args.report and (args.op is None or (args.function is None and not args.list)):
        p.error("give OP and FILE:FUNCTION, or OP --list, or --report")
    try:
        if args.report:
            from bench.parity.report import make

            return make(trajectories_too=not args.no_trajectories)
        return _yours(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _yours(args) -> int:
    from bench.parity.yours import cases_of, check

    if args.op not in core.functional.__all__:
        raise ValueError(f"no function {args.op!r} in core.functional: {', '.join(core.functional.__all__)}")
    if args.list:
        print("\n".join(c.name for c in cases_of(args.op)))
        return 0
    options = {"takes": args.takes, "device": args.device, "forward_only": args.forward_only, "pattern": args.case}
    rows = check(load(args.function), args.op, args.dtype, **options)
    if not rows:
        raise ValueError(f"no case of {args.op} has {args.case!r} in its name")
    return 1 if report(rows) else 0

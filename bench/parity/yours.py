"""Judge a function of your own by the cases and the oracle that judge ours: `python -m bench.parity.rule --help`.

`check` is the same from Python. Your function takes what the function of core.functional with that name takes (see
its docstring for shapes and options), as torch tensors or as our Tensors; torch's autograd or ours differentiates it.
"""

import argparse
import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import core.functional
from bench.parity.cases import CASES, run
from bench.parity.cases.inputs import instead
from bench.parity.comparing import judged, run_ours, torch_backward, torch_inputs, torch_results

PLACE = "torch", "assay"


class Refused(Exception):
    """The function raised NotImplementedError: it does not claim this case."""


def cases_of(name):
    """The cases that call core.functional's function `name`."""

    class Called(Exception):
        pass

    def called(*args, **options):
        raise Called

    found = []
    for case in CASES:
        try:
            with instead(name, called):
                run(case, case.arrays())
        except Called:
            found.append(case)
    return found


def check(function, name, dtype="float32", *, takes="torch", device="cpu", forward_only=False, pattern=""):
    """Judge `function` where core.functional's `name` stands: a list of (case name, comparisons or why there are none).

    takes: "torch" (tensors on `device`, gradients by torch's autograd) or "assay" (our Tensors); forward_only leaves
    gradients out; pattern: only cases whose name holds it. A case for which the function raises NotImplementedError is
    listed as not supported: it neither passes nor fails.
    """
    if name not in core.functional.__all__:
        raise ValueError(f"check: name is {name!r}, should be one of {', '.join(core.functional.__all__)}")
    subject = _on_torch(device, forward_only) if takes == "torch" else run_ours
    rows = []
    for case in (c for c in cases_of(name) if pattern in c.name):
        with instead(name, _refusing(function)):
            rows.append((case.name, _outcome(case, np.dtype(dtype), subject, device, forward_only)))
    return rows


def _refusing(function):
    def call(*args, **options):
        try:
            return function(*args, **options)
        except NotImplementedError as error:
            raise Refused(str(error) or "raised NotImplementedError") from None

    return call


def _outcome(case, dtype, subject, device, forward_only):
    try:
        found = judged(case, dtype, subject=subject, device=device)
    except Refused as why:
        return f"not supported: {why}"
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}"
    return [c for c in found if not (forward_only and c.what.startswith("gradient"))]


def _on_torch(device, forward_only):
    """Runs a case on torch tensors, its function replaced by one that takes them."""

    def subject(case, arrays, dys):
        dtype = next(a.dtype for a in arrays if a.dtype.kind == "f")
        inputs = torch_inputs(case, arrays, dtype, device)
        y = case.ours(*inputs)
        outputs = y if isinstance(y, tuple) else (y,)
        if forward_only:  # `_outcome` leaves the gradients out
            return torch_results(outputs, [])[0], [np.zeros_like(a) for a in arrays]
        torch_backward(outputs, dys)
        return torch_results(outputs, inputs)

    return subject


# --- the command ----------------------------------------


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
        module = importlib.import_module(where)
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
    print(f"{len(rows) - refused.total()} cases judged: {len(ratios)} comparisons pass, {len(failed)} fail")
    if ratios:
        print(f"median error where it passes: {np.median(ratios):.2f} of torch's")
    return len(failed)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench.parity.rule",
        description="Judge a function of your own against a float64 oracle, by PyTorch's own error, on Assay's cases.",
        epilog="The rule is in the docstring of bench/parity/rule.py; docs/judge-your-own.md has an example.",
    )
    parser.add_argument("name", nargs="?", help="the function of core.functional that yours stands for: attention, ...")
    parser.add_argument("function", nargs="?", help="yours: FILE.py:NAME or MODULE:NAME")
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    parser.add_argument("--takes", default="torch", choices=PLACE, help="torch tensors (default) or Assay's Tensors")
    parser.add_argument("--device", default="cpu", help="where torch tensors live: cpu (default) or cuda")
    parser.add_argument("--forward-only", action="store_true", help="do not ask for gradients")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--list", action="store_true", help="list the cases of NAME and stop")
    args = parser.parse_args()
    if args.name is None or (args.function is None and not args.list):
        parser.error("give NAME and FUNCTION, or NAME --list")
    try:
        if args.name not in core.functional.__all__:
            raise ValueError(f"no function {args.name!r} in core.functional: {', '.join(core.functional.__all__)}")
        if args.list:
            print("\n".join(c.name for c in cases_of(args.name)))
            return
        options = {"takes": args.takes, "device": args.device, "forward_only": args.forward_only, "pattern": args.case}
        rows = check(load(args.function), args.name, args.dtype, **options)
    except (ValueError, ImportError) as error:
        sys.exit(f"python -m bench.parity.rule: {error}")
    if not rows:
        sys.exit(f"python -m bench.parity.rule: no case of {args.name} has {args.case!r} in its name")
    sys.exit(1 if report(rows) else 0)

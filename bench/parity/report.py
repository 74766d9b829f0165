"""The parity report: every tested comparison, written down. `make parity` makes it; bench/parity/tables.py turns it
into tables.

    assay parity --report                     all cases in three dtypes, the models' own sizes, whole models, curves
    assay parity --report --no-trajectories   keeps the recorded trajectories, which take most of the time

bench/results/parity.json holds one row a comparison: case, what, dtype, backend, entries, our max and rms error,
torch's (null where it has no baseline), and whether it passed. Errors are kept to three digits.
"""

import datetime
import platform
import subprocess

import numpy as np
import torch

from bench.parity import tables, trajectories
from bench.parity.cases import BENCH, CASES
from bench.parity.comparing import Comparison, comparisons
from bench.parity.rule import Verdict
from bench.parity.whole_models import SETTINGS, compared_steps
from core.dispatch import use
from core.table import TABLE, Kernel
from models.training.progress import progress
from models.training.runs import describe_device

DTYPES = ("float64", "float32", "float16")
COLUMNS = ("case", "what", "dtype", "backend", "entries", "max", "rms", "torch_max", "torch_rms", "passed")


def jobs() -> list:
    """(name, function that gives comparisons), for everything that is tested."""
    cases = [(case, dtype) for dtype in DTYPES for case in CASES] + [(case, "float32") for case in BENCH]
    both = [(*pair, mode) for pair in cases for mode in _modes(*pair)]
    operations = [(f"{case.name} {d} {mode}", lambda c=case, d=d, m=mode: attempt(c, d, m)) for case, d, mode in both]
    return operations + [(f"model {label}", lambda label=label: compared_steps(label)) for label in SETTINGS]


def _modes(case, dtype) -> tuple:
    """In float32 the CPU kernel of an operation is tested besides its reference."""
    has_kernel = dtype == "float32" and isinstance(TABLE[case.op].kernels["cpu"], Kernel)
    return ("reference", "auto") if has_kernel else ("reference",)


def attempt(case, dtype, mode) -> list[Comparison]:
    """The comparisons of one case; a case that breaks down is a row that fails."""
    try:
        with use(mode):
            return comparisons(case, np.dtype(dtype))
    except Exception as error:
        return [Comparison(case.name, "all", "none", Verdict(f"{type(error).__name__}: {error}", dtype))]


def row(c: Comparison) -> list:
    v = c.verdict
    theirs = [_short(v.theirs.max), _short(v.theirs.rms)] if v.theirs else [None, None]
    ours = [_short(v.ours.max), _short(v.ours.rms)]
    return [c.case, c.what, v.dtype, c.backend, v.entries, *ours, *theirs, not v.fault]


def _short(x):
    return float(f"{x:.3g}")


def machine() -> dict:
    """Where and when: what a reader needs to repeat this."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown",
        "machine": f"{describe_device('cpu')}, {torch.get_num_threads()} thread(s) for operations",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }


def make(trajectories_too: bool) -> int:
    """Compare everything and write it down; 1 where something failed, else 0."""
    torch.set_num_threads(1)
    found = [c for _, work in progress(jobs(), "compared", unit="case") for c in work()]
    for c in found:
        if c.verdict.fault:
            print(f"FAILED {c.case}: {c.what} in {c.verdict.dtype}: {c.verdict.fault}")
    if trajectories_too:
        for kind in trajectories.LOSSES:
            curves = trajectories.trajectories(kind)
            trajectories.save(curves)
            print(*map(trajectories.summary, curves), sep="\n")
    tables.save_report({**machine(), "columns": COLUMNS, "rows": [row(c) for c in found]})
    tables.write_parity()
    apart = [t for t in trajectories.load() if t.worst > 1]
    failed = sum(bool(c.verdict.fault) for c in found)
    print(f"{len(found)} comparisons, {failed} failed; {len(apart)} trajectories apart; see {tables.PARITY_MD}")
    return 1 if failed or apart else 0

"""Test GPU kernels without a GPU: `TRITON_INTERPRET=1 python -m tests.kernels.interpret OPERATION ...`, a process of
its own.

Every case of the operations named runs through the ordinary dispatch with the kernels of device "cuda", on NumPy arrays
under Triton's interpreter, and is tested like everything else. Prints one JSON object: failures, the backends that ran,
how often each kernel was launched, and how far its loops and grids went (tests/kernels/iterations.py). This proves
algebra and indexing; it proves nothing about a device."""

import argparse
import json
import sys

import numpy as np

from bench.parity import comparing
from bench.parity.cases import CASES, NOTHING_RUNS
from core import dispatch
from kernels import launch
from tests.kernels import iterations

DRAWS = 1, 4, comparing.MOST  # the interpreter is slow: more draws of small arrays only where fewer do not pass
SLOW = (  # left out by --quick: larger cousins of cases that loop as much
    *(
        "conv2d/many-pixels",
        "conv2d/ragged-stride-2",
        "conv_transpose2d/many-pixels",
        "conv_transpose2d/ragged-channels",
    ),
    *("linear_cross_entropy/many-rows", "cross_entropy/many-rows", "matmul/long-inner", "linear/many-rows"),
    *("sum/long", "mean/many-rows", "attention/head-width-80", "layer_norm/wide", "layer_norm/many-rows"),
    "group_norm/many-pixels",
)
FEW, SMALL = 3, 100  # --few runs so many cases of an operation whose arrays hold at most so many elements ...
LOOPS = (  # ... and those that take loops and grids far enough
    *("add/many-rows", "attention/bias-0d", "attention/bias-full", "attention/bias-of-pairs", "softmax/wide"),
    *("attention/one-query-many-keys", "attention/past-a-block-bias", "batch_norm/past-a-block"),
    *("conv2d/ragged-channels", "conv_transpose2d/stride-past-kernel", "embedding/one-row-often"),
    *("group_norm/group-a-channel", "group_norm/past-a-block", "layer_norm/past-a-block", "linear/past-a-block"),
    *("linear_cross_entropy/wide-smoothed", "reparameterize/noise-given-many", "timestep_embedding/many"),
    *("upsample_nearest/same-size", "upsample_nearest/tripled"),
)


def chosen(operations, pattern, quick, few):
    """The cases to run."""
    cases = [c for c in CASES if c.op in operations and pattern in c.name and c.name not in NOTHING_RUNS]
    if few:
        small = [c for c in cases if sum(a.size for a in c.arrays()) <= SMALL]
        first = {c.name for op in operations for c in [c for c in small if c.op == op][:FEW]}
        return [c for c in cases if c.name in first or c.name in LOOPS]
    return [c for c in cases if not (quick and c.name in SLOW)]


def beyond_luck(verdict):
    """Whether more draws could not let this pass: the wrong shape or class, or an error far past what is allowed."""
    return bool(verdict.fault) and (not verdict.entries or verdict.ours.max > 100 * verdict.allowed.max)


def compare_all(cases, dtype):
    """[(case, what, fault, backend)] of every comparison; KernelLimit counts as a refusal, with its reason."""
    found = []
    for case in cases:
        try:
            with dispatch.on("cuda"), dispatch.use("kernels"):
                for most in DRAWS:
                    rows = comparing.comparisons(case, np.dtype(dtype), most=most)
                    if not any(c.verdict.fault for c in rows) or any(beyond_luck(c.verdict) for c in rows):
                        break
            found += [(c.case, c.what, c.verdict.fault, c.backend) for c in rows]
        except dispatch.KernelLimit as limit:
            found.append((case.name, "all", "", f"refused: {limit}"))
        except Exception as error:
            found.append((case.name, "all", f"{type(error).__name__}: {error}", "broken"))
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.interpret", description=__doc__.split("\n")[0])
    parser.add_argument("operations", nargs="+", help="as core/dispatch.py calls them")
    parser.add_argument("--dtype", nargs="+", default=["float32", "float16"], choices=("float16", "float32"))
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--quick", action="store_true", help="without the slowest cases")
    parser.add_argument("--few", action="store_true", help="some small cases, and those that loop")
    args = parser.parse_args()
    if not launch.INTERPRETED:
        sys.exit("python -m tests.kernels.interpret: set TRITON_INTERPRET=1")
    iterations.watch()
    cases = chosen(args.operations, args.case, args.quick, args.few)
    found = [row for dtype in args.dtype for row in compare_all(cases, dtype)]
    faults = [f"{case}: {what}: {fault}" for case, what, fault, _ in found if fault]
    backends = sorted({backend for *_, backend in found})
    counts = {"comparisons": len(found), "faults": faults, "backends": backends, "launches": launch.COUNT}
    counts["operations"] = sorted({c.op for c in cases})
    print(json.dumps({**counts, **iterations.report()}, indent=1))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

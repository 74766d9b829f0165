"""What runs where, and what the compiler makes of it.

assay kernels build                    compile the CPU kernels, which else happens when one is first used
assay kernels explain                  the dispatch table: what runs on a CPU and what on a GPU
assay kernels check [OP ...]           compile the Triton kernels, with no GPU, and look at what comes out
assay kernels trace OP                 draw which program of a Triton kernel reads and writes what, as a page
assay kernels tune FAMILY KERNEL OP    time a kernel's configurations on this GPU and keep the best right one
"""

import importlib
import os
import sys
from pathlib import Path

from core import dispatch
from models.training.commands import Parser, positive
from models.training.progress import progress

ARCHITECTURES = {"80": 80, "90": 90, "100": 100}


def build(args):
    """Import every file of CPU kernels, which compiles what the cache does not hold."""
    files = sorted(p.stem for p in (Path(__file__).parents[2] / "kernels" / "cpu").glob("[a-z]*.py"))
    with progress(files, "compiling", unit="file") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            importlib.import_module(f"kernels.cpu.{name}")


def explain(args):
    """Every operation, and on each device its kernel or the reason why its reference runs."""
    width = max(map(len, dispatch.TABLE))
    for name in sorted(dispatch.TABLE):
        operation, _, rest = dispatch.explain(name).partition(": ")
        print(f"{operation:<{width}}  {rest}")


def _first_cases(cases, known):
    """One of the tests' cases for each operation that no model-sized case is `known` for."""
    first: dict = {}
    for case in cases:
        if case.op not in known:
            first.setdefault(case.op, case)
    return first.values()


def check(args):
    """The compile check; exits with 1 where a kernel spills, misses its tensor cores or does not compile."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError("check compiles: it cannot run with TRITON_INTERPRET=1")
    try:
        from bench.parity.cases import BENCH, CASES
        from bench.tools import check
    except ModuleNotFoundError as error:
        raise ValueError(f"check needs {error.name}: make .venv/test installs it") from None
    unknown = set(args.ops) - set(dispatch.TABLE)
    if unknown:
        raise ValueError(f"no operation {', '.join(sorted(unknown))}: see assay kernels explain")
    cases = [*BENCH, *(CASES if args.all_cases else _first_cases(CASES, {c.op for c in BENCH}))]
    cases = [c for c in cases if args.case in c.name and (not args.ops or c.op in args.ops)]
    archs = [ARCHITECTURES[name] for name in args.arch.split(",")]
    with dispatch.use(tf32=args.tf32):
        results = check.check(cases, archs, args.workers, rest=not args.ops)
    if args.out:
        args.out.write_text(check.page(results))
    else:
        print(check.table(results))
    bad = [r for r in results if r.fault and not r.fault.startswith("(")]
    print(f"{len(results)} compilations, {len(bad)} with faults")
    return 1 if bad else 0


def trace(args):
    """A page that shows every program of an operation's kernels at work, under the interpreter."""
    try:
        from bench.tools import trace, trace_cases, trace_page
    except ModuleNotFoundError as error:
        raise ValueError(f"trace needs {error.name}: make .venv/test installs it") from None
    case, _ = trace_cases.chosen(args.op, args.case)
    out = args.out or Path("runs") / "trace" / f"{args.op}-{case}.html"
    page = trace_page.page(trace.recorded(args.op, case))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"trace: --out is {out}, should be a file to write: {error.strerror}") from None
    print(out)


def tune(args):
    from bench.gpu.device import Device, NotRun
    from bench.parity.cases import BENCH, CASES
    from bench.tools import tune

    try:
        device = Device(args.dry)
    except NotRun as why:
        raise ValueError(f"tune: {why}") from None
    cases = [c for c in (CASES if args.dry else BENCH) if c.op == args.op and args.case in c.name]
    if not cases:
        raise ValueError(f"no case of {args.op} has {args.case!r} in its name")
    for dtype in args.dtype:
        print(tune.tune(device, args.family, args.kernel, cases, dtype))


def main(arguments=None) -> int:
    parser = Parser(prog="assay kernels", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile the CPU kernels").set_defaults(run=build)
    commands.add_parser("explain", help="the dispatch table").set_defaults(run=explain)
    checking = commands.add_parser("check", help="compile the Triton kernels without a GPU")
    checking.add_argument("ops", nargs="*", metavar="OP", help="operations; all unless given")
    checking.add_argument("--arch", default="90", help="of 80, 90, 100, with commas between; default 90")
    checking.add_argument("--case", default="", help="only cases whose name holds this")
    checking.add_argument("--all-cases", action="store_true", help="the tests' shapes too, not only the models' own")
    checking.add_argument("--out", type=Path, help="write a page with a table an architecture, instead of printing all")
    checking.add_argument("--workers", type=positive, default=2, help="processes that compile; default 2")
    checking.add_argument("--tf32", action="store_true", help="float32 products in one TF32 pass, as in use(tf32=True)")
    checking.set_defaults(run=check)
    tracing = commands.add_parser("trace", help="draw which program reads and writes what")
    tracing.add_argument("op", help="an operation; one that has no case gets a list of those that have")
    tracing.add_argument("--case", help="which of the operation's cases; default: its first")
    tracing.add_argument("--out", type=Path, help="the page; default: runs/trace/OP-CASE.html")
    tracing.set_defaults(run=trace)
    tuning = commands.add_parser("tune", help="time a kernel's configurations on this GPU")
    tuning.add_argument("family", help="the file of kernels/blocks, without .json")
    tuning.add_argument("kernel", help="a kernel in that table")
    tuning.add_argument("op", help="the operation whose model-sized cases are run")
    tuning.add_argument("--case", default="", help="only cases whose name holds this")
    tuning.add_argument("--dtype", nargs="+", default=["float32", "float16"], choices=("float32", "float16"))
    tuning.add_argument("--dry", action="store_true", help="under the interpreter: test, time nothing, write nothing")
    tuning.set_defaults(run=tune)
    args = parser.parse_args(arguments)
    try:
        if args.command == "check" and set(args.arch.split(",")) - set(ARCHITECTURES):
            raise ValueError(f"--arch is {args.arch}, should be of {', '.join(ARCHITECTURES)}")
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

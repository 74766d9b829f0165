"""Everything that only a GPU can prove, in one command: `make gpu-check`.

    python3 -m bench.gpu_check [--part smoke|parity|sanitizer|kernels] [--out DIR] [--limit SECONDS] [--dry]

It runs with the machine's own python3 (CuPy, Triton and torch installed there) and installs nothing. Without --part:
smoke first, then the others until the limit, keeping what is finished. Results go to bench/results/<gpu>/. What cannot
run is reported "not run: reason", never as a pass. --dry walks the same lines without a device, under Triton's
interpreter on NumPy arrays and a few cases: it finds mistakes in this file, and proves nothing about a GPU.

    smoke      one kernel through the driver, twice (Triton's own path and the short one), against NumPy
    parity     every case with kernels on CuPy arrays, float32 and float16, judged against torch on this GPU with TF32
               off, and a second run of each that must give the same bits
    sanitizer  compute-sanitizer over a small case of every operation
    kernels    forward and backward of the models' layers, ours against torch eager and torch.compile, L2 flushed
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from core import Tensor, dispatch
from tests import comparing
from tests.specs import BENCH, CASES

PARTS = ("smoke", "parity", "sanitizer", "kernels")
RESULTS = Path(__file__).parent / "results"
REPEATS = 30  # timed launches of a kernel bench
DRY_CASES = 3  # of each operation
FLUSH = 64 << 20  # bytes written between timed launches: more than any L2


class NotRun(Exception):
    """Why a part cannot run here."""


class Device:
    """The GPU by CuPy, or its stand-in: NumPy arrays under the interpreter."""

    def __init__(self, dry: bool):
        self.dry = dry
        if dry:
            self.xp, self.name, self.torch = np, "dry", "cpu"
            return
        try:
            import cupy
        except ImportError:
            raise NotRun("CuPy is not installed") from None
        try:
            properties = cupy.cuda.runtime.getDeviceProperties(0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise NotRun(f"no GPU: {error}") from None
        self.xp, self.torch = cupy, "cuda"
        self.name = re.sub(r"\W+", "-", properties["name"].decode()).strip("-").lower()

    def host(self, x):
        return x if x is None or self.dry else self.xp.asnumpy(x)

    def tensors(self, case, arrays):
        """The case's inputs on the device: Tensors, and integer or boolean arrays as they are."""
        moved = [self.xp.asarray(a) for a in arrays]
        return [Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a for a, n in zip(moved, case.needs(arrays))]

    def run(self, case, arrays, dys):
        """(outputs, gradients) of a case by our kernels, on the host again."""
        with dispatch.use("kernels"), dispatch.on("cuda"):
            tensors = self.tensors(case, arrays)
            y = case.ours(*tensors)
            outputs = y if isinstance(y, tuple) else (y,)
            comparing.backward_all(outputs, [None if dy is None else self.xp.asarray(dy) for dy in dys])
        return [self.host(y.data) for y in outputs], [self.host(getattr(t, "grad", None)) for t in tensors]

    def milliseconds(self, case, dtype) -> float:
        """Forward and backward of a case, median."""
        return _ours(self, case, dtype)["forward and backward"]["ms"]


def chosen(device, cases):
    """All cases that have a kernel; a few of each operation in a dry run."""
    cases = [c for c in cases if isinstance(dispatch.TABLE[c.op].kernels.get("cuda"), dispatch.Kernel)]
    if not device.dry:
        return cases
    seen: dict = {}
    return [c for c in cases if seen.setdefault(c.op, []).append(c) or len(seen[c.op]) <= DRY_CASES]


# --- parts: each gives rows, dictionaries of plain values ----------------------------------------


def smoke(device, until):
    """The first thing to run anywhere: one operation, three times."""
    case = next(c for c in CASES if c.name == "bce_with_logits/none-array")
    arrays, rows = case.arrays(np.float32), []
    dys = [np.ones(arrays[0].shape, np.float32)]
    for attempt in range(3):
        (y,), (dx, _) = device.run(case, arrays, dys)
        x, t = (a.astype(np.float64) for a in arrays)
        wanted = np.logaddexp(0, x) - x * t, 1 / (1 + np.exp(-x)) - t
        error = max(float(np.abs(a - b).max()) for a, b in zip((y, dx), wanted))
        rows.append({"attempt": attempt, "error": error, "passed": error < 1e-6})
    return rows


def parity(device, until):
    """The judge, on the device; the same bits twice."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = []
    for dtype in ("float32", "float16"):
        for case in chosen(device, CASES):
            if time.monotonic() > until:
                rows.append({"case": case.name, "dtype": dtype, "passed": False, "fault": "not run: out of time"})
                continue
            rows += [{"dtype": dtype, **row} for row in _judged_twice(device, case, dtype)]
    return rows


def _judged_twice(device, case, dtype):
    runs = []

    def subject(case, arrays, dys):
        runs.append((device.run(case, arrays, dys), device.run(case, arrays, dys)))
        return runs[-1][0]

    try:
        found = comparing.judged(
            case, np.dtype(dtype), subject=subject, device=device.torch, most=2 if device.dry else 8
        )
    except dispatch.KernelLimit as limit:
        return [{"case": case.name, "what": "all", "passed": True, "fault": f"limit: {limit}"}]
    except Exception as error:
        return [{"case": case.name, "what": "all", "passed": False, "fault": f"{type(error).__name__}: {error}"}]
    same = all(_bits(one) == _bits(two) for one, two in runs)
    bits = {"case": case.name, "what": "bits", "passed": same, "fault": "" if same else "two runs differ"}
    return [*map(_row, found), bits]


def _row(c) -> dict:
    v = c.verdict
    numbers = {"max": v.ours.max, "rms": v.ours.rms, "ratio": v.ratio}
    return {"case": c.case, "what": c.what, "passed": not v.fault, "fault": v.fault, **numbers}


def _bits(results):
    return [[None if a is None else a.tobytes() for a in part] for part in results]


def sanitizer(device, until):
    """compute-sanitizer on one small case an operation, each in a process of its own."""
    tool = shutil.which("compute-sanitizer")
    if tool is None and not device.dry:
        raise NotRun("compute-sanitizer is not installed")
    rows, seen = [], set()
    for case in chosen(device, CASES):
        if case.op in seen or not all(a.size for a in case.arrays()):
            continue
        seen.add(case.op)
        command = [sys.executable, "-m", "bench.gpu_check", "--one-case", case.name]
        command = [*command, "--dry"] if device.dry else [tool, "--error-exitcode", "9", *command]
        if time.monotonic() > until or (device.dry and len(seen) > DRY_CASES):
            rows.append({"case": case.name, "passed": False, "fault": "not run: out of time"})
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        lines = [line for line in (done.stdout + done.stderr).split("\n") if "=====" in line or "Error" in line]
        rows.append({"case": case.name, "passed": done.returncode == 0, "fault": "; ".join(lines[:3])})
    return rows


def one_case(device, name):
    """What the sanitizer watches: one case, forward and backward."""
    case = next(c for c in CASES if c.name == name)
    arrays = case.arrays(np.float32)
    with dispatch.use("kernels"), dispatch.on("cuda"):
        outputs = case.ours(*device.tensors(case, arrays))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    device.run(case, arrays, comparing.random_dys(case, outputs, np.float32))


def kernels(device, until):
    """Times of the models' layers, after their numbers were checked."""
    rows = []
    for dtype in ("float32", "float16"):
        for case in chosen(device, BENCH)[: DRY_CASES if device.dry else None]:
            if time.monotonic() > until:
                rows.append({"case": case.name, "dtype": dtype, "passed": False, "fault": "not run: out of time"})
            elif device.dry:  # these shapes are hours of work for the interpreter
                rows.append({"case": case.name, "dtype": dtype, "passed": False, "fault": "not run: dry"})
            else:
                rows.append({"case": case.name, "dtype": dtype, **_timed(device, case, dtype)})
    return rows


def _timed(device, case, dtype) -> dict:
    import torch

    try:
        wrong = [
            c for c in comparing.judged(case, np.dtype(dtype), subject=device.run, device="cuda") if c.verdict.fault
        ]
        if wrong:
            return {"passed": False, "fault": f"{wrong[0].what}: {wrong[0].verdict.fault}"}
        torch.backends.cudnn.benchmark = True
        return {"passed": True, "fault": "", "ours": _ours(device, case, dtype), **_peers(case, dtype)}
    except Exception as error:
        return {"passed": False, "fault": f"{type(error).__name__}: {error}"}


def _ours(device, case, dtype):
    arrays = case.arrays(dtype)
    tensors = device.tensors(case, arrays)

    def forward():
        with dispatch.use("kernels"):
            y = case.ours(*tensors)
        return y if isinstance(y, tuple) else (y,)

    dys = [None if d is None else device.xp.asarray(d) for d in comparing.random_dys(case, forward(), dtype)]
    both = lambda: comparing.backward_all(forward(), dys)
    start, stop, flush = device.xp.cuda.Event(), device.xp.cuda.Event(), device.xp.empty(FLUSH, "uint8")
    elapsed = lambda: device.xp.cuda.get_elapsed_time(start, stop)
    return {name: _median(f, start, stop, elapsed, lambda: flush.fill(0)) for name, f in _named(forward, both)}


def _peers(case, dtype) -> dict:
    """torch eager and torch.compile on the same inputs; their images are channels last by their strides."""
    import torch

    inputs = comparing.torch_inputs(case, case.arrays(dtype), dtype, "cuda")
    as_tuple = lambda y: y if isinstance(y, tuple) else (y,)
    dys = comparing.random_dys(case, as_tuple(case.torch(*inputs)), dtype)
    dys = [None if d is None else torch.from_numpy(d).cuda() for d in dys]
    flush = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    found = {}
    for name, f in (("torch eager", case.torch), ("torch.compile", torch.compile(case.torch))):
        forward = lambda f=f: as_tuple(f(*inputs))

        def both(forward=forward):
            used = [(y, d) for y, d in zip(forward(), dys) if d is not None]
            torch.autograd.backward([y for y, _ in used], [d for _, d in used])

        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        elapsed = lambda start=start, stop=stop: start.elapsed_time(stop)
        found[name] = {n: _median(g, start, stop, elapsed, flush.zero_) for n, g in _named(forward, both)}
    return found


def _named(forward, both):
    return (("forward", forward), ("forward and backward", both))


def _median(f, start, stop, elapsed, flush) -> dict:
    """Milliseconds by events: 20 %, 50 % and 80 % quantiles of REPEATS calls, each with a cold L2."""
    for _ in range(3):
        f()
    times = []
    for _ in range(REPEATS):
        flush()
        start.record()
        f()
        stop.record()
        stop.synchronize()
        times.append(elapsed())
    low, median, high = np.quantile(times, (0.2, 0.5, 0.8))
    return {"ms": round(float(median), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


# --- the command ----------------------------------------


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="one part; all unless given")
    parser.add_argument("--out", type=Path, help="folder for results; bench/results/<gpu> unless given")
    parser.add_argument(
        "--limit", type=float, default=540, help="seconds after which nothing new is begun; default 540"
    )
    parser.add_argument("--dry", action="store_true", help="without a device, under the interpreter")
    parser.add_argument("--one-case", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        device = Device(args.dry)
    except NotRun as why:
        print(f"gpu-check: not run: {why}")
        return 1
    if args.one_case:
        one_case(device, args.one_case)
        return 0
    out = args.out or RESULTS / device.name
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for part in [args.part] if args.part else PARTS:
        try:
            rows = globals()[part](device, began + args.limit)
        except NotRun as why:
            rows = [{"passed": False, "fault": f"not run: {why}"}]
        bad = [r for r in rows if not r["passed"] and not r["fault"].startswith("not run")]
        missing = sum(not r["passed"] for r in rows) - len(bad)
        failed += len(bad)
        (out / f"{part}.json").write_text(json.dumps({"device": device.name, "rows": rows}, indent=1) + "\n")
        print(f"{part}: {len(rows)} rows, {len(bad)} failed, {missing} not run ({time.monotonic() - began:.0f} s)")
        for row in bad[:20]:
            print("  ", {k: v for k, v in row.items() if k in ("case", "what", "dtype", "fault", "error")})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Everything that only a GPU can prove, in one command: `make gpu-check`.

    python3 -m bench.gpu.check [--part PART] [--out DIR] [--limit SECONDS] [--dry]

It runs with the machine's own python3 (CuPy, Triton and torch installed there) and installs nothing. Without --part:
smoke first, then the others until the limit, keeping what is finished. Results go to bench/results/<gpu>/. What cannot
run is reported "not run: reason", never as a pass. --dry walks the same lines without a device, under Triton's
interpreter on NumPy arrays and a few cases: it finds mistakes in this file, and proves nothing about a GPU.

    smoke      one kernel through the driver, twice (Triton's own path and the short one), against NumPy
    parity     every case with kernels on CuPy arrays, float32 and float16, tested against torch on this GPU with TF32
               off, and a second run of each that must give the same bits
    sanitizer  compute-sanitizer over a small case of every operation
    kernels    forward and backward of the models' layers, ours beside torch, cuDNN, SDPA and Liger (bench/gpu)
    steps      training steps and sampling of the models, ours beside torch eager, compiled and in a CUDA graph
    graph      training steps captured in a CUDA graph beside the same steps launched kernel by kernel: the same bits
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench import roofline
from bench.gpu.device import Device, NotRun, as_tuple
from bench.gpu.graph import graph
from bench.gpu.kernels import answer, kernels, summary
from bench.gpu.steps import answer_step, steps, steps_summary
from bench.gpu.worker import answer_all
from bench.parity import comparing
from bench.parity.cases import CASES
from core import dispatch

RESULTS = Path(__file__).parents[1] / "results"
DRY_CASES = 1  # of each operation
KEEP = 5  # seconds between two writings of unfinished results


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
    arrays = case.arrays(np.float32)
    dys = [np.ones(arrays[0].shape, np.float32)]
    for attempt in range(3):
        (y,), (dx, _) = device.run(case, arrays, dys)
        x, t = (a.astype(np.float64) for a in arrays)
        wanted = np.logaddexp(0, x) - x * t, 1 / (1 + np.exp(-x)) - t
        error = max(float(np.abs(a - b).max()) for a, b in zip((y, dx), wanted))
        yield {"attempt": attempt, "error": error, "passed": error < 1e-6, "fault": "" if error < 1e-6 else "wrong"}


def parity(device, until):
    """The accuracy test, on the device; the same bits twice."""
    for precision in device.precisions():
        device.set_torch(precision)
        for case in chosen(device, CASES):
            row = {"case": case.name, "precision": precision.name}
            if time.monotonic() > until:
                yield {**row, "passed": False, "fault": "not run: out of time"}
            else:
                yield from ({**row, **found} for found in _compared_twice(device, case, precision))


def _compared_twice(device, case, precision):
    runs = []

    def subject(case, arrays, dys):
        runs.append(tuple(device.run(case, arrays, dys, precision.tf32) for _ in range(2)))
        return runs[-1][0]

    try:
        dtype, most = np.dtype(precision.dtype), 1 if device.dry else 8
        found = comparing.comparisons(case, dtype, subject=subject, device=device.torch, most=most)
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
    seen: set = set()
    for case in chosen(device, CASES):
        if case.op in seen or not all(a.size for a in case.arrays()):
            continue
        seen.add(case.op)
        command = [sys.executable, "-m", "bench.gpu.check", "--one-case", case.name]
        command = [*command, "--dry"] if device.dry else [tool, "--error-exitcode", "9", *command]
        if time.monotonic() > until or (device.dry and len(seen) > DRY_CASES):
            yield {"case": case.name, "passed": False, "fault": f"not run: {'dry' if device.dry else 'out of time'}"}
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        lines = [line for line in (done.stdout + done.stderr).split("\n") if "=====" in line or "Error" in line]
        yield {"case": case.name, "passed": done.returncode == 0, "fault": "; ".join(lines[:3])}


def one_case(device, name):
    """What the sanitizer watches: one case, forward and backward."""
    case = next(c for c in CASES if c.name == name)
    arrays = case.arrays(np.float32)
    with device.kernels():
        outputs = as_tuple(case.ours(*device.tensors(case, arrays)))
    device.run(case, arrays, comparing.random_dys(case, outputs, np.float32))


PARTS = {
    "smoke": smoke,
    "parity": parity,
    "sanitizer": sanitizer,
    "kernels": kernels,
    "steps": steps,
    "graph": graph,
}
ANSWERS = {"kernels": answer, "steps": answer_step}
SUMMARIES = {"kernels": summary, "steps": steps_summary}

# --- the command ----------------------------------------


def run_part(name, device, until, out) -> int:
    """Run one part, its rows written as they come; how many of them failed."""
    rows: list = []
    began, written = time.monotonic(), 0.0
    note = "" if roofline.peaks(device.name) else f"no floors: no published peaks of {device.name} are noted here"
    note = "a dry run: no time is that of a GPU" if device.dry else note
    head = {"device": device.name, "machine": device.machine(), "note": note}

    def write():
        (out / f"{name}.json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")

    try:
        for row in PARTS[name](device, until):
            rows.append(row)
            if time.monotonic() - written > KEEP:
                write()
                written = time.monotonic()
    except NotRun as why:
        rows.append({"passed": False, "fault": f"not run: {why}"})
    finally:
        write()
    bad = [r for r in rows if not r["passed"] and not r["fault"].startswith("not run")]
    missing = sum(not r["passed"] for r in rows) - len(bad)
    print(f"{name}: {len(rows)} rows, {len(bad)} failed, {missing} not run ({time.monotonic() - began:.0f} s)")
    lines = list(SUMMARIES[name](rows)) if name in SUMMARIES else []
    if lines and not device.dry:
        print("\n".join(lines))
    shown = "case", "model", "batch", "what", "precision", "fault", "error"
    for row in bad[:20]:
        print("  ", {k: row[k] for k in shown if k in row})
    return len(bad)


def main(arguments=None, fake_gpu=contextlib.nullcontext) -> int:
    """The command; `fake_gpu`: as Device takes it."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.gpu.check", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="one part; all unless given")
    parser.add_argument("--out", type=Path, help="folder for results; bench/results/<gpu> unless given")
    parser.add_argument(
        "--limit", type=float, default=540, help="seconds after which nothing new is begun; default 540"
    )
    parser.add_argument("--dry", action="store_true", help="without a device, under the interpreter")
    parser.add_argument("--one-case", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=ANSWERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        device = Device(args.dry, fake_gpu)
    except NotRun as why:
        print(f"gpu-check: not run: {why}")
        return 1
    if args.worker:
        answer_all(lambda question: ANSWERS[args.worker](device, question))
        return 0
    if args.one_case:
        one_case(device, args.one_case)
        return 0
    out = args.out or RESULTS / device.name
    out.mkdir(parents=True, exist_ok=True)
    failed = sum(run_part(part, device, began + args.limit, out) for part in ([args.part] if args.part else PARTS))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

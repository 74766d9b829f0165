"""Choosing block sizes on a GPU: `assay kernels tune conv gather conv_transpose2d`.

Every configuration that the table has for a kernel, on any architecture, is tried with the numbers of warps and stages
around it. One whose results the accuracy test refuses, or that does not compile, is out whatever its speed: Triton 3.6
is known to generate wrong code for some. The best of the rest goes into kernels/blocks for this architecture."""

import itertools
import json

import numpy as np

from bench.gpu import contenders, timing
from bench.gpu.device import Precision, as_tuple
from bench.parity import comparing
from kernels.launch import TABLES, instead

SEEDS = 3  # draws that a configuration must get right


def candidates(family: str, kernel: str, architecture: str) -> list[dict]:
    """Different configurations of the table, and their neighbours in warps and stages."""
    table = json.loads((TABLES / f"{family}.json").read_text())
    if kernel not in table:
        raise ValueError(f"{family} has no kernel {kernel!r}: {', '.join(table)}")
    known = [k for k in table[kernel] if (k == "interpret") == (architecture == "interpret")]
    lines = [config for k in known for part in table[kernel][k].values() for _, config in part]
    if architecture == "interpret":  # which has neither warps nor stages
        return lines
    found: dict = {}
    for config in lines:
        warps = {w for w in (config.get("num_warps", 4) // 2, config.get("num_warps", 4)) if w} | {8}
        stages = {2, 3, 4} if "num_stages" in config else {None}
        for w, s in itertools.product(sorted(warps), sorted(stages, key=str)):
            extra = {"num_warps": w, **({"num_stages": s} if s else {})}
            found[repr(sorted({**config, **extra}.items()))] = {**config, **extra}
    return list(found.values())


def refused(device, case, dtype) -> str:
    """Why this case's results are not right, "" where they are."""
    try:
        rows = comparing.comparisons(case, np.dtype(dtype), subject=device.run, device=device.torch, most=SEEDS)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return next((f"{c.what}: {c.verdict.fault}" for c in rows if c.verdict.fault), "")


def milliseconds(device, case, dtype) -> float:
    """Forward and backward of a case by our kernels, median."""
    arrays = case.arrays(dtype)
    with device.kernels():
        dys = comparing.random_dys(case, as_tuple(case.ours(*device.tensors(case, arrays))), dtype)
    run = contenders.ours(device, case, arrays, dys, Precision(str(dtype), str(dtype)))
    return timing.measured(run.both, timing.clock(device, "cupy"))["ms"]


def tune(device, family: str, kernel: str, cases, dtype: str) -> str:
    """Try all candidates on these cases; write the best into the table. Returns what was found, a line each."""
    architecture = "interpret" if device.dry else device.xp.cuda.Device().compute_capability
    lines = [f"{family} {kernel} {dtype}, architecture {architecture}"]
    best: tuple = (float("inf"), None)
    for config in candidates(family, kernel, architecture):
        with instead(family, kernel, config):
            why = next(filter(None, (refused(device, case, dtype) for case in cases)), "")
            total = float("nan") if why or device.dry else sum(milliseconds(device, case, dtype) for case in cases)
        right = "right, not timed" if device.dry else f"{total:.4f} ms"
        lines.append(f"{config}: {f'refused: {why}' if why else right}")
        if not why and total < best[0]:
            best = total, config
    if best[1] is not None:
        _write(family, kernel, architecture, dtype, best[1])
        lines.append(f"kept {best[1]}")
    return "\n".join(lines)


def _write(family, kernel, architecture, dtype, config):
    path = TABLES / f"{family}.json"
    table = json.loads(path.read_text())
    table[kernel].setdefault(architecture, {})[dtype] = [[None, config]]
    path.write_text(json.dumps(table, indent=2) + "\n")

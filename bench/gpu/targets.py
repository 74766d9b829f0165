"""What we want to reach on a GPU: ratios to named baselines, set before anything was measured, from figures that others
published. A row that misses its target is marked in the report; a target that no row measures is listed as such."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

BOTH, BACKWARD = "forward and backward", "backward"
HALF, SINGLE = ("float16",), ("float32",)
STEPPED = ("float32", "tf32", "float16")
HEADS_64 = ("attention/*x64", "attention/*x64-causal", "attention/gpt-paper")
HEADS_128 = ("attention/*x128", "attention/*x128-causal")
CONVOLUTIONS = ("conv2d/*", "conv_transpose2d/*")


class Target(NamedTuple):
    """The best of the baselines `over` should take `goal` times as long as ours do, or longer."""

    what: str
    rows: tuple  # patterns of names: a case, or a model and its preset
    precisions: tuple
    over: str  # pattern of baselines
    goal: float
    of: str = "forward"  # a pass, or "step"
    memory: float = 0.0  # the part of the baseline's memory that ours may hold at most; 0: any


TARGETS = (
    Target("attention, heads of 64", HEADS_64, HALF, "SDPA cudnn", 1.05),
    Target("attention, heads of 128", HEADS_128, HALF, "*", 0.80),
    Target("attention, backward", HEADS_64 + HEADS_128, HALF, "*", 0.65, BACKWARD),
    Target("transposed convolution, large", ("conv_transpose2d/large*",), HALF, "torch channels last", 1.0),
    Target("transposed convolution, a GAN's", ("conv_transpose2d/gan-*",), HALF, "torch channels last", 1.5),
    Target("a convolution's weight gradient", CONVOLUTIONS, HALF, "torch channels last", 0.9, "weight gradient"),
    Target("convolution in float32", CONVOLUTIONS, SINGLE, "torch *", 2.0, BOTH),
    Target("BCE and ELBO", ("bce_with_logits/*", "elbo/*"), SINGLE + HALF, "torch eager", 6.0, BOTH),
    Target("cross entropy, 8192 x 131072", ("cross_entropy/8192x131072*",), HALF, "Liger", 1.7, BOTH),
    Target("linear cross entropy", ("linear_cross_entropy/*",), HALF, "torch eager", 1.0, BOTH, memory=0.2),
    Target("GAN step", ("gan *",), STEPPED, "torch eager*", 3.0, "step"),
    Target("GAN step", ("gan *",), STEPPED, "torch.compile reduce-overhead", 1.5, "step"),
    Target("VAE step", ("vae *",), STEPPED, "torch eager*", 8.0, "step"),
    Target("VAE step", ("vae *",), STEPPED, "torch.compile reduce-overhead", 2.0, "step"),
    Target("small GPT step", ("gpt small",), STEPPED, "torch eager", 2.0, "step"),
    Target("small GPT step", ("gpt small",), STEPPED, "torch.compile", 1.0, "step"),
)


class Found(NamedTuple):
    """What one of our rows makes of one target."""

    ratio: float
    share: float | None  # of the baseline's memory, where the target speaks of it
    met: bool


def key(row) -> tuple:
    """What rows of the same work have in common."""
    return tuple(row.get(k) for k in ("case", "task", "model", "preset", "batch", "precision"))


def name(row) -> str:
    return row["case"] if "case" in row else f"{row['model']} {row['preset']}"


def figure(row, of, what):
    """The milliseconds ("ms") or MiB ("mib") of a pass or a step; None where the row has none. A backward pass is what
    both passes take beyond the forward one."""
    if of == "step":
        return row[what] if row.get("task") == "step" else None
    if of == BACKWARD:
        both, forward = (figure(row, part, what) for part in (BOTH, "forward"))
        return None if both is None or forward is None else both - forward
    return row[of][what] if of in row else None


def applies(target, row) -> bool:
    """Whether the target speaks of this row of ours."""
    named = any(fnmatchcase(name(row), pattern) for pattern in target.rows)
    return named and row["precision"] in target.precisions and row.get("task", "step") == "step"


def measured(target, row, rows) -> Found | None:
    """Our row against the best of the target's baselines; None where either was not measured."""
    time = lambda r: figure(r, target.of, "ms")
    baselines = [r for r in rows if r["passed"] and key(r) == key(row) and r["who"] != "ours"]
    baselines = [r for r in baselines if fnmatchcase(r["who"], target.over) and time(r) is not None]
    if not row["passed"] or time(row) is None or not baselines:
        return None
    best = min(baselines, key=time)
    ratio = round(time(best) / time(row), 3)
    if not target.memory:
        return Found(ratio, None, ratio >= target.goal)
    share = figure(row, target.of, "mib") / max(figure(best, target.of, "mib"), 1e-9)
    return Found(ratio, round(share, 3), ratio >= target.goal and share <= target.memory)


def every(row, rows) -> Iterator[tuple[Target, Found]]:
    """All targets that a row of ours was measured for."""
    for target in TARGETS:
        found = measured(target, row, rows) if applies(target, row) else None
        if found is not None:
            yield target, found

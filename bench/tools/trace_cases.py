"""What `assay kernels trace` can show: small runs of operations, chosen so that the pictures are small."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import core.functional as F
from core import dispatch


class Case(NamedTuple):
    what: str  # in words
    run: Callable  # of the arrays, by name
    arrays: dict  # name -> a shape, of normal draws that want a gradient, or an array as it is


def _ids(n, *shape):
    """Integers below n, some twice."""
    return np.random.default_rng(1).integers(0, n, shape)


def _adam(*, lr, step, **arrays):
    roles = [[a for name, a in arrays.items() if name.startswith(role)] for role in "pgmv"]
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled": False}
    dispatch.run_("adam_", *roles, lr, step, **options)


def _flat(value, *shape):
    return np.full(shape, value, np.float32)


_HEAD = (1, 1, 48, 16)
_IMAGE = {"x": (1, 4, 4, 16), "w": (5, 5, 16, 16), "b": (16,)}
_VAE = {"recon_logits": (2, 40), "x": _flat(0.5, 2, 40), "mu": (2, 6), "logvar": (2, 6)}
_MOMENTS = {f"{role}{i}": _flat(0.1, *shape) for i, shape in enumerate([(5, 6), (3, 4)]) for role in "pgmv"}
_up = lambda padding: lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=2, output_padding=padding)

CASES: dict[str, dict[str, Case]] = {
    "adam_": {
        "two-tensors": Case(
            "a step on two tensors, in one launch", _adam, {**_MOMENTS, "lr": _flat(0.01), "step": np.array(1)}
        )
    },
    "attention": {
        "causal": Case(
            "one head, 48 tokens, causal",
            lambda q, k, v: F.attention(q, k, v, causal=True),
            {"q": _HEAD, "k": _HEAD, "v": _HEAD},
        ),
        "full": Case("one head, 48 tokens", F.attention, {"q": _HEAD, "k": _HEAD, "v": _HEAD}),
        "split": Case(
            "4 queries, 130 keys: they are split among programs",
            F.attention,
            {"q": (1, 1, 4, 16), "k": (1, 1, 130, 16), "v": (1, 1, 130, 16)},
        ),
    },
    "batch_norm": {
        "columns": Case(
            "40 rows, 24 channels, training",
            lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, training=True),
            {"x": (40, 24), "m": _flat(0.0, 24), "v": _flat(1.0, 24), "w": (24,), "b": (24,)},
        )
    },
    "bce_with_logits": {
        "mean": Case("72 logits, their mean loss", F.bce_with_logits, {"logits": (6, 12), "target": _flat(1.0, 6, 12)})
    },
    "conv2d": {
        "stride-2": Case(
            "8x8 to 4x4, 16 channels, 3x3 taps, stride 2",
            lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, act="relu"),
            {"x": (1, 8, 8, 16), "w": (3, 3, 16, 16), "b": (16,)},
        )
    },
    "conv_transpose2d": {
        "stride-2": Case("4x4 to 8x8, 16 channels, 5x5 taps, stride 2: four phases", _up(1), _IMAGE),
        "odd": Case("5x5 to 9x9: phases of unequal size, two tiles each", _up(0), {**_IMAGE, "x": (1, 5, 5, 16)}),
    },
    "cross_entropy": {"mean": Case("5 rows of 80 logits", F.cross_entropy, {"logits": (5, 80), "target": _ids(80, 5)})},
    "elbo": {"small": Case("2 images of 40 pixels, 6 latents", F.elbo, _VAE)},
    "embedding": {
        "repeats": Case("20 tokens from a table of 12 rows", F.embedding, {"ids": _ids(12, 2, 10), "w": (12, 8)})
    },
    "layer_norm": {"rows": Case("7 rows of 40", F.layer_norm, {"x": (7, 40), "w": (40,), "b": (40,)})},
    "linear": {
        "gelu": Case(
            "40 rows, 24 to 20, with its GELU",
            lambda x, w, b: F.linear(x, w, b, act="gelu"),
            {"x": (40, 24), "w": (20, 24), "b": (20,)},
        )
    },
    "matmul": {"product": Case("(40, 24) by (24, 20)", lambda a, b: a @ b, {"a": (40, 24), "b": (24, 20)})},
}


def chosen(op: str, name: str | None = None) -> tuple[str, Case]:
    """The case of this name, or the operation's first."""
    if op not in CASES:
        raise ValueError(f"trace: operation is {op!r}, should be one of {', '.join(CASES)}")
    name = next(iter(CASES[op])) if name is None else name
    if name not in CASES[op]:
        raise ValueError(f"trace: case of {op} is {name!r}, should be one of {', '.join(CASES[op])}")
    return name, CASES[op][name]


def arrays_of(case: Case) -> dict:
    """The case's arrays, the same ones each time."""
    rng = np.random.default_rng(0)
    draw = lambda given: rng.standard_normal(given).astype(np.float32) if isinstance(given, tuple) else given.copy()
    return {name: draw(given) for name, given in case.arrays.items()}

"""Cases of the elementwise operations: every row of the table in core/reference/pointwise.py."""

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, away, coin, distinct, normal, positive, value

INF, NAN = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, INF, -INF, 1.0, -1.0]  # what they become is compared with torch by class and sign
LARGE = [30.0, -30.0, 88.0, -88.0, 1e4, -1e4]  # a careless exp overflows here, and inf - inf or 0 * inf follows


def _torch_clip(x):
    return torch.clamp(x, -1.0, 0.75)


# name, ours, torch's, a maker of inputs where the function is smooth
UNARY = [
    ("neg", lambda x: -x, lambda x: -x, normal),
    ("abs", lambda x: abs(x), torch.abs, away),
    ("exp", lambda x: F.exp(x), torch.exp, normal),
    ("log", lambda x: F.log(x), torch.log, positive),
    ("sqrt", lambda x: F.sqrt(x), torch.sqrt, positive),
    ("tanh", lambda x: F.tanh(x), torch.tanh, normal),
    ("sigmoid", lambda x: F.sigmoid(x), torch.sigmoid, normal),
    # torch's softplus is linear above 20, an error of 1e-11 there; logaddexp is the function itself
    ("softplus", lambda x: F.softplus(x), lambda x: torch.logaddexp(x, torch.zeros_like(x)), normal),
    ("silu", lambda x: F.silu(x), TF.silu, normal),
    ("relu", lambda x: F.relu(x), torch.relu, away),
    ("leaky_relu", lambda x: F.leaky_relu(x), TF.leaky_relu, away),
    ("gelu", lambda x: F.gelu(x), TF.gelu, normal),
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), lambda x: TF.gelu(x, approximate="tanh"), normal),
]

BINARY = [
    ("add", lambda x, y: x + y, torch.add, normal, normal),
    ("sub", lambda x, y: x - y, torch.sub, normal, normal),
    ("mul", lambda x, y: x * y, torch.mul, normal, normal),
    ("div", lambda x, y: x / y, torch.div, normal, away),
    ("pow", lambda x, y: x**y, torch.pow, positive, normal),
]

SHAPES = [  # how two shapes may broadcast
    ("same", (3, 4), (3, 4)),
    ("both-repeat", (2, 1, 4), (3, 1)),
    ("vector-right", (2, 3, 4), (4,)),
    ("0d-left", (), (3, 2)),
    ("0d-right", (5,), ()),
    ("0d-both", (), ()),
    ("empty", (0, 3), (3,)),
    ("empty-repeat", (2, 0), (1, 1)),
    ("many-rows", (700, 3), (3,)),
]


def _unary():
    for name, ours, theirs, smooth in UNARY:
        yield Case(f"{name}/smooth", ours, theirs, (smooth(3, 7),))
        yield Case(f"{name}/0d", ours, theirs, (smooth(),))
        yield Case(f"{name}/empty", ours, theirs, (smooth(2, 0, 3),))
        yield Case(f"{name}/special", ours, theirs, (value(SPECIAL),), smooth=False)
        yield Case(f"{name}/nan", ours, theirs, (value([NAN, 1.0]),), smooth=False)
        if name not in ("log", "sqrt"):
            yield Case(f"{name}/large", ours, theirs, (value(LARGE),), smooth=False)


def _binary():
    for name, ours, theirs, left, right in BINARY:
        for label, x, y in SHAPES:
            yield Case(f"{name}/{label}", ours, theirs, (left(*x), right(*y)))


POW = [
    Case("pow/negative-base-cubed", lambda x: x**3, lambda x: x**3, (away(4, 3),)),
    Case("pow/square-at-zero", lambda x: x**2, lambda x: x**2, (value([0.0, 1.0, -2.0]),)),
    Case("pow/exponent-one", lambda x: x**1, lambda x: x**1, (value([0.0, -2.0, 3.0]),)),
    Case("pow/exponent-zero", lambda x: x**0, lambda x: x**0, (value([0.0, -2.0, 3.0]),)),
    Case("pow/exponent-zero-array", lambda x, y: x**y, torch.pow, (away(3), value([0.0, 0.0, 0.0])), (1,)),
    Case("pow/inverse", lambda x: x**-1, lambda x: x**-1, (away(5),)),
    Case("pow/root", lambda x: x**0.5, lambda x: x**0.5, (positive(5),)),
    Case("pow/number-base", lambda x: 2.0**x, lambda x: 2.0**x, (normal(5),)),
    Case(  # 0^0, 0^2, (-2)^3 whose logarithm is nan, 0^-1
        "pow/corners",
        lambda x, y: x**y,
        torch.pow,
        (value([0.0, 0.0, -2.0, 0.0]), value([0.0, 2.0, 3.0, -1.0])),
        smooth=False,
    ),
    Case("pow/zero-to-x", lambda y: 0.0**y, lambda y: torch.pow(0.0, y), (value([0.0, 1.0, 2.5]),), smooth=False),
]

NUMBERS = [  # a Python number on either side
    Case("add/number", lambda x: x + 2.5, lambda x: x + 2.5, (normal(4),)),
    Case("add/number-left", lambda x: 2 + x, lambda x: 2 + x, (normal(4),)),
    Case("sub/number-left", lambda x: 2.5 - x, lambda x: 2.5 - x, (normal(4),)),
    Case("mul/number", lambda x: 0.1 * x, lambda x: 0.1 * x, (normal(4),)),
    Case("div/number", lambda x: x / 3, lambda x: x / 3, (normal(4),)),
    Case("div/number-left", lambda x: 1 / x, lambda x: 1 / x, (away(4),)),
    Case("div/by-zero", lambda x, y: x / y, torch.div, (value([1.0, -1.0, 0.0]), value([0.0, 0.0, 0.0])), smooth=False),
    Case("sub/of-equals", lambda x: x - x, lambda x: x - x, (normal(4),)),
    Case("mul/square", lambda x: x * x, lambda x: x * x, (normal(4),)),
    Case("div/itself", lambda x: x / x, lambda x: x / x, (away(4),)),
    Case("add/reused", lambda x: (x + x) * x + x, lambda x: (x + x) * x + x, (normal(3, 2),)),
]


def _apart(rng):
    """Two columns whose elements differ by at least 0.1, stacked: (2, 3, 4)."""
    return distinct(2, 3, 4)(rng)


def _extremes():
    for name, ours, theirs in (
        ("maximum", lambda x, y: F.maximum(x, y), torch.maximum),
        ("minimum", lambda x, y: F.minimum(x, y), torch.minimum),
    ):
        first = lambda f: lambda pair: f(pair[0], pair[1])
        yield Case(f"{name}/apart", first(ours), first(theirs), (_apart,))
        yield Case(f"{name}/broadcast", ours, theirs, (value([[0.1], [0.5], [-1.2]]), value([0.3, -0.4, 0.9, 2.0])))
        yield Case(f"{name}/0d", ours, theirs, (value(0.5), value([0.3, -0.4, 0.9])))
        ties = (value([1.0, 2.0, 3.0, -INF, INF]), value([1.0, 5.0, 3.0, -INF, INF]))
        yield Case(f"{name}/ties", ours, theirs, ties, smooth=False)
        yield Case(f"{name}/nan", ours, theirs, (value([1.0, NAN, NAN]), value([NAN, 1.0, NAN])), smooth=False)


CHOICES = [
    Case("clip/both", lambda x: F.clip(x, -1.0, 0.75), _torch_clip, (value([-2.0, -0.9, 0.0, 0.5, 0.9, 3.0]),)),
    Case("clip/low", lambda x: F.clip(x, low=0.1), lambda x: torch.clamp(x, min=0.1), (away(3, 4),)),
    Case("clip/high", lambda x: F.clip(x, high=0.1), lambda x: torch.clamp(x, max=0.1), (away(3, 4),)),
    Case("clip/edges", lambda x: F.clip(x, -1.0, 0.75), _torch_clip, (value([-1.0, 0.75]),), smooth=False),
    Case("clip/special", lambda x: F.clip(x, -1.0, 0.75), _torch_clip, (value([*SPECIAL, NAN]),), smooth=False),
    Case("leaky_relu/slope", lambda x: F.leaky_relu(x, 0.3), lambda x: TF.leaky_relu(x, 0.3), (away(3, 4),)),
    Case("abs/function", lambda x: F.abs(x), torch.abs, (away(4),)),
    Case("where/same", lambda c, x, y: F.where(c, x, y), torch.where, (coin(3, 4, p=0.5), normal(3, 4), normal(3, 4))),
    Case("where/broadcast", lambda c, x, y: F.where(c, x, y), torch.where, (coin(3, 1), normal(4), normal(2, 1, 1))),
    Case("where/0d", lambda c, x, y: F.where(c, x, y), torch.where, (coin(4), normal(), normal(4))),
    Case("where/number", lambda c, x: F.where(c, x, 0.0), lambda c, x: torch.where(c, x, 0.0), (coin(4), normal(4))),
    Case(  # the branch not taken may hold anything: its gradient is 0, not nan
        "where/nan-not-taken",
        lambda c, x, y: F.where(c, x, y),
        torch.where,
        (value([True, False]), value([1.0, NAN]), value([NAN, 2.0])),
        smooth=False,
    ),
]

CASES = [*_unary(), *_binary(), *POW, *NUMBERS, *_extremes(), *CHOICES]

assert len(np.unique([c.name for c in CASES])) == len(CASES)

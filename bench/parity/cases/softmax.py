"""Softmax and its logarithm."""

import torch

from bench.parity.cases.inputs import Case, F, normal, value
from bench.parity.cases.variational import INF

CASES = [
    Case(
        f"{name}/{label}",
        lambda x, f=ours, a=axis: f(x, a),
        lambda x, f=torchs, a=axis: f(x, a),
        (make,),
        smooth=smooth,
    )
    for name, ours, torchs in (
        ("softmax", lambda x, a: F.softmax(x, a), torch.softmax),
        ("log_softmax", lambda x, a: F.log_softmax(x, a), torch.log_softmax),
    )
    for label, axis, make, smooth in [
        ("last", -1, normal(3, 5), True),
        ("first", 0, normal(3, 5), True),
        ("middle", 1, normal(2, 3, 4), True),
        ("vector", 0, normal(6), True),
        ("one-class", -1, normal(3, 1), True),
        ("no-rows", -1, normal(0, 5), True),
        ("wide", -1, normal(2, 1500), True),
        ("large", -1, normal(3, 5, scale=1e4), False),
        ("far-from-zero", -1, normal(3, 5, mean=1e3), True),
        ("some-minus-inf", -1, value([[0.0, -INF, 1.0], [-INF, -INF, 2.0]]), False),
        ("all-minus-inf", -1, value([[-INF, -INF], [0.0, 1.0]]), False),
    ]
]

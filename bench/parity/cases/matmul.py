"""Matrix products of every rank, and linear layers."""

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import ACTS, KINKED, Case, F, half, normal, whole
from bench.parity.cases.shape import same

MATMUL = [
    same(f"matmul/{name}", lambda x, y: x @ y, normal(*x), normal(*y))
    for name, x, y in [
        ("matrices", (3, 4), (4, 5)),
        ("square", (4, 4), (4, 4)),
        ("vectors", (4,), (4,)),
        ("matrix-vector", (3, 4), (4,)),
        ("vector-matrix", (4,), (4, 3)),
        ("batch-matrix", (2, 3, 4), (4, 5)),
        ("matrix-batch", (3, 4), (2, 4, 5)),
        ("batches-broadcast", (2, 1, 3, 4), (5, 4, 2)),
        ("batch-of-one", (1, 3, 4), (6, 4, 2)),
        ("vector-batch", (4,), (2, 4, 3)),
        ("batch-vector", (2, 3, 4), (4,)),
        ("no-rows", (0, 4), (4, 5)),
        ("no-inner", (3, 0), (0, 5)),
        ("no-batch", (0, 2, 3), (3, 2)),
        ("one", (1, 1), (1, 1)),
        ("long-inner", (3, 2000), (2000, 2)),
    ]
] + [
    Case("matmul/function", lambda x, y: F.matmul(x, y), torch.matmul, (normal(2, 3), normal(3, 2))),
    same("matmul/itself", lambda x: x @ x, normal(3, 3)),
]


def _linear():
    for act, theirs in ACTS.items():
        ours = lambda x, w, b, act=act: F.linear(x, w, b, act=act)
        torchs = lambda x, w, b, theirs=theirs: theirs(TF.linear(x, w, b))
        yield Case(f"linear/act-{act}", ours, torchs, (normal(5, 3), normal(4, 3), normal(4)), smooth=act not in KINKED)
        if act in KINKED:
            yield Case(f"linear/act-{act}-smooth", ours, torchs, (whole(5, 3), whole(4, 3), half(4)))
    linear = lambda *a: F.linear(*a)
    for label, x, w in [
        ("square", (6, 4), (4, 4)),
        ("3d", (2, 5, 3), (4, 3)),
        ("vector", (3,), (4, 3)),
        ("no-rows", (0, 3), (4, 3)),
        ("no-inputs", (2, 0), (4, 0)),
        ("one-output", (7, 3), (1, 3)),
        ("many-rows", (1500, 3), (2, 3)),
        ("past-a-block", (85, 41), (37, 41)),  # with tiles of 16: several each way, none of the last full
    ]:
        yield Case(f"linear/{label}", linear, TF.linear, (normal(*x), normal(*w), normal(w[0])))
    yield Case("linear/no-bias", linear, TF.linear, (normal(5, 3), normal(4, 3)))


CASES = [*MATMUL, *_linear()]

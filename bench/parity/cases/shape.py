"""Cases that move, join, cut, enlarge, look up, add up and multiply: reference/shape.py, sinusoids.py and matmul.py."""

import math

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, distinct, half, ids, normal, value, whole

NAN = float("nan")
ROWS = np.array([2, 0, 2, 2])  # one row three times: its gradients add up
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, True, False]])


def same(name, f, *make, **options):
    """A case whose expression reads the same on our Tensors and on torch's."""
    return Case(name, f, f, make, **options)


MOVES = [
    same("reshape/flat", lambda x: x.reshape(12), normal(3, 4)),
    same("reshape/minus-one", lambda x: x.reshape(2, -1), normal(3, 4)),
    same("reshape/tuple", lambda x: x.reshape((1, 4, 3, 1)), normal(3, 4)),
    same("reshape/to-0d", lambda x: x.reshape(()), normal(1, 1)),
    same("reshape/from-0d", lambda x: x.reshape(1, 1), normal()),
    same("reshape/empty", lambda x: x.reshape(3, 0), normal(0, 2)),
    same("reshape/of-transposed", lambda x: x.T.reshape(12), normal(3, 4)),
    same("transpose/default", lambda x: x.T, normal(3, 4)),
    Case("transpose/cycle", lambda x: x.transpose(1, 2, 0), lambda x: x.permute(1, 2, 0), (normal(2, 3, 4),)),
    Case("transpose/negative", lambda x: x.transpose((0, -1, 1)), lambda x: x.permute(0, -1, 1), (normal(2, 3, 4),)),
    Case("transpose/0d", lambda x: x.transpose(), lambda x: x, (normal(),)),
    Case(
        "broadcast_to/rows",
        lambda x: F.broadcast_to(x, (3, 2, 4)),
        lambda x: x.broadcast_to((3, 2, 4)),
        (normal(2, 1),),
    ),
    Case("broadcast_to/0d", lambda x: F.broadcast_to(x, (3,)), lambda x: x.broadcast_to((3,)), (normal(),)),
    Case("broadcast_to/empty", lambda x: F.broadcast_to(x, (0, 2)), lambda x: x.broadcast_to((0, 2)), (normal(1, 2),)),
    Case(
        "astype/narrow",
        lambda x: x.astype("float32") * 1.5,
        lambda x: x.to(torch.float32) * 1.5,
        (normal(3, 4),),
        smooth=False,
    ),
    Case("astype/widen", lambda x: x.astype("float64") * 1.5, lambda x: x.to(torch.float64) * 1.5, (normal(3, 4),)),
    same("getitem/row", lambda x: x[1], normal(3, 4)),
    same("getitem/element", lambda x: x[1, -1], normal(3, 4)),
    same("getitem/slice", lambda x: x[1:, ::2], normal(3, 5)),
    same("getitem/empty-slice", lambda x: x[3:], normal(3, 4)),
    same("getitem/ellipsis", lambda x: x[..., 1], normal(2, 3, 4)),
    same("getitem/new-axis", lambda x: x[:, None, 1:], normal(3, 4)),
    Case("getitem/reversed", lambda x: x[::-1], lambda x: x.flip(0), (normal(3, 4),)),
    same("getitem/rows-repeated", lambda x: x[ROWS], normal(3, 4)),
    same("getitem/list", lambda x: x[[0, 0, 2]], normal(3, 4)),
    same("getitem/pairs", lambda x: x[[0, 1, 1], [2, 0, 0]], normal(3, 4)),
    same("getitem/rows-of-columns", lambda x: x[1:, ROWS], normal(3, 4)),
    same("getitem/mask", lambda x: x[MASK], normal(3, 4)),
    same("getitem/mask-of-rows", lambda x: x[MASK[:, 0]], normal(3, 4)),
    same("getitem/ids-as-input", lambda x, i: x[i], normal(5, 2), ids(5, 2, 3)),
    Case(
        "concatenate/first",
        lambda x, y: F.concatenate([x, y]),
        lambda x, y: torch.cat([x, y]),
        (normal(2, 3), normal(4, 3)),
    ),
    Case(
        "concatenate/last-with-empty",
        lambda x, y, z: F.concatenate((x, y, z), axis=-1),
        lambda x, y, z: torch.cat((x, y, z), -1),
        (normal(2, 3), normal(2, 0), normal(2, 1)),
    ),
    Case("concatenate/one", lambda x: F.concatenate([x], 1), lambda x: torch.cat([x], 1), (normal(2, 3),)),
    Case("concatenate/same-twice", lambda x: F.concatenate([x, x], 1), lambda x: torch.cat([x, x], 1), (normal(2, 3),)),
    Case("split/last", lambda x: F.split(x, (1, 3, 2)), lambda x: torch.split(x, (1, 3, 2), -1), (normal(2, 6),)),
    Case(
        "split/first-with-empty",
        lambda x: F.split(x, [2, 0, 1], axis=0),
        lambda x: torch.split(x, [2, 0, 1], 0),
        (normal(3, 2),),
    ),
    Case("embedding/repeated", lambda i, w: F.embedding(i, w), TF.embedding, (ids(5, 4, 6), normal(5, 3))),
    Case("embedding/0d", lambda i, w: F.embedding(i, w), TF.embedding, (value(2), normal(5, 3))),
    Case("embedding/empty", lambda i, w: F.embedding(i, w), TF.embedding, (value([], int), normal(5, 3))),
    Case("embedding/one-row-often", lambda i, w: F.embedding(i, w), TF.embedding, (ids(2, 3000), normal(3, 2))),
]


def upsample(name, shape, *scale):
    """`scale` as our function takes it, by default 2."""
    both = scale[0] if scale and isinstance(scale[0], tuple) else (*scale, *scale) or (2, 2)
    return Case(
        f"upsample_nearest/{name}",
        lambda x: F.upsample_nearest(x, *scale),
        lambda x: x.repeat_interleave(both[0], 1).repeat_interleave(both[1], 2),
        (normal(*shape),),
        options={"scale": both},
    )


def timesteps(name, n, dim, max_period=10_000.0, make=None):
    """Ho et al. 2020, appendix B, cosines first, as Dhariwal & Nichol write it in PyTorch."""

    def theirs(t):
        frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2, dtype=t.dtype) / (dim // 2)).to(t.device)
        angles = t[:, None] * frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)

    ours = lambda t: F.timestep_embedding(t, dim, max_period=max_period)
    make = make or (lambda rng: rng.integers(0, 1000, n).astype(float))
    return Case(f"timestep_embedding/{name}", ours, theirs, (make,))


IMAGES = [
    upsample("doubled", (2, 3, 4, 5)),
    upsample("pair", (2, 3, 4, 5), (3, 1)),
    upsample("tripled", (1, 2, 5, 17), 3),  # more pixels and channels than a block of 16 holds, none full
    upsample("same-size", (2, 3, 4, 5), 1),
    upsample("large-blocks", (1, 2, 2, 3), (8, 5)),
    upsample("one-pixel", (1, 1, 1, 1), 4),
    upsample("no-images", (0, 3, 3, 2)),
    upsample("no-pixels", (2, 0, 3, 2), (2, 3)),
    timesteps("steps", 5, 8),
    timesteps("odd-half", 7, 6),
    timesteps("shortest", 3, 2),
    timesteps("many", 37, 70),
    timesteps("none", 0, 8),
    timesteps("short-periods", 4, 8, max_period=1.0),
    timesteps("between-steps", 5, 8, make=normal(5)),
]


def _reductions():
    axes = [("all", None), ("first", 0), ("last", -1), ("two", (0, 2)), ("middle", 1)]
    for name in ("sum", "mean"):
        f = lambda x, axis=None, keep=False, name=name: getattr(x, name)(axis, keep)
        for label, axis in axes:
            yield same(f"{name}/{label}", lambda x, f=f, axis=axis: f(x, axis), normal(3, 4, 5))
            yield same(f"{name}/{label}-kept", lambda x, f=f, axis=axis: f(x, axis, True), normal(3, 4, 5))
        yield same(f"{name}/0d", f, normal())
        yield same(f"{name}/empty", f, normal(0, 3), smooth=name == "sum")  # the mean of nothing is nan
        yield same(f"{name}/empty-axis", lambda x, f=f: f(x, 0), normal(0, 3), smooth=name == "sum")
        yield same(f"{name}/empty-other-axis", lambda x, f=f: f(x, 1), normal(0, 3))
        yield same(f"{name}/many-rows", lambda x, f=f: f(x, 0), normal(5000, 3, mean=1.0))
        yield same(f"{name}/long", f, normal(3, 7001, mean=1.0))
        yield same(f"{name}/twice", lambda x, f=f: f(x) + f(x, 0)[1], normal(3, 4))
    for name in ("max", "min"):
        f = lambda x, axis=None, keep=False, name=name: getattr(x, name)(axis, keep)
        g = lambda x, axis=None, keep=False, name=name: getattr(x, "a" + name)(() if axis is None else axis, keep)
        for label, axis in axes:
            at = lambda h, axis=axis, keep=False: lambda x: h(x, axis, keep)
            yield Case(f"{name}/{label}", at(f), at(g), (distinct(3, 4, 5),))
            yield Case(f"{name}/{label}-kept", at(f, keep=True), at(g, keep=True), (distinct(3, 4, 5),))
        yield Case(f"{name}/0d", f, g, (normal(),))
        yield Case(f"{name}/empty-other-axis", lambda x, f=f: f(x, 1), lambda x, g=g: g(x, 1), (normal(0, 3),))
        yield Case(f"{name}/ties", lambda x, f=f: f(x, 1), lambda x, g=g: g(x, 1), (whole(4, 9),), smooth=False)
        yield Case(f"{name}/nan", f, g, (value([1.0, NAN, 3.0, 3.0]),), smooth=False)


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

ACTS = {
    None: lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: TF.leaky_relu(x, 0.01),
    "gelu": TF.gelu,
    "gelu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
}
KINKED = ("relu", "leaky_relu")


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


CASES = [*MOVES, *IMAGES, *_reductions(), *MATMUL, *_linear()]

assert len(np.unique([c.name for c in CASES])) == len(CASES)

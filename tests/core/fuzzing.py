"""How a random call of each public function is made: arguments that fit, and what may stand in the place of one.

A recipe draws arguments that the function must take. `STRANGE` is what people pass by mistake.
"""

import math
from fractions import Fraction

import numpy as np

from core import Tensor

PALETTE = np.array([0.5, -1.5, 0.0, 3.0, -0.0, 1e-30, 1e30, np.inf, 1.0, -np.inf, np.nan, 7.0, -2.0])
INTEGERS = np.array([0, 1, 2, 3, -1, 100, -100, 2, 0])


def _strange_array(dtype, *shape):
    with np.errstate(all="ignore"):
        return np.resize(PALETTE if np.dtype(dtype).kind in "fc" else INTEGERS, shape).astype(dtype)


class Foreign:
    """What has a shape and a dtype, and is no array."""

    shape, dtype, ndim, size = (2, 2), np.dtype("float32"), 2, 4


STRANGE = [
    *(None, True, False, -1, 0, 1, 2, 7, -7, 2**31, 2**63, -(2**70)),
    *(0.5, -0.5, 1.5, 1e300, math.nan, math.inf, -math.inf),
    *("", "mean", "x", "1", b"1", (), (1,), (1, 1), (0, 0), (1, 2, 3), (-1,), (-1, 2), (1.5, 2), (None, 1), ("a", 1)),
    *(
        [1, 2],
        [[1.0, 2.0], [3.0]],
        [],
        [None],
        {},
        {1},
        object(),
        len,
        Ellipsis,
        slice(1),
        1j,
        Fraction(1, 3),
        Foreign(),
    ),
    *(np.int64(1), np.float64(0.5), np.float32(np.nan), np.bool_(True), np.array(2), np.array("x"), np.array([None])),
    *(_strange_array(t, 2, 3) for t in ("f2", "f4", "f8", ">f4", "i8", "u8", "i1", "?", "c8", "M8[s]", "S1", "f4,i4")),
    *(_strange_array("f4", *s) for s in ((), (0,), (1,), (3,), (0, 3), (2, 0), (1, 1, 1), (2, 2, 2, 2), (1,) * 7)),
    *(Tensor(_strange_array("f4", 2, 3), requires_grad=True), Tensor(INTEGERS), Tensor(INTEGERS > 0)),
    *(np.broadcast_to(np.float32(2), (2, 3)), np.float32([[1, 2], [3, 4]]).T, np.ma.masked_array([1.0, 2.0])),
]


class Choices:
    """Small choices: `integer(low, high)` and `pick` draw, by hypothesis or by a seeded generator."""

    def __init__(self, integer, pick):
        self.int, self._pick = integer, pick
        self.dtype = self.pick("f4", "f4", "f4", "f8", "f2")

    def pick(self, *choices):
        return self._pick(choices)

    def shape(self, least=0, most=4) -> tuple:
        return tuple(self.int(0, 4) for _ in range(self.int(least, most)))

    def pair(self, low, high):
        return self.int(low, high) if self.int(0, 1) else (self.int(low, high), self.int(low, high))

    def array(self, *shape, dtype=None, tensor=True):
        """Values of the palette in C or in Fortran order, as an array, a Tensor or one that wants a gradient."""
        dtype, start = np.dtype(dtype or self.dtype), self.int(0, 6)
        source = np.roll(PALETTE if dtype.kind == "f" else INTEGERS, start)
        with np.errstate(all="ignore"):
            x = np.resize(source, shape[::-1]).astype(dtype).T if start > 3 else np.resize(source, shape).astype(dtype)
        kind = self.int(0, 2) if tensor else 0
        return x if not kind else Tensor(x, requires_grad=kind == 2 and dtype.kind == "f")

    def ids(self, *shape, below, also=()):
        values = [*range(below), *also] or [0]
        return np.resize(np.roll(values, self.int(0, 3)), shape).astype(
            self.pick("i8", "i4", "u1" if not also else "i2")
        )

    def some(self, *shape, dtype=None):
        return self.array(*shape, dtype=dtype) if self.int(0, 1) else None

    def broadcast(self, shape) -> tuple:
        """A shape that broadcasts to `shape`."""
        kept = shape[self.int(0, len(shape)) :]
        return tuple(1 if self.int(0, 3) == 0 else n for n in kept)


# --- recipes: (arguments, options) that fit ----------------------------------------


def one(c):
    return (c.array(*c.shape(), dtype=c.pick(None, None, None, "i8")),), {}


def two(c):
    shape = c.shape()
    return (c.array(*shape), c.array(*c.broadcast(shape))), {}


def along(c):
    shape = c.shape(1)
    return (c.array(*shape), c.int(-len(shape), len(shape) - 1)), {}


def image(c):
    options = {"stride": c.pair(1, 3), "padding": c.pair(0, 2), "dilation": c.pair(1, 2)}
    return options, (c.int(1, 3), c.int(1, 3)), (c.int(0, 2), c.int(1, 3), c.int(1, 3))


def both(value):
    return value if isinstance(value, tuple | list) else (value, value)


def activation(c):
    return {
        "act": c.pick(None, "relu", "leaky_relu", "gelu", "gelu_tanh", "tanh"),
        "negative_slope": c.pick(0.01, 0, 1),
    }


def conv2d(c):
    options, taps, (n, cin, cout) = image(c)
    least = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(both(options["dilation"]), taps, both(options["padding"]))]
    x = c.array(n, *(c.int(max(m, 0), 6) for m in least), cin)
    return (x, c.array(*taps, cin, cout), c.some(cout)), {**options, **activation(c)}


def conv_transpose2d(c):
    options, taps, (n, cin, cout) = image(c)
    slack = [max(s, d) - 1 for s, d in zip(both(options["stride"]), both(options["dilation"]))]
    options["output_padding"] = tuple(c.int(0, m) for m in slack)
    size = []
    for s, d, k, p in zip(both(options["stride"]), both(options["dilation"]), taps, both(options["padding"])):
        size.append(c.int(max(1, -(-(2 * p - d * (k - 1)) // s) + 1), 6))
    return (c.array(n, *size, cin), c.array(*taps, cout, cin), c.some(cout)), {**options, **activation(c)}


def attention(c):
    b, h, tq, tk, d, dv = (c.int(0, 2), c.int(0, 2), c.int(0, 5), c.int(0, 5), c.int(0, 4), c.int(0, 4))
    options = {"causal": c.pick(False, True), "causal_offset": c.int(-6, 6), "scale": c.pick(None, 0.5, 0, -1)}
    full = (b, h, tq, tk)
    options["mask"] = c.array(*c.broadcast(full), dtype="?", tensor=False) if c.int(0, 1) else None
    options["bias"] = c.some(*c.broadcast(full))
    return (c.array(b, h, tq, d), c.array(b, h, tk, d), c.array(b, h, tk, dv)), options


def norm(c):
    shape = c.shape(1)
    return (c.array(*shape), c.some(shape[-1]), c.some(shape[-1])), {"eps": c.pick(1e-5, 0, 1.0)}


def add_layer_norm(c):
    (x, w, b), options = norm(c)
    mask = {"mask": c.array(*x.shape, dtype="?", tensor=False)} if c.int(0, 1) else {}
    return (x, c.array(*x.shape), w, b), {**options, **mask, "dropout_p": c.pick(0, 0.5, 1.0)}


def batch_norm(c):
    training = c.pick(True, False)
    shape = (c.int(2, 4), *c.shape(1, 2)) if training else c.shape(1)
    if training and math.prod(shape[:-1]) < 2:
        shape = (2, shape[-1])
    n, none = shape[-1], training and c.int(0, 1)
    mean, var = (None if none else c.array(n, tensor=False).copy() for _ in "mv")
    options = {**activation(c), "dropout_p": c.pick(0, 0.5, 1), "momentum": c.pick(0.1, 0, 1), "eps": c.pick(1e-5, 0)}
    return (c.array(*shape), mean, var, c.some(n), c.some(n), training), options


def group_norm(c):
    groups = c.int(1, 3)
    channels = groups * c.int(0, 3)
    x = c.array(*c.shape(1, 3), channels)
    return (x, groups, c.some(channels), c.some(channels)), {"eps": c.pick(1e-5, 0, 1.0), "act": c.pick(None, "silu")}


def upsample_nearest(c):
    return (c.array(c.int(0, 2), c.int(0, 3), c.int(0, 3), c.int(0, 3)), c.pair(1, 3)), {}


def timestep_embedding(c):
    n = c.int(0, 4)
    t = c.array(n) if c.int(0, 1) else c.ids(n, below=1000)
    return (t, 2 * c.int(1, 3)), {"max_period": c.pick(10_000.0, 1, 100)}


def dropout(c):
    x = c.array(*c.shape())
    mask = {"mask": c.array(*x.shape, dtype="?", tensor=False)} if c.int(0, 1) else {}
    return (x, c.pick(0, 0.3, 1), c.pick(True, False)), mask


def matmul(c):
    n, k, m = c.int(0, 4), c.int(0, 4), c.int(0, 4)
    batch = c.shape(0, 2)
    x, y = c.pick(((k,), (k,)), ((n, k), (k,)), ((k,), (k, m)), ((*batch, n, k), (*c.broadcast(batch), k, m)))
    return (c.array(*x), c.array(*y)), {}


def linear(c):
    d_in, d_out = c.int(0, 4), c.int(0, 4)
    return (c.array(*c.shape(0, 3), d_in), c.array(d_out, d_in), c.some(d_out)), {"act": activation(c)["act"]}


def embedding(c):
    v = c.int(1, 5)
    return (c.ids(*c.shape(0, 3), below=v), c.array(v, c.int(0, 4))), {}


def concatenate(c):
    shape = list(c.shape(1))
    axis = c.int(-len(shape), len(shape) - 1)
    parts = [
        c.array(*(c.int(0, 3) if i == axis % len(shape) else n for i, n in enumerate(shape)))
        for _ in range(c.int(1, 3))
    ]
    return (parts, axis), {}


def split(c):
    sizes = [c.int(0, 3) for _ in range(c.int(1, 3))]
    shape = list(c.shape(1))
    axis = c.int(-len(shape), len(shape) - 1)
    shape[axis] = sum(sizes)
    return (c.array(*shape), sizes, axis), {}


def broadcast_to(c):
    shape = c.shape()
    return (c.array(*c.broadcast(shape)), shape), {}


def loss_options(c):
    return {"reduction": c.pick("mean", "sum", "none")}


def class_options(c):
    numbers = {"label_smoothing": c.pick(0.0, 0.1, 1), "z_loss": c.pick(0.0, 0.5), "ignore_index": c.pick(-100, 0, -1)}
    return {**loss_options(c), **numbers}


def cross_entropy(c):
    shape, v, options = c.shape(0, 2), c.int(1, 5), class_options(c)
    return (c.array(*shape, v), c.ids(*shape, below=v, also=(options["ignore_index"],))), options


def linear_cross_entropy(c):
    shape, v, d, options = c.shape(0, 2), c.int(1, 5), c.int(0, 4), class_options(c)
    target = c.ids(*shape, below=v, also=(options["ignore_index"],))
    return (c.array(*shape, d), c.array(v, d), target), options


def bce_with_logits(c):
    shape = c.shape()
    target = c.pick(0.0, 1, 0.9) if c.int(0, 1) else Tensor(c.array(*shape, tensor=False))
    return (c.array(*shape), target), loss_options(c)


def gaussian_kl(c):
    shape = c.shape()
    return (c.array(*shape), c.array(*shape)), loss_options(c)


def reparameterize(c):
    shape = c.shape()
    return (c.array(*shape), c.array(*shape)), {"noise": c.pick(None, c.array(*shape, tensor=False))}


def elbo(c):
    n, rest, z = c.int(1, 3), c.shape(0, 2), c.int(0, 3)
    x = c.array(n, *rest, tensor=False)
    return (c.array(n, *rest), x, c.array(n, z), c.array(n, z)), {
        "beta": c.pick(1.0, 0, 4),
        "parts": c.pick(False, True),
    }


KINDS = ("non_saturating", "minimax", "hinge")


def where(c):
    shape = c.shape()
    return (c.array(*c.broadcast(shape), dtype="?"), c.array(*shape), c.array(*c.broadcast(shape))), {}


RECIPES = {
    **dict.fromkeys(("abs", "exp", "gelu", "log", "relu", "sigmoid", "silu", "softplus", "sqrt", "tanh"), one),
    **dict.fromkeys(("maximum", "minimum"), two),
    **dict.fromkeys(("softmax", "log_softmax"), along),
    **{
        f.__name__: f
        for f in (conv2d, conv_transpose2d, attention, add_layer_norm, batch_norm, dropout, matmul, linear)
    },
    **{f.__name__: f for f in (embedding, concatenate, split, broadcast_to, cross_entropy, linear_cross_entropy, elbo)},
    **{f.__name__: f for f in (bce_with_logits, gaussian_kl, reparameterize, where)},
    **{f.__name__: f for f in (group_norm, upsample_nearest, timestep_embedding)},
    "layer_norm": norm,
    "leaky_relu": lambda c: ((c.array(*c.shape()), c.pick(0.01, 0, -1)), {}),
    "clip": lambda c: ((c.array(*c.shape()), *c.pick((0, 1), (None, 0.5), (-1.0, None), (2, 1))), {}),
    "discriminator_loss": lambda c: ((c.array(*c.shape()), c.array(*c.shape())), {"kind": c.pick(*KINDS)}),
    "generator_loss": lambda c: ((c.array(*c.shape()),), {"kind": c.pick(*KINDS)}),
}

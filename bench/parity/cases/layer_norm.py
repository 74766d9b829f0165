"""Layer norm, and the sum of two branches normalised."""

import torch.nn.functional as TF

from bench.parity.cases.attention import INF
from bench.parity.cases.inputs import Case, F, coin, normal, value


def norm(name, *shape, affine="wb", eps=1e-5, x=None, smooth=True):
    width = shape[-1:]

    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if letter in affine else None for letter in "wb"]

    def ours(x, *rest):
        return F.layer_norm(x, *split(rest), eps=eps)

    def theirs(x, *rest):
        return TF.layer_norm(x, width, *split(rest), eps)

    return Case(
        f"layer_norm/{name}", ours, theirs, (x or normal(*shape), *[normal(*width)] * len(affine)), smooth=smooth
    )


NORMS = [
    norm("rows", 6, 5),
    norm("3d", 2, 3, 7),
    norm("vector", 5),
    norm("no-rows", 0, 5),
    norm("no-weight", 6, 5, affine="b"),
    norm("no-bias", 6, 5, affine="w"),
    norm("bare", 6, 5, affine=""),
    norm("square", 5, 5),
    norm("eps", 6, 5, eps=0.5),
    norm("width-1", 4, 1),  # the result is the bias, the gradient of x truly zero
    # these two vary on a scale below a difference's step
    norm("constant-rows", 2, 4, x=value([[3.0] * 4, [-1.0] * 4]), smooth=False),
    norm("large-mean", 8, 33, x=normal(8, 33, mean=100.0)),
    norm("small-values", 6, 5, x=normal(6, 5, scale=1e-3), smooth=False),
    norm("past-a-block", 13, 37),  # with blocks of 16: three to a row, and several rows to a program
    norm("many-rows", 1500, 4),
    norm("wide", 3, 1100),
]


def add_norm(name, *shape, p=0.0, affine="wb"):
    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if want else None for want in ("w" in affine, "b" in affine, p > 0)]

    def ours(x, residual, *rest):
        w, b, mask = split(rest)
        return F.add_layer_norm(x, residual, w, b, dropout_p=p, mask=mask)

    def theirs(x, residual, *rest):
        w, b, mask = split(rest)
        r = residual + (x if mask is None else x * mask / (1 - p))
        return TF.layer_norm(r, shape[-1:], w, b), r

    make = [normal(*shape), normal(*shape)] + [normal(shape[-1])] * len(affine) + [coin(*shape)] * (p > 0)
    return Case(f"add_layer_norm/{name}", ours, theirs, tuple(make))


ADD_NORMS = [
    add_norm("rows", 6, 5),
    add_norm("3d", 2, 3, 7),
    add_norm("bare", 6, 5, affine=""),
    add_norm("dropped", 6, 5, p=0.3),
    add_norm("dropped-3d", 2, 3, 7, p=0.5),
    add_norm("no-rows", 0, 5),
    Case(  # no gradient goes through the norm, which would make nan of the infinity
        "add_layer_norm/only-the-sum",
        lambda x, residual, w: F.add_layer_norm(x, residual, w, None)[1],
        lambda x, residual, w: residual + x,
        (normal(3, 5), value([[1, 2, INF, 3, 4]] * 3), normal(5)),
        smooth=False,
    ),
]

CASES = [*NORMS, *ADD_NORMS]

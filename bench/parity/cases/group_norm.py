"""Group norm."""

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, normal, value


def grouped(x, groups, w, b, eps):
    """Group norm as its definition reads: PyTorch's own variance is off by 1e-12 in float64 where the mean is 100."""
    parts = x.reshape(len(x), x[:1, ..., 0].numel(), groups, x.shape[-1] // groups)
    parts = parts - parts.mean((1, 3), keepdim=True)
    y = (parts / torch.sqrt((parts * parts).mean((1, 3), keepdim=True) + eps)).reshape(x.shape)
    y = y if w is None else y * w
    return y if b is None else y + b


def group(name, shape, groups, affine="wb", act=None, eps=1e-5, x=None, smooth=True, baseline=TF.group_norm):
    """x (N, ..., C) in `groups` groups of channels; `baseline` is None where PyTorch's own gradients fail."""

    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if letter in affine else None for letter in "wb"]

    def ours(x, *rest):
        return F.group_norm(x, groups, *split(rest), eps, act=act)

    def oracle(x, *rest):
        y = grouped(x, groups, *split(rest), eps)
        return TF.silu(y) if act else y

    def theirs(x, *rest):
        y = baseline(x.movedim(-1, 1), groups, *split(rest), eps).movedim(1, -1)
        return TF.silu(y) if act else y

    make = x or normal(*shape), *[normal(shape[-1])] * len(affine)
    both = (theirs if baseline else oracle), make, (), oracle
    return Case(f"group_norm/{name}", ours, *both, smooth=smooth, options={"groups": groups, "act": act})


CASES = [
    group("image", (2, 3, 5, 6), 2),
    group("silu", (2, 3, 5, 6), 3, act="silu"),
    group("one-group", (3, 4, 3, 5), 1),
    group("group-a-channel", (2, 4, 3, 5), 5, act="silu"),
    group("one-image", (1, 3, 3, 4), 2),
    group("no-images", (0, 3, 3, 4), 2),
    group("no-pixels", (2, 0, 3, 4), 2, baseline=None),
    group("no-axes-between", (5, 6), 3),
    group("sequence", (2, 7, 6), 2),
    group("volume", (2, 2, 3, 2, 4), 2),
    group("single-pixel", (3, 1, 1, 6), 2, act="silu"),
    group("single-numbers", (4, 1, 1, 3), 3),  # the result is the bias, the gradient of x truly zero
    group("bare", (2, 3, 4, 6), 2, affine=""),
    group("bare-silu", (2, 3, 4, 6), 2, affine="", act="silu"),
    group("no-weight", (2, 3, 4, 6), 2, affine="b", baseline=None),
    group("no-bias", (2, 3, 4, 6), 2, affine="w"),
    group("eps", (2, 3, 4, 6), 2, eps=0.5),
    # these three vary on a scale below a difference's step
    group("constant", (2, 2, 2, 4), 2, x=value(np.repeat([3.0, -1.0], 16).reshape(2, 2, 2, 4)), smooth=False),
    group("small-values", (2, 3, 4, 6), 2, x=normal(2, 3, 4, 6, scale=1e-3), smooth=False),
    group("large-mean", (2, 5, 7, 6), 2, x=normal(2, 5, 7, 6, mean=100.0)),
    group("large-values", (2, 3, 4, 6), 2, act="silu", x=normal(2, 3, 4, 6, scale=1000.0)),
    group("past-a-block", (3, 7, 5, 15), 5, act="silu"),  # several blocks of pixels and of groups, none full
    group("many-pixels", (2, 25, 33, 12), 4, act="silu"),
]

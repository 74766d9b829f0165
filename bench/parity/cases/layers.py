"""Cases of attention, layer and group norm and dropout."""

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, coin, normal, value

INF = float("inf")


def attention(
    name, q=(2, 2, 4, 3), k=None, width=None, mask=None, bias=None, scale_of_q=1.0, smooth=True, maker=normal, **options
):
    """One setting of attention. `mask` and `bias` are makers; k is (B, h, Tk, d), like q unless given."""
    k = k or q
    shapes = q, k, (*k[:3], width or k[3])

    def unpack(rest):
        rest = list(rest)
        return rest.pop(0) if mask else None, rest.pop(0) if bias else None

    def ours(q, k, v, *rest):
        m, b = unpack(rest)
        return F.attention(q, k, v, mask=m, bias=b, **options)

    def theirs(q, k, v, *rest):
        m, b = unpack(rest)
        allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        if options.get("causal"):
            allowed = allowed.tril(options.get("causal_offset", 0))
        allowed = allowed if m is None else allowed & m
        allowed = allowed.expand(*q.shape[:3], k.shape[2])
        if b is not None:  # a float mask adds; what is forbidden gets -inf
            allowed = torch.where(allowed, b, torch.full_like(b, -INF))
        return TF.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=options.get("scale"))

    make = [maker(*shapes[0], scale=scale_of_q), *(maker(*s) for s in shapes[1:])]
    make += [m for m in (mask, bias) if m]
    return Case(f"attention/{name}", ours, theirs, tuple(make), smooth=smooth, options=options)


def with_gaps(*shape):
    """A bias of which about a quarter is -inf: forbidden keys."""

    def make(rng):
        bias = rng.standard_normal(shape)
        bias[rng.random(shape) < 0.25] = -INF
        return bias

    return make


def rows_off(*shape):
    """A mask whose second query sees nothing at all."""

    def make(rng):
        mask = rng.random(shape) < 0.7
        mask[..., 1, :] = False
        return mask

    return make


def lengths(batch, keys):
    """A mask of key padding (B, 1, 1, Tk): the first sentence is full, the others end early, the last has no word."""

    def make(rng):
        ends = np.array([keys, *rng.integers(1, keys, batch - 2), 0])
        return (np.arange(keys) < ends[:, None])[:, None, None, :]

    return make


def bias_rows_off(*shape):
    def make(rng):
        bias = rng.standard_normal(shape)
        bias[..., 2, :] = -INF
        return bias

    return make


LONGER = {"k": (2, 2, 6, 3)}  # Tk = 6 keys for Tq = 4 queries

ATTENTION = [
    attention("plain"),
    attention("keys-longer", **LONGER),
    attention("keys-shorter", k=(2, 2, 3, 3)),
    attention("one-query", q=(2, 2, 1, 3), k=(2, 2, 5, 3)),
    attention("one-key", k=(2, 2, 1, 3)),  # the gradients of q and k are truly zero
    attention("no-key", k=(2, 2, 0, 3)),
    attention("no-key-bias", k=(2, 2, 0, 3), bias=normal(2, 2, 4, 0)),
    attention("no-query", q=(2, 2, 0, 3), k=(2, 2, 5, 3)),
    attention("no-batch", q=(0, 2, 4, 3), k=(0, 2, 5, 3)),
    attention("width-1", q=(2, 1, 4, 1)),
    attention("value-width", width=5),
    attention("ragged", q=(1, 3, 13, 5), k=(1, 3, 17, 5)),
    attention("one-token", q=(3, 2, 1, 5)),
    attention("past-a-block", q=(1, 2, 50, 8)),  # with tiles of 16: several, the last not full
    attention("past-a-block-causal", q=(1, 2, 50, 8), causal=True),
    attention("past-a-block-keys-longer", q=(1, 2, 19, 8), k=(1, 2, 83, 8), causal=True, causal_offset=64),
    attention("past-a-block-padding", q=(3, 1, 33, 4), k=(3, 1, 50, 4), mask=lengths(3, 50)),
    attention("one-query-many-keys", q=(1, 2, 1, 8), k=(1, 2, 200, 8)),  # decoding: the keys are shared out
    attention("past-a-block-bias", q=(2, 2, 35, 8), k=(2, 2, 50, 8), bias=normal(2, 1, 1, 50)),
    attention("head-width-80", q=(1, 2, 9, 80), k=(1, 2, 11, 80)),
    attention("tiny-scores", scale_of_q=1e-6),
    attention("scale", scale=0.3),
    attention("scale-zero", scale=0.0),
    attention("large-scores", scale_of_q=50.0, smooth=False),  # varies on a scale below a difference's step
    attention("causal", causal=True),
    attention("causal-keys-longer", causal=True, **LONGER),
    attention("causal-keys-shorter", causal=True, k=(2, 2, 3, 3)),
    attention("causal-ends-aligned", causal=True, causal_offset=2, **LONGER),
    attention("causal-offset-past-end", causal=True, causal_offset=9),
    attention("causal-first-rows-off", causal=True, causal_offset=-2, **LONGER),
    attention("causal-all-rows-off", causal=True, causal_offset=-4),
    attention("offset-without-causal", causal_offset=-3),
    attention("mask-full", mask=coin(2, 2, 4, 6), **LONGER),
    attention("mask-of-keys", mask=coin(2, 1, 1, 6), **LONGER),
    attention("mask-of-pairs", mask=coin(4, 6), **LONGER),
    attention("mask-rows-off", mask=rows_off(2, 1, 4, 6), **LONGER),
    attention("mask-all-off", mask=value([[False]])),
    attention("bias-full", bias=normal(2, 2, 4, 6), **LONGER),
    attention("bias-per-head", bias=normal(1, 2, 4, 6), **LONGER),
    attention("bias-of-keys", bias=normal(2, 1, 1, 6), **LONGER),
    attention("bias-of-pairs", bias=normal(4, 6), **LONGER),
    attention("bias-0d", bias=normal()),
    attention("bias-gaps", bias=with_gaps(2, 2, 4, 6), **LONGER),
    attention("bias-rows-off", bias=bias_rows_off(4, 6), **LONGER),
    attention("causal-and-mask", causal=True, causal_offset=1, mask=coin(2, 1, 1, 6), **LONGER),
    attention("causal-and-bias", causal=True, bias=normal(2, 4, 4)),
    attention("mask-and-bias", mask=rows_off(4, 6), bias=with_gaps(2, 1, 4, 6), **LONGER),
    attention(
        "all-together",
        causal=True,
        causal_offset=2,
        scale=0.7,
        mask=coin(2, 1, 1, 6),
        bias=with_gaps(1, 2, 4, 6),
        **LONGER,
    ),
    attention("all-together-rows-off", causal=True, causal_offset=-1, mask=rows_off(4, 4), bias=bias_rows_off(4, 4)),
]


# --- layer norm ----------------------------------------


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


# --- group norm ----------------------------------------


def grouped(x, groups, w, b, eps):
    """Group norm as its definition reads: PyTorch's own variance is off by 1e-12 in float64 where the mean is 100."""
    parts = x.reshape(len(x), x[:1, ..., 0].numel(), groups, x.shape[-1] // groups)
    parts = parts - parts.mean((1, 3), keepdim=True)
    y = (parts / torch.sqrt((parts * parts).mean((1, 3), keepdim=True) + eps)).reshape(x.shape)
    y = y if w is None else y * w
    return y if b is None else y + b


def group(name, shape, groups, affine="wb", act=None, eps=1e-5, x=None, smooth=True, peer=TF.group_norm):
    """x (N, ..., C) in `groups` groups of channels; `peer` is None where PyTorch's own gradients fail."""

    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if letter in affine else None for letter in "wb"]

    def ours(x, *rest):
        return F.group_norm(x, groups, *split(rest), eps, act=act)

    def oracle(x, *rest):
        y = grouped(x, groups, *split(rest), eps)
        return TF.silu(y) if act else y

    def theirs(x, *rest):
        y = peer(x.movedim(-1, 1), groups, *split(rest), eps).movedim(1, -1)
        return TF.silu(y) if act else y

    make = x or normal(*shape), *[normal(shape[-1])] * len(affine)
    both = (theirs if peer else oracle), make, (), oracle
    return Case(f"group_norm/{name}", ours, *both, smooth=smooth, options={"groups": groups, "act": act})


GROUP_NORMS = [
    group("image", (2, 3, 5, 6), 2),
    group("silu", (2, 3, 5, 6), 3, act="silu"),
    group("one-group", (3, 4, 3, 5), 1),
    group("group-a-channel", (2, 4, 3, 5), 5, act="silu"),
    group("one-image", (1, 3, 3, 4), 2),
    group("no-images", (0, 3, 3, 4), 2),
    group("no-pixels", (2, 0, 3, 4), 2, peer=None),
    group("no-axes-between", (5, 6), 3),
    group("sequence", (2, 7, 6), 2),
    group("volume", (2, 2, 3, 2, 4), 2),
    group("single-pixel", (3, 1, 1, 6), 2, act="silu"),
    group("single-numbers", (4, 1, 1, 3), 3),  # the result is the bias, the gradient of x truly zero
    group("bare", (2, 3, 4, 6), 2, affine=""),
    group("bare-silu", (2, 3, 4, 6), 2, affine="", act="silu"),
    group("no-weight", (2, 3, 4, 6), 2, affine="b", peer=None),
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

# --- dropout, with the mask given: what torch draws is its own ----------------------------------------


def dropped(name, p, *shape):
    return Case(
        f"dropout/{name}",
        lambda x, mask: F.dropout(x, p, mask=mask),
        lambda x, mask: x * mask / (1 - p) if p < 1 else x * 0,
        (normal(*shape), coin(*shape)),
    )


DROPOUT = [
    dropped("third", 0.3, 5, 7),
    dropped("half", 0.5, 2, 3, 4),
    dropped("p-0-mask-given", 0.0, 4, 3),
    dropped("p-1", 1.0, 4, 3),
    dropped("0d", 0.5),
    dropped("empty", 0.5, 0, 3),
    Case("dropout/p-0", lambda x: F.dropout(x, 0.0) * 1.0, lambda x: x * 1.0, (normal(4),)),
    Case("dropout/not-training", lambda x: F.dropout(x, 0.5, False) * 1.0, lambda x: x * 1.0, (normal(4),)),
]

CASES = [*ATTENTION, *NORMS, *ADD_NORMS, *GROUP_NORMS, *DROPOUT]

assert len({c.name for c in CASES}) == len(CASES)

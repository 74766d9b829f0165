"""Attention: causal, masked, biased, of all lengths and widths, and rows that see nothing."""

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

CASES = [
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

"""Identities that hold whatever the numbers are: adjoints, shifts, permutations, sums of parts.

No oracle is asked, so these also hold torch's reading of an operation against mathematics. All in float64.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import core.functional as F
from core import Tensor
from core.reference.conv import transposed_size

exact = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
pairs = st.tuples(small, small)


def close(a, b):
    """Equal but for float64 rounding, on the scale of the larger array."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0) <= 1e-12 * max(np.abs(a).max(initial=0), np.abs(b).max(initial=0), 1e-3)


def leaves(*arrays):
    return [Tensor(a, requires_grad=True) for a in arrays]


@st.composite
def convolutions(draw):
    """(rng, x's shape, w's shape (KH, KW, A, B), the shape of what conv2d makes of them, options)."""
    options = {"stride": draw(pairs), "padding": draw(st.tuples(*[st.integers(0, 2)] * 2)), "dilation": draw(pairs)}
    taps, n, a, b = draw(pairs), draw(small), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    out = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    rest = tuple(draw(st.integers(0, s - 1)) for s in options["stride"])  # rows that no window starts at
    size = transposed_size(out, taps, options["stride"], options["padding"], rest, options["dilation"])
    assume(min(size) >= 1)
    return np.random.default_rng(draw(seeds)), (n, *size, a), (*taps, a, b), (n, *out, b), options, rest


@exact
@given(convolutions())
def test_conv_transpose_is_the_adjoint_of_conv(setting):
    """<conv2d(x, w), z> = <x, conv_transpose2d(z, w)> with one and the same w."""
    rng, x_shape, w_shape, z_shape, options, rest = setting
    x, w, z = (rng.standard_normal(s) for s in (x_shape, w_shape, z_shape))
    left = np.vdot(F.conv2d(x, w, **options).data, z)
    right = np.vdot(x, F.conv_transpose2d(z, w, output_padding=rest, **options).data)
    assert abs(left - right) <= 1e-12 * np.linalg.norm(x) * np.linalg.norm(w) * np.linalg.norm(z)


@exact
@given(convolutions())
def test_each_convolution_is_the_others_input_gradient(setting):
    rng, x_shape, w_shape, z_shape, options, rest = setting
    x, w, z = (rng.standard_normal(s) for s in (x_shape, w_shape, z_shape))
    (leaf,) = leaves(x)
    F.conv2d(leaf, w, **options).backward(z)
    close(leaf.grad, F.conv_transpose2d(z, w, output_padding=rest, **options).data)
    (leaf,) = leaves(z)
    F.conv_transpose2d(leaf, w, output_padding=rest, **options).backward(x)
    close(leaf.grad, F.conv2d(x, w, **options).data)


@exact
@given(seeds, st.tuples(st.integers(0, 2), st.integers(0, 2)), pairs)
def test_convolution_follows_a_shift_of_its_image(seed, shift, taps):
    rng = np.random.default_rng(seed)
    image, w = rng.standard_normal((1, 6, 7, 2)), rng.standard_normal((*taps, 2, 3))
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4), (0, 0)))  # nothing falls off an edge
    y = F.conv2d(padded, w).data
    moved = F.conv2d(np.roll(padded, shift, (1, 2)), w).data
    close(np.roll(y, shift, (1, 2))[:, 2:-2, 2:-2], moved[:, 2:-2, 2:-2])


@exact
@given(seeds)
def test_channels_may_be_permuted(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 5, 4, 5)), rng.standard_normal((3, 2, 5, 4))
    p, q = rng.permutation(5), rng.permutation(4)
    close(F.conv2d(x, w).data[..., q], F.conv2d(x[..., p], w[:, :, p][..., q]).data)
    back = rng.standard_normal((3, 2, 4, 5))
    y = F.conv_transpose2d(x, back, stride=2).data
    close(y[..., q], F.conv_transpose2d(x[..., p], back[:, :, q][..., p], stride=2).data)


@exact
@given(seeds, st.booleans())
def test_attention_does_not_care_about_the_order_of_keys(seed, masked):
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((2, 2, 3, 4)), rng.standard_normal((2, 2, 5, 4)), rng.standard_normal((2, 2, 5, 4))
    mask, bias = (rng.random((2, 1, 3, 5)) < 0.7 if masked else None), rng.standard_normal((3, 5))
    p, r = rng.permutation(5), rng.permutation(3)
    y = F.attention(q, k, v, mask=mask, bias=bias).data
    mixed = None if mask is None else mask[..., r, :][..., p]
    close(y[:, :, r], F.attention(q[:, :, r], k[:, :, p], v[:, :, p], mask=mixed, bias=bias[r][:, p]).data)


@exact
@given(seeds, st.integers(-6, 6))
def test_causal_is_a_mask_and_a_bias(seed, offset):
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((1, 2, 4, 3)), rng.standard_normal((1, 2, 5, 3)), rng.standard_normal((1, 2, 5, 2))
    seen = np.tri(4, 5, offset, dtype=bool)
    y = F.attention(q, k, v, causal=True, causal_offset=offset).data
    close(y, F.attention(q, k, v, mask=seen).data)
    close(y, F.attention(q, k, v, bias=np.where(seen, 0.0, -np.inf)).data)


@exact
@given(seeds, st.floats(-50, 50))
def test_what_a_shift_does_not_change(seed, shift):
    rng = np.random.default_rng(seed)
    x, target = rng.standard_normal((4, 6)), rng.integers(0, 6, 4)
    for f in (
        F.softmax,
        F.log_softmax,
        lambda z: F.cross_entropy(z, target),
        lambda z: F.layer_norm(z, None, None),
        lambda z: F.group_norm(z, 2),
        lambda z: F.batch_norm(z, None, None, training=True),
    ):
        close(f(x).data, f(x + shift).data)


@exact
@given(seeds)
def test_rows_are_independent_and_their_order_is_not_seen(seed):
    rng = np.random.default_rng(seed)
    x, target, w = rng.standard_normal((5, 6)), rng.integers(0, 4, 5), rng.standard_normal((4, 6))
    p = rng.permutation(5)
    close(F.linear_cross_entropy(x, w, target).data, F.linear_cross_entropy(x[p], w, target[p]).data)
    close(F.layer_norm(x, w[0], w[1]).data[p], F.layer_norm(x[p], w[0], w[1]).data)
    close(F.group_norm(x, 3, w[0], w[1]).data[p], F.group_norm(x[p], 3, w[0], w[1]).data)
    close(F.batch_norm(x, None, None, training=True).data[p], F.batch_norm(x[p], None, None, training=True).data)


@exact
@given(seeds, st.sampled_from([0.0, 0.2]))
def test_reductions_are_sums_of_their_parts(seed, smoothing):
    rng = np.random.default_rng(seed)
    z, target = rng.standard_normal((5, 4)), np.array([0, 3, -100, 1, 2])
    each = F.cross_entropy(z, target, label_smoothing=smoothing, reduction="none").data
    close(each.sum(), F.cross_entropy(z, target, label_smoothing=smoothing, reduction="sum").data)
    close(each.sum() / 4, F.cross_entropy(z, target, label_smoothing=smoothing).data)
    logits, wanted = rng.standard_normal((3, 4)), rng.random((3, 4))
    each = F.bce_with_logits(logits, wanted, reduction="none").data
    close(each.sum(), F.bce_with_logits(logits, wanted, reduction="sum").data)
    close(each.mean(), F.bce_with_logits(logits, wanted).data)


@exact
@given(seeds)
def test_fused_names_are_what_they_stand_for(seed):
    rng = np.random.default_rng(seed)
    x, r, w, b = (
        rng.standard_normal((3, 4)),
        rng.standard_normal((3, 4)),
        rng.standard_normal(4),
        rng.standard_normal(4),
    )
    table, target = rng.standard_normal((7, 4)), rng.integers(0, 7, 3)
    y, total = F.add_layer_norm(x, r, w, b)
    close(total.data, x + r)
    close(y.data, F.layer_norm(x + r, w, b).data)
    close(F.linear_cross_entropy(x, table, target).data, F.cross_entropy(F.linear(x, table), target).data)
    close(F.linear(x, table, act="gelu").data, F.gelu(F.linear(x, table)).data)
    close(F.group_norm(x, 1, w, b).data, F.layer_norm(x, w, b).data)
    close(F.group_norm(x, 2, w, b, act="silu").data, F.silu(F.group_norm(x, 2, w, b)).data)
    mu, logvar, pixels = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.random((3, 4))
    parts = F.bce_with_logits(x, pixels, reduction="sum").data + 2 * F.gaussian_kl(mu, logvar).data
    close(F.elbo(x, pixels, mu, logvar, beta=2.0).data, parts / 3)


@pytest.mark.parametrize("dtype", ["i8", "i4", "u2", "f4"])
def test_a_timestep_is_its_cosines_and_then_its_sines(dtype):
    """To the last place of float32 at any step: an angle of 999 in float32 would be off by 3e-5."""
    steps, angles = [0, 1, 37, 999], lambda t: [t / 100 ** (i / 3) for i in range(3)]
    wanted = [[wave(angle) for wave in (math.cos, math.sin) for angle in angles(t)] for t in steps]
    y = F.timestep_embedding(np.array(steps, dtype), 6, max_period=100).data
    assert y.dtype == np.float32 and abs(y - wanted).max() < 1e-7


GRAPHS = {
    "conv2d": lambda x, w: F.conv2d(x, w, stride=2, padding=1, act="tanh"),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1, 3, 2), stride=2, act="leaky_relu"),
    "reused": lambda x, w: (x * x + x) @ w[0, 0],
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_backward_twice_doubles_exactly_and_is_linear_in_dy(graph, rng):
    x, w = leaves(rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 3, 3, 4)))
    y = graph(x, w)
    first, second = rng.standard_normal(y.shape), rng.standard_normal(y.shape)
    y.backward(first, retain_graph=True)
    once = x.grad.copy(), w.grad.copy()
    y.backward(first, retain_graph=True)
    assert np.array_equal(x.grad, 2 * once[0]) and np.array_equal(w.grad, 2 * once[1])
    x.grad = w.grad = None
    y.backward(second, retain_graph=True)
    other = x.grad.copy(), w.grad.copy()
    x.grad = w.grad = None
    y.backward(3 * first - second)
    for leaf, a, b in zip((x, w), once, other):
        close(leaf.grad, 3 * a - b)
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward(first)

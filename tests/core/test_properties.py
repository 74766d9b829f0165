"""Settings that nobody thought of: hypothesis draws shapes and options, torch in float64 says what should come out.

The identities that follow from the mathematics alone, with no oracle at all, are in test_identities.py.
"""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, mutually_broadcastable_shapes

from bench.parity.cases.attention import attention
from bench.parity.cases.batch_norm import train
from bench.parity.cases.conv import conv, deconv
from bench.parity.cases.cross_entropy import classes
from bench.parity.cases.inputs import Case, coin, normal
from bench.parity.cases.layer_norm import norm
from bench.parity.cases.pointwise import BINARY
from bench.parity.cases.shape import same
from bench.parity.comparing import compare
from core.functional import concatenate
from tests.core.purity import check_purity

fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)
small = st.integers(1, 3)


@fuzz
@given(st.sampled_from(BINARY), mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=0))
def test_broadcasting(row, shapes):
    name, ours, theirs, left, right = row
    x, y = shapes.input_shapes
    compare(Case(f"{name}/fuzz", ours, theirs, (left(*x), right(*y))), np.float64)


@st.composite
def images(draw):
    """One axis pair of a convolution each: (kernel, stride, padding, dilation), and sizes to go with them."""
    pair = lambda s: draw(st.tuples(s, s))
    options = {"stride": pair(st.integers(1, 4)), "padding": pair(st.integers(0, 3)), "dilation": pair(small)}
    channels = draw(st.sampled_from([(1, 1), (2, 3), (4, 1), (8, 2), (1, 4)]))
    return pair(st.integers(1, 7)), pair(small), channels, draw(st.integers(1, 2)), options


@fuzz
@given(images())
def test_conv2d(setting):
    size, taps, (cin, cout), n, options = setting
    reach = [d * (k - 1) + 1 for d, k in zip(options["dilation"], taps)]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, options["padding"], reach)))
    case = conv("fuzz", (n, *size, cin), (*taps, cin, cout), **options)
    compare(case, np.float64)
    check_purity(case)


@fuzz
@given(images(), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_conv_transpose2d(setting, output_padding):
    size, taps, (cin, cout), n, options = setting
    stride, padding, dilation = options.values()
    assume(all(o < max(s, d) for o, s, d in zip(output_padding, stride, dilation)))
    out = [
        s * (m - 1) + d * (k - 1) + 1 - 2 * p + o
        for m, k, s, p, d, o in zip(size, taps, stride, padding, dilation, output_padding)
    ]
    assume(min(out) >= 1)
    shapes = (n, *size, cin), (*taps, cout, cin)
    case = deconv("fuzz", *shapes, output_padding=output_padding, **options)
    compare(case, np.float64)
    check_purity(case)


@fuzz
@given(
    st.tuples(small, small, st.integers(1, 5), st.integers(1, 6), small, small),
    st.booleans(),
    st.integers(-6, 6),
    st.tuples(*[st.booleans()] * 4),
    st.tuples(*[st.booleans()] * 4),
    st.tuples(st.booleans(), st.booleans()),
)
def test_attention(sizes, causal, offset, mask_axes, bias_axes, wanted):
    b, h, tq, tk, d, dv = sizes
    ones = lambda keep: tuple(n if k else 1 for n, k in zip((b, h, tq, tk), keep))
    case = attention(
        "fuzz",
        q=(b, h, tq, d),
        k=(b, h, tk, d),
        width=dv,
        mask=coin(*ones(mask_axes)) if wanted[0] else None,
        bias=normal(*ones(bias_axes)) if wanted[1] else None,
        causal=causal,
        causal_offset=offset,
    )
    compare(case, np.float64)
    check_purity(case)


SHAPE = (3, 4, 2)


@fuzz
@given(basic_indices(SHAPE, min_dims=0, allow_ellipsis=True, allow_newaxis=True))
def test_basic_indexing(index):
    """torch has no negative steps; the oracle is a gather of element numbers, which NumPy indexes."""
    places = np.arange(np.prod(SHAPE)).reshape(SHAPE)[index]
    theirs = lambda x: x.reshape(-1)[np.asarray(places).ravel()].reshape(np.shape(places))
    compare(Case("getitem/fuzz", lambda x: x[index], theirs, (normal(*SHAPE),)), np.float64)


@fuzz
@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(-2, 1))
def test_concatenate_and_its_parts(sizes, axis):
    """Joining what was cut is the identity, gradients included."""
    shape = [2, 2]
    shape[axis] = sum(sizes)
    bounds = np.cumsum([0, *sizes])
    at = lambda lo, hi: (slice(None),) * (axis % 2) + (slice(int(lo), int(hi)),)
    ours = lambda x: concatenate([x[at(lo, hi)] for lo, hi in itertools.pairwise(bounds)], axis)
    compare(Case("concatenate/fuzz", ours, lambda x: x * 1, (normal(*shape),)), np.float64)


@fuzz
@given(st.sampled_from(["sum", "mean"]), st.sets(st.integers(0, 2), min_size=1), st.booleans())
def test_reductions_over_any_axes(name, axes, keep):
    f = lambda x: getattr(x, name)(tuple(axes), keep)
    compare(same(f"{name}/fuzz", f, normal(*SHAPE)), np.float64)


@fuzz
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 9), small),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(-1, 8),
)
def test_cross_entropy_and_its_linear_form(sizes, reduction, smoothing, ignore_index):
    rows, v, width = sizes
    settings = {"width": width, "label_smoothing": smoothing, "ignore_index": ignore_index}
    for case in classes("fuzz", (rows, v), None, reduction, **settings):
        compare(case, np.float64)
        check_purity(case)


@fuzz
@given(st.tuples(st.integers(0, 5), small, st.integers(1, 7)), st.sampled_from(["wb", "w", "b", ""]))
def test_norms(shape, affine):
    compare(norm("fuzz", *shape, affine=affine, eps=0.1), np.float64)  # with a tiny eps two values cancel
    assume(shape[0] * shape[1] > 1)
    compare(train("fuzz", shape, affine=affine, eps=0.1), np.float64)

"""The tests can fail: wrong operations are put into the table, and the ordinary checks must see them.

Each mutant changes one operation the way a slip of the pen would. Each goes through the functions that the ordinary
tests call (`check_case`, `compare`, `check_purity`): without the mutant they pass, with it one fails."""

from dataclasses import replace

import numpy as np
import pytest

from bench.parity.cases import BY_NAME
from bench.parity.comparing import compare
from bench.parity.gradcheck import check_case
from core.engine import Op
from core.table import TABLE
from tests.core.purity import check_purity

pytestmark = pytest.mark.usefixtures("reference")  # the mutants replace references


def float64(case):
    compare(case, np.float64)


def float32(case):
    compare(case, np.float32)


# --- the mutants: each makes a wrong implementation from the right one ----------------------------------------


def gradient(index, change):
    """The gradient of input `index` goes through `change`."""

    def mutant(op):
        def backward(*args, **attrs):
            grads = list(op.backward(*args, **attrs))
            grads[index] = change(np.array(grads[index]))
            return tuple(grads)

        return op._replace(backward=backward)

    return mutant


def attribute(name, change):
    """Forward and backward both run with one attribute changed: consistent, and wrong."""

    def mutant(op):
        changed = lambda attrs: {**attrs, name: change(attrs[name])}
        return op._replace(
            forward=lambda *xs, **attrs: op.forward(*xs, **changed(attrs)),
            backward=lambda *xs, **attrs: op.backward(*xs, **changed(attrs)),
        )

    return mutant


def without_input(index):
    """Forward runs as if input `index` had not been given: a dropped mask."""

    def mutant(op):
        def forward(*xs, **attrs):
            return op.forward(*(None if i == index else x for i, x in enumerate(xs)), **attrs)

        return op._replace(forward=forward)

    return mutant


def result(change):
    """The result goes through `change`; what was saved stays right."""

    def mutant(op):
        def forward(*xs, **attrs):
            y, saved = op.forward(*xs, **attrs)
            return change(np.array(y)), saved

        return op._replace(forward=forward)

    return mutant


def last_row_stale(x):
    """The last row is what a loop that ends one too early leaves behind."""
    x[-1] = x[-2]
    return x


def last_row_zero(x):
    x[-1] = 0
    return x


def one_nan(x):
    x.flat[x.size // 2] = np.nan
    return x


def a_little_noise(x):
    """Every second element off by twenty float32 roundings: too small for the eye, not for the accuracy test."""
    x.flat[::2] *= 1 + 20 * np.finfo(np.float32).eps
    return x


def naive_layer_norm(op):
    """The variance as E[x^2] - E[x]^2: right on paper, and lost to cancellation in float32 at mean 100."""

    def forward(x, w, b, *, eps):
        mean = x.mean(-1, keepdims=True)
        rstd = 1 / np.sqrt(np.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0) + eps)
        xhat = (x - mean) * rstd
        return xhat * w + b, (xhat, rstd, w)

    return op._replace(forward=forward)


def dropout_forgets_its_mask(op):
    """Backward passes everything on, scaled."""
    return op._replace(backward=lambda saved, dy, needs_input_grad, *, p, **key: (dy / (1 - p), None, None))


def writes_to_input(op):
    def forward(x, **attrs):
        y, saved = op.forward(x, **attrs)
        x += 1
        return y, saved

    return op._replace(forward=forward)


def writes_to_dy(op):
    def backward(saved, dy, needs_input_grad, **attrs):
        grads = op.backward(saved, dy.copy(), needs_input_grad, **attrs)
        dy *= 0
        return grads

    return op._replace(backward=backward)


def writes_to_saved(op):
    """The gradient is right the first time, and what it needs is spoilt for the second."""

    def backward(saved, dy, needs_input_grad, **attrs):
        grads = op.backward(saved, dy, needs_input_grad, **attrs)
        saved[1][...] = 0
        return grads

    return op._replace(backward=backward)


def saves_a_closure(op):
    def forward(*xs, **attrs):
        y, saved = op.forward(*xs, **attrs)
        return y, (lambda: saved,)

    def backward(saved, dy, needs_input_grad, **attrs):
        return op.backward(saved[0](), dy, needs_input_grad, **attrs)

    return op._replace(forward=forward, backward=backward)


def gives_out_what_it_saved(op):
    """The gradient is an array that stays in `saved`: adding to the gradient later would change it."""

    def backward(saved, dy, needs_input_grad, **attrs):
        (grad,) = op.backward(saved, dy, needs_input_grad, **attrs)
        saved[1][...] = grad
        return (saved[1],)

    return op._replace(backward=backward)


def float64_result(op):
    """A backend of its own, whose results nobody casts."""
    forward = lambda *xs, **attrs: (op.forward(*xs, **attrs)[0].astype(np.float64), op.forward(*xs, **attrs)[1])
    return Op(op.name, forward, op.backward, backend="mutant")


ALL = (check_case, float64, float32)
VALUES = (float64, float32)  # forward and backward agree with each other, so finite differences see nothing

# id -> (operation, mutant, case, the checks that must see it)
MUTANTS = {
    "mul-gradient-times-1.001": ("mul", gradient(0, lambda g: g * 1.001), "mul/same", ALL),
    "second-input-times-1.001": ("div", gradient(1, lambda g: g * 1.001), "div/both-repeat", ALL),
    "tanh-gradient-times-1.001": ("tanh", gradient(0, lambda g: g * 1.001), "tanh/smooth", ALL),
    "sign-of-a-gradient": ("sub", gradient(1, np.negative), "sub/same", ALL),
    "linear-weights-transposed": ("linear", gradient(1, np.transpose), "linear/square", ALL),
    "conv-weights-transposed": (
        "conv2d",
        gradient(1, lambda g: g.swapaxes(2, 3)),
        "conv2d/as-many-out-as-in",
        ALL,
    ),
    "conv-taps-reversed": ("conv2d", gradient(1, lambda g: g[::-1, ::-1]), "conv2d/same", ALL),
    "deconv-kernel-transposed": (
        "conv_transpose2d",
        gradient(1, lambda g: g.swapaxes(0, 1)),
        "conv_transpose2d/stride-2-gan",
        ALL,
    ),
    "linear-bias-gradient-zero": ("linear", gradient(2, np.zeros_like), "linear/3d", ALL),
    "conv-bias-gradient-zero": ("conv2d", gradient(2, np.zeros_like), "conv2d/narrow", ALL),
    "deconv-bias-gradient-zero": ("conv_transpose2d", gradient(2, np.zeros_like), "conv_transpose2d/wide", ALL),
    "norm-bias-gradient-zero": ("layer_norm", gradient(2, np.zeros_like), "layer_norm/3d", ALL),
    "dropout-mask-dropped-in-backward": ("dropout", dropout_forgets_its_mask, "dropout/third", ALL),
    "attention-mask-dropped": ("attention", without_input(3), "attention/mask-full", VALUES),
    "causal-offset-past-the-diagonal": (
        "attention",
        attribute("causal_offset", lambda offset: offset + 1),
        "attention/causal",
        VALUES,
    ),
    "causal-offset-before-the-diagonal": (
        "attention",
        attribute("causal_offset", lambda offset: offset - 1),
        "attention/causal-ends-aligned",
        VALUES,
    ),
    "causal-forgotten": ("attention", attribute("causal", lambda c: False), "attention/all-together", VALUES),
    "smoothing-forgotten": (
        "cross_entropy",
        attribute("label_smoothing", lambda s: 0.0),
        "cross_entropy/mean-smoothed",
        VALUES,
    ),
    "ignored-targets-counted": (
        "cross_entropy",
        attribute("ignore_index", lambda i: -1),
        "cross_entropy/sum-ignored",
        VALUES,
    ),
    "dilation-forgotten": (
        "conv2d",
        attribute("dilation", lambda d: (1, 1)),
        "conv2d/narrow-dilation",
        VALUES,
    ),
    "last-row-of-result-stale": ("layer_norm", result(last_row_stale), "layer_norm/rows", ALL),
    "last-row-of-product-zero": ("matmul", result(last_row_zero), "matmul/matrices", ALL),
    "last-row-of-gradient-zero": ("layer_norm", gradient(0, last_row_zero), "layer_norm/rows", ALL),
    "last-row-of-weight-gradient-stale": ("linear", gradient(1, last_row_stale), "linear/3d", ALL),
    "nan-in-a-gradient": ("softmax", gradient(0, one_nan), "softmax/last", ALL),
    "nan-in-a-result": ("gelu", result(one_nan), "gelu/smooth", ALL),
    "twenty-units-in-the-last-place": ("exp", result(a_little_noise), "exp/smooth", ALL),
    "cancelling-variance": ("layer_norm", naive_layer_norm, "layer_norm/large-mean", (float32,)),
    "float64-result": ("neg", float64_result, "neg/smooth", (float32,)),
    "input-written-to": ("tanh", writes_to_input, "tanh/smooth", (check_purity,)),
    "dy-written-to": ("exp", writes_to_dy, "exp/smooth", (check_purity,)),
    "saved-written-to": ("exp", writes_to_saved, "exp/smooth", (check_purity,)),
    "closure-saved": ("exp", saves_a_closure, "exp/smooth", (check_purity,)),
    "gradient-is-a-saved-array": ("exp", gives_out_what_it_saved, "exp/smooth", (check_purity,)),
}


@pytest.mark.parametrize("operation, mutant, name, checks", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_caught(operation, mutant, name, checks, monkeypatch):
    case, row = BY_NAME[name], TABLE[operation]
    for check in checks:
        check(case)
    monkeypatch.setitem(TABLE, operation, replace(row, reference=mutant(row.reference)))
    for check in checks:
        with pytest.raises(AssertionError) as caught:
            check(case)
        assert name in str(caught.value) or operation in str(caught.value), "the message names neither"


def test_a_gradient_of_the_wrong_shape_is_caught_by_the_engine(monkeypatch):
    row = TABLE["linear"]
    mutant = gradient(1, np.transpose)(row.reference)
    monkeypatch.setitem(TABLE, "linear", replace(row, reference=mutant))
    with pytest.raises(AssertionError, match=r"linear: gradient of input 1 has shape \(3, 4\), should be \(4, 3\)"):
        float64(BY_NAME["linear/3d"])

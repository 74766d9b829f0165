"""Bad arguments: each is refused by name, with what it was and what it should be.

One row: a call, the exception, and pieces its message must hold (the operation, the argument, the value, the remedy).
"""

import numpy as np
import pytest

import core.functional as F
from core import Generator, Tensor, explain, manual_seed, use


def f(*shape):
    return np.ones(shape, np.float32)


def i(*shape):
    return np.zeros(shape, int)


def leaf(*shape):
    return Tensor(f(*shape), requires_grad=True)


X, W, WT = f(2, 5, 5, 3), f(3, 3, 3, 4), f(3, 3, 4, 3)  # an image, and weights for conv2d and conv_transpose2d
Q = f(1, 2, 4, 3)

IMAGE = {
    "conv2d-x-3d": (lambda: F.conv2d(f(5, 5, 3), W), ValueError, "conv2d", "x ", "(5, 5, 3)", "(N, H, W, Cin)"),
    "conv2d-w-2d": (lambda: F.conv2d(X, f(3, 4)), ValueError, "conv2d", "w ", "(3, 4)", "(KH, KW, Cin, Cout)"),
    "conv2d-channels": (lambda: F.conv2d(X, f(3, 3, 2, 4)), ValueError, "conv2d", "Cin", "2", "should be 3"),
    "conv2d-bias": (lambda: F.conv2d(X, W, f(3)), ValueError, "conv2d", "b ", "(3,)", "(4,)"),
    "conv2d-stride-0": (lambda: F.conv2d(X, W, stride=0), ValueError, "conv2d", "stride", "0", ">= 1"),
    "conv2d-stride-float": (lambda: F.conv2d(X, W, stride=1.5), ValueError, "conv2d", "stride", "1.5", "integer"),
    "conv2d-stride-triple": (
        lambda: F.conv2d(X, W, stride=(1, 2, 3)),
        *(ValueError, "conv2d", "stride", "(1, 2, 3)", "pair"),
    ),
    "conv2d-padding-negative": (lambda: F.conv2d(X, W, padding=-1), ValueError, "conv2d", "padding", "-1", ">= 0"),
    "conv2d-padding-word": (
        lambda: F.conv2d(X, W, padding="same"),
        *(ValueError, "conv2d", "padding", "'same'", "integer"),
    ),
    "conv2d-dilation-0": (lambda: F.conv2d(X, W, dilation=(1, 0)), ValueError, "conv2d", "dilation", "(1, 0)", ">= 1"),
    "conv2d-kernel-too-large": (lambda: F.conv2d(X, W, dilation=3), ValueError, "conv2d", "x ", "(5, 5)", "(7, 7)"),
    "conv2d-act": (lambda: F.conv2d(X, W, act="swish"), ValueError, "conv2d", "act", "'swish'", "'relu'"),
    "conv2d-integers": (lambda: F.conv2d(i(2, 5, 5, 3), W), TypeError, "conv2d", "x ", "int64", "floating"),
    "conv2d-empty-kernel": (lambda: F.conv2d(X, f(0, 3, 3, 4)), ValueError, "conv2d", "w ", "(0, 3, 3, 4)", "zero"),
    "deconv-x-3d": (lambda: F.conv_transpose2d(f(5, 5, 3), WT), ValueError, "conv_transpose2d", "x ", "(5, 5, 3)"),
    "deconv-w-3d": (lambda: F.conv_transpose2d(X, f(3, 3, 4)), ValueError, "conv_transpose2d", "(KH, KW, Cout, Cin)"),
    "deconv-channels": (lambda: F.conv_transpose2d(X, W), ValueError, "conv_transpose2d", "Cin", "4", "should be 3"),
    "deconv-bias": (lambda: F.conv_transpose2d(X, WT, f(3)), ValueError, "conv_transpose2d", "b ", "(3,)", "(4,)"),
    "deconv-output-padding": (
        lambda: F.conv_transpose2d(X, WT, stride=2, output_padding=2),
        *(ValueError, "conv_transpose2d", "output_padding", "(2, 2)", "below"),
    ),
    "deconv-nothing-left": (
        lambda: F.conv_transpose2d(X, WT, padding=4),
        *(ValueError, "conv_transpose2d", "padding", "(4, 4)", "(-1, -1)"),
    ),
    "deconv-stride": (lambda: F.conv_transpose2d(X, WT, stride=True), ValueError, "conv_transpose2d", "stride", "True"),
}

PRODUCTS = {
    "matmul-inner": (lambda: F.matmul(f(2, 3), f(2, 3)), ValueError, "matmul", "(2, 3)", "inner"),
    "matmul-batches": (
        lambda: F.matmul(f(2, 3, 4), f(3, 4, 2)),
        *(ValueError, "matmul", "(2, 3, 4)", "(3, 4, 2)", "batch"),
    ),
    "matmul-0d": (lambda: F.matmul(f(), f(2)), ValueError, "matmul", "()", "(2,)"),
    "linear-w-1d": (lambda: F.linear(f(2, 3), f(3)), ValueError, "linear", "w ", "(3,)", "(out, in)"),
    "linear-x": (lambda: F.linear(f(2, 4), f(5, 3)), ValueError, "linear", "x ", "(2, 4)", "3", "(5, 3)"),
    "linear-bias": (lambda: F.linear(f(2, 3), f(5, 3), f(3)), ValueError, "linear", "b ", "(3,)", "(5,)"),
    "linear-act": (lambda: F.linear(f(2, 3), f(5, 3), act="silu"), ValueError, "linear", "act", "'silu'", "'gelu'"),
    "linear-integers": (lambda: F.linear(i(2, 3), f(5, 3)), TypeError, "linear", "x ", "int64", "floating"),
    "attention-q-3d": (
        lambda: F.attention(f(2, 4, 3), Q, Q),
        *(ValueError, "attention", "q ", "(2, 4, 3)", "(B, h, T, d)"),
    ),
    "attention-k-width": (lambda: F.attention(Q, f(1, 2, 4, 5), Q), ValueError, "attention", "k ", "(1, 2, 4, 5)"),
    "attention-k-heads": (lambda: F.attention(Q, f(1, 1, 4, 3), Q), ValueError, "attention", "k ", "(1, 1, 4, 3)"),
    "attention-v-length": (lambda: F.attention(Q, Q, f(1, 2, 5, 3)), ValueError, "attention", "v ", "(1, 2, 5, 3)"),
    "attention-mask-dtype": (
        lambda: F.attention(Q, Q, Q, mask=f(4, 4)),
        *(TypeError, "attention", "mask", "float32", "bool"),
    ),
    "attention-mask-shape": (lambda: F.attention(Q, Q, Q, mask=i(3, 4) > 0), ValueError, "attention", "mask", "(3, 4)"),
    "attention-mask-5d": (lambda: F.attention(Q, Q, Q, mask=i(1, 1, 2, 4, 4) > 0), ValueError, "attention", "mask"),
    "attention-mask-grad": (lambda: F.attention(Q, Q, Q, mask=leaf(4, 4)), TypeError, "attention", "mask", "gradient"),
    "attention-bias-shape": (
        lambda: F.attention(Q, Q, Q, bias=f(3, 4, 4)),
        *(ValueError, "attention", "bias", "(3, 4, 4)"),
    ),
    "attention-integers": (lambda: F.attention(i(1, 2, 4, 3), Q, Q), TypeError, "attention", "q ", "int64", "floating"),
    "embedding-float": (lambda: F.embedding(f(3), f(4, 2)), TypeError, "embedding", "ids", "float32", "integer"),
    "embedding-past-end": (lambda: F.embedding([1, 4], f(4, 2)), IndexError, "embedding", "ids", "4", "[0, 4)"),
    "embedding-negative": (lambda: F.embedding([-1], f(4, 2)), IndexError, "embedding", "ids", "-1", "[0, 4)"),
    "embedding-w-1d": (lambda: F.embedding([1], f(4)), ValueError, "embedding", "w ", "(4,)", "(V, D)"),
}

NORMS = {
    "layer_norm-w": (lambda: F.layer_norm(f(2, 3), f(2), None), ValueError, "layer_norm", "w ", "(2,)", "(3,)"),
    "layer_norm-b": (lambda: F.layer_norm(f(2, 3), None, f(2)), ValueError, "layer_norm", "b ", "(2,)", "(3,)"),
    "layer_norm-0d": (lambda: F.layer_norm(f(), None, None), ValueError, "layer_norm", "x ", "0-dim", "(..., D)"),
    "layer_norm-int": (lambda: F.layer_norm(i(2, 3), None, None), TypeError, "layer_norm", "x ", "int64", "floating"),
    "add_layer_norm-residual": (
        lambda: F.add_layer_norm(f(2, 3), f(3), None, None),
        *(ValueError, "add_layer_norm", "residual", "(3,)", "(2, 3)"),
    ),
    "add_layer_norm-p": (
        lambda: F.add_layer_norm(f(2, 3), f(2, 3), None, None, dropout_p=1.5),
        *(ValueError, "add_layer_norm", "dropout_p", "1.5", "[0, 1]"),
    ),
    "add_layer_norm-mask-grad": (
        lambda: F.add_layer_norm(f(2, 3), f(2, 3), None, None, dropout_p=0.5, mask=leaf(2, 3)),
        *(TypeError, "add_layer_norm", "mask"),
    ),
    "batch_norm-no-mean": (lambda: F.batch_norm(f(4, 3), None, f(3)), ValueError, "batch_norm", "running_mean", "None"),
    "batch_norm-no-var": (lambda: F.batch_norm(f(4, 3), f(3), None), ValueError, "batch_norm", "running_var", "None"),
    "batch_norm-mean": (
        lambda: F.batch_norm(f(4, 3), f(4), f(3)),
        *(ValueError, "batch_norm", "running_mean", "(4,)", "(3,)"),
    ),
    "batch_norm-mean-grad": (
        lambda: F.batch_norm(f(4, 3), leaf(3), f(3)),
        *(TypeError, "batch_norm", "running_mean", "requires a gradient"),
    ),
    "batch_norm-w": (lambda: F.batch_norm(f(4, 3), f(3), f(3), f(4)), ValueError, "batch_norm", "w", "(4,)", "(3,)"),
    "batch_norm-one-value": (
        lambda: F.batch_norm(f(1, 3), None, None, training=True),
        *(ValueError, "batch_norm", "x ", "(1, 3)", "more than one value per channel"),
    ),
    "batch_norm-act": (lambda: F.batch_norm(f(4, 3), f(3), f(3), act="elu"), ValueError, "batch_norm", "act", "'elu'"),
    "batch_norm-p": (
        lambda: F.batch_norm(f(4, 3), None, None, training=True, dropout_p=-0.5),
        *(ValueError, "batch_norm", "dropout_p", "-0.5", "[0, 1]"),
    ),
    "batch_norm-mask-grad": (
        lambda: F.batch_norm(f(4, 3), None, None, training=True, dropout_p=0.5, mask=leaf(4, 3)),
        *(TypeError, "batch_norm", "mask"),
    ),
    "dropout-p-2": (lambda: F.dropout(f(3), 2), ValueError, "dropout", "p ", "2", "[0, 1]"),
    "dropout-p-negative": (lambda: F.dropout(f(3), -0.1), ValueError, "dropout", "p ", "-0.1", "[0, 1]"),
    "dropout-p-nan": (lambda: F.dropout(f(3), float("nan")), ValueError, "dropout", "p ", "nan", "[0, 1]"),
    "dropout-p-word": (lambda: F.dropout(f(3), "half"), ValueError, "dropout", "p ", "'half'", "[0, 1]"),
    "dropout-mask-shape": (lambda: F.dropout(f(3), mask=f(2) > 0), ValueError, "dropout", "mask", "(2,)", "(3,)"),
    "dropout-mask-dtype": (lambda: F.dropout(f(3), mask=f(3)), TypeError, "dropout", "mask", "float32", "bool"),
    "dropout-mask-grad": (lambda: F.dropout(f(3), mask=leaf(3)), TypeError, "dropout", "mask"),
    "dropout-integers": (lambda: F.dropout(i(3), 0.3), TypeError, "dropout", "x ", "int64", "floating"),
}


def ce(*args, **options):
    return lambda: F.cross_entropy(*args, **options)


def lce(*args, **options):
    return lambda: F.linear_cross_entropy(*args, **options)


LOSSES = {
    "cross_entropy-target-shape": (ce(f(3, 4), i(2)), ValueError, "cross_entropy", "target", "(2,)", "(3,)"),
    "cross_entropy-target-float": (ce(f(3, 4), f(3)), TypeError, "cross_entropy", "target", "float32", "integer"),
    "cross_entropy-target-grad": (ce(f(3, 4), leaf(3)), TypeError, "cross_entropy", "target", "gradient"),
    "cross_entropy-past-end": (ce(f(3, 4), i(3) + 4), IndexError, "cross_entropy", "target", "4", "[0, 4)"),
    "cross_entropy-negative": (ce(f(3, 4), i(3) - 1), IndexError, "cross_entropy", "target", "-1", "[0, 4)"),
    "cross_entropy-smoothing": (
        ce(f(3, 4), i(3), label_smoothing=2),
        *(ValueError, "cross_entropy", "label_smoothing", "2", "[0, 1]"),
    ),
    "cross_entropy-reduction": (
        ce(f(3, 4), i(3), reduction="avg"),
        ValueError,
        "cross_entropy",
        "reduction",
        "'avg'",
        "'mean'",
    ),
    "cross_entropy-int": (ce(i(3, 4), i(3)), TypeError, "cross_entropy", "logits", "int64", "floating"),
    "cross_entropy-z_loss-negative": (
        ce(f(3, 4), i(3), z_loss=-0.1),
        *(ValueError, "cross_entropy", "z_loss", "-0.1", "at least 0"),
    ),
    "linear_cross_entropy-z_loss-nan": (
        lce(f(3, 4), f(7, 4), i(3), z_loss=float("nan")),
        *(ValueError, "linear_cross_entropy", "z_loss", "nan", "at least 0"),
    ),
    "linear_cross_entropy-w": (lce(f(3, 4), f(4), i(3)), ValueError, "linear_cross_entropy", "w ", "(4,)", "(V, D)"),
    "linear_cross_entropy-D": (lce(f(3, 4), f(7, 5), i(3)), ValueError, "linear_cross_entropy", "D", "4", "5"),
    "linear_cross_entropy-target": (
        lce(f(3, 4), f(7, 4), i(4)),
        ValueError,
        "linear_cross_entropy",
        "target",
        "(4,)",
        "(3,)",
    ),
    "linear_cross_entropy-end": (
        lce(f(3, 4), f(7, 4), i(3) + 7),
        IndexError,
        "linear_cross_entropy",
        "target",
        "[0, 7)",
    ),
    "bce-shape": (lambda: F.bce_with_logits(f(3), f(2)), ValueError, "bce_with_logits", "target", "(2,)", "(3,)"),
    "bce-target-grad": (lambda: F.bce_with_logits(f(3), leaf(3)), TypeError, "bce_with_logits", "target", "gradient"),
    "bce-reduction": (
        lambda: F.bce_with_logits(f(3), 1.0, reduction=""),
        *(ValueError, "bce_with_logits", "reduction", "''"),
    ),
    "bce-int": (lambda: F.bce_with_logits(i(3), 1.0), TypeError, "bce_with_logits", "logits", "int64", "floating"),
    "gaussian_kl-shape": (lambda: F.gaussian_kl(f(3), f(2)), ValueError, "gaussian_kl", "logvar", "(2,)", "(3,)"),
    "gaussian_kl-reduction": (lambda: F.gaussian_kl(f(3), f(3), reduction="all"), ValueError, "gaussian_kl", "'all'"),
    "reparameterize-noise": (
        lambda: F.reparameterize(f(3), f(3), noise=f(2)),
        *(ValueError, "reparameterize", "noise", "(2,)"),
    ),
    "reparameterize-grad": (lambda: F.reparameterize(f(3), f(3), noise=leaf(3)), TypeError, "reparameterize", "noise"),
    "discriminator_loss-kind": (
        lambda: F.discriminator_loss(f(3), f(2), kind="wgan"),
        *(ValueError, "discriminator_loss", "kind", "'wgan'", "'hinge'"),
    ),
    "discriminator_loss-int": (
        lambda: F.discriminator_loss(f(3), i(2), kind="hinge"),
        *(TypeError, "discriminator_loss", "fake", "int64", "floating"),
    ),
    "generator_loss-kind": (
        lambda: F.generator_loss(f(3), kind=None),
        *(ValueError, "generator_loss", "kind", "None", "'minimax'"),
    ),
    "generator_loss-int": (lambda: F.generator_loss(i(3), kind="hinge"), TypeError, "generator_loss", "fake", "int64"),
    "elbo-x": (lambda: F.elbo(f(2, 3), f(2, 4), f(2, 1), f(2, 1)), ValueError, "elbo", "x ", "(2, 4)", "(2, 3)"),
    "elbo-x-grad": (lambda: F.elbo(f(2, 3), leaf(2, 3), f(2, 1), f(2, 1)), TypeError, "elbo", "x ", "gradient"),
    "elbo-batch": (lambda: F.elbo(f(2, 3), f(2, 3), f(4, 1), f(4, 1)), ValueError, "elbo", "mu", "(4, 1)", "(2, 3)"),
    "elbo-logvar": (
        lambda: F.elbo(f(2, 3), f(2, 3), f(2, 1), f(2, 2)),
        *(ValueError, "elbo", "logvar", "(2, 2)", "(2, 1)"),
    ),
    "softmax-axis": (lambda: F.softmax(f(2, 3), 2), ValueError, "softmax", "axis", "2", "[-2, 2)"),
    "log_softmax-int": (lambda: F.log_softmax(i(2, 3)), TypeError, "log_softmax", "x ", "int64", "floating"),
}

SHAPES = {
    "add-broadcast": (lambda: Tensor(f(2, 3)) + f(2), ValueError, "add", "(2, 3)", "(2,)", "broadcast"),
    "where-broadcast": (lambda: F.where(f(2) > 0, f(3), f(3)), ValueError, "where", "(2,)", "(3,)"),
    "where-condition": (lambda: F.where(f(2), f(2), f(2)), TypeError, "where", "condition", "float32", "bool"),
    "pow-negative-of-int": (lambda: Tensor([1, 2]) ** -1, ValueError, "pow", "integer", "negative"),
    "add-word": (lambda: Tensor(f(2)) + "a", TypeError, "add", "str", "a Tensor, an array or a number"),
    "mul-none": (lambda: Tensor(f(2)) * None, TypeError, "mul", "None"),
    "gelu-form": (lambda: F.gelu(f(2), approximate="erf"), ValueError, "gelu", "approximate", "'erf'", "'tanh'"),
    "clip-nothing": (lambda: F.clip(f(2)), ValueError, "clip", "None", "number"),
    "concatenate-nothing": (lambda: F.concatenate([]), ValueError, "concatenate", "tensors", "empty"),
    "concatenate-shapes": (
        lambda: F.concatenate([f(2, 3), f(3, 2)]),
        *(ValueError, "concatenate", "(2, 3)", "(3, 2)", "0"),
    ),
    "concatenate-axis": (lambda: F.concatenate([f(2, 3)], axis=2), ValueError, "concatenate", "axis", "2", "(2, 3)"),
    "split-sizes": (lambda: F.split(f(2, 3), (1, 1)), ValueError, "split", "sizes", "(1, 1)", "3"),
    "split-axis": (lambda: F.split(f(2, 3), (3,), axis=2), ValueError, "split", "axis", "2"),
    "split-negative": (lambda: F.split(f(2, 3), (4, -1)), ValueError, "split", "sizes", "(4, -1)"),
    "broadcast_to": (lambda: F.broadcast_to(f(2), (3,)), ValueError, "broadcast_to", "shape", "(3,)", "(2,)"),
    "reshape": (lambda: Tensor(f(2, 3)).reshape(4), ValueError, "reshape", "shape", "(4,)", "6", "(2, 3)"),
    "transpose-repeats": (lambda: Tensor(f(2, 3)).transpose(0, 0), ValueError, "transpose", "axes", "(0, 0)", "(0, 1)"),
    "transpose-past-end": (
        lambda: Tensor(f(2, 3)).transpose(0, 3),
        *(ValueError, "transpose", "axes", "(0, 3)", "(0, 1)"),
    ),
    "getitem-past-end": (lambda: Tensor(f(2, 3))[2], IndexError, "getitem", "2", "(2, 3)"),
    "getitem-too-many": (lambda: Tensor(f(2))[0, 0], IndexError, "getitem", "(0, 0)", "(2,)"),
    "sum-axis": (lambda: Tensor(f(2, 3)).sum(2), ValueError, "sum", "axis", "2", "[-2, 2)"),
    "mean-axis": (lambda: Tensor(f(2, 3)).mean((0, -3)), ValueError, "mean", "axis", "-3", "[-2, 2)"),
    "max-axis": (lambda: Tensor(f(2, 3)).max(5), ValueError, "max", "axis", "5", "[-2, 2)"),
    "max-of-nothing": (lambda: Tensor(f(0, 3)).max(0), ValueError, "max", "(0, 3)", "axis 0"),
    "min-of-nothing": (lambda: Tensor(f(0, 3)).min(), ValueError, "min", "(0, 3)", "empty"),
}

ENGINE = {
    "tensor-of-tensor": (lambda: Tensor(Tensor(f(2))), TypeError, "Tensor", "array", "detach()"),
    "tensor-of-word": (lambda: Tensor("abc"), TypeError, "Tensor", "array", "<U3"),
    "tensor-of-complex": (lambda: Tensor(np.ones(2, complex)), TypeError, "Tensor", "complex128", "real"),
    "tensor-of-objects": (lambda: Tensor(np.array([None])), TypeError, "Tensor", "object", "real"),
    "tensor-int-grad": (lambda: Tensor([1, 2], requires_grad=True), TypeError, "Tensor", "int64", "floating"),
    "assign-shape": (lambda: Tensor(f(2)).assign_(f(3)), ValueError, "assign_", "array", "(3,)", "(2,)"),
    "backward-no-grad": (lambda: Tensor(f(1)).backward(), RuntimeError, "backward", "does not require"),
    "backward-no-dy": (lambda: (leaf(2) * 1).backward(), ValueError, "backward", "(2,)", "scalar", "dy"),
    "backward-dy-shape": (lambda: (leaf(2) * 1).backward(f(3)), ValueError, "backward", "dy", "(3,)", "(2,)"),
    "generator-negative": (lambda: Generator(-1), ValueError, "Generator", "seed", "-1", "[0, 2^64)"),
    "generator-too-large": (lambda: Generator(2**64), ValueError, "Generator", "seed", str(2**64), "[0, 2^64)"),
    "generator-float": (lambda: Generator(1.0), ValueError, "Generator", "seed", "1.0", "integer"),
    "generator-bool": (lambda: Generator(True), ValueError, "Generator", "seed", "True", "integer"),
    "generator-device": (lambda: Generator(0, "tpu"), ValueError, "device", "'tpu'", "'cpu' or 'cuda'"),
    "manual_seed-negative": (lambda: manual_seed(-1), ValueError, "seed", "-1", "[0, 2^64)"),
    "use-mode": (lambda: use("fast").__enter__(), ValueError, "use", "mode", "'fast'", "auto, kernels, reference"),
    "use-tf32": (lambda: use(tf32="yes").__enter__(), ValueError, "use", "tf32", "'yes'", "True, False or None"),
    "explain-unknown": (lambda: explain("nope"), ValueError, "explain", "operation", "'nope'", "conv2d"),
}

BAD = {**IMAGE, **PRODUCTS, **NORMS, **LOSSES, **SHAPES, **ENGINE}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD.keys())
def test_bad_argument(row):
    call, error, *pieces = row
    with pytest.raises(error) as caught:
        call()
    missing = [piece for piece in pieces if piece not in str(caught.value)]
    assert not missing, f"{type(caught.value).__name__}({caught.value}) does not say {missing}"

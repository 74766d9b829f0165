"""Which dtype a result gets, numbers beside tensors, Tensor's own manners, and memory shared by DLPack."""

import warnings

import numpy as np
import pytest
import torch

import core.functional as F
from core import Tensor, from_dlpack


def t(dtype, *shape):
    return Tensor(np.ones(shape, dtype))


SCALAR64, ZERO_D64 = np.float64(2), np.array(2.0)

# id -> (result, its dtype)
DTYPES = {
    "float32-and-float64-scalar": (lambda: t("f4", 3) * SCALAR64, "float32"),
    "float64-scalar-on-the-left": (lambda: SCALAR64 * t("f4", 3), "float32"),
    "float32-and-0d-float64-array": (lambda: t("f4", 3) + ZERO_D64, "float32"),
    "0d-float64-array-on-the-left": (lambda: ZERO_D64 - t("f4", 3), "float32"),
    "float32-and-0d-float64-tensor": (lambda: t("f4", 3) / Tensor(ZERO_D64), "float32"),
    "float32-to-the-float64-scalar": (lambda: t("f4", 3) ** SCALAR64, "float32"),
    "maximum-with-0d-float64": (lambda: F.maximum(t("f4", 3), ZERO_D64), "float32"),
    "where-with-0d-float64": (lambda: F.where(np.array([True, False]), t("f4", 2), ZERO_D64), "float32"),
    "clip-by-float64-scalars": (lambda: F.clip(t("f4", 3), np.float64(0), np.float64(1)), "float32"),
    "bce-with-0d-float64-target": (lambda: F.bce_with_logits(t("f4", 3), ZERO_D64), "float32"),
    "elbo-with-float64-beta": (lambda: F.elbo(*[t("f4", 2, 3)] * 4, beta=SCALAR64), "float32"),
    "float64-and-float32-arrays": (lambda: t("f8", 3) * t("f4", 3), "float64"),
    "float16-and-float32-arrays": (lambda: t("f2", 3) * t("f4", 3), "float32"),
    "float16-and-0d-float32": (lambda: t("f2", 3) * np.array(2, "f4"), "float16"),
    "float16-and-python-float": (lambda: t("f2", 3) * 2.5, "float16"),
    "float32-and-python-float": (lambda: t("f4", 3) + 0.1, "float32"),
    "float64-and-python-float": (lambda: t("f8", 3) + 0.1, "float64"),
    "float32-and-int64-array": (lambda: t("f4", 3) * np.arange(3), "float32"),
    "float16-and-int64-array": (lambda: t("f2", 3) + np.arange(3), "float16"),
    "0d-float32-and-0d-float64": (lambda: t("f4") * t("f8"), "float64"),
    "int-and-python-float": (lambda: t("i8", 3) * 2.5, "float32"),
    "int-and-python-int": (lambda: t("i8", 3) * 2, "int64"),
    "int-divided-by-int": (lambda: t("i8", 3) / t("i8", 3), "float32"),
    "int-divided-by-number": (lambda: t("i4", 3) / 2, "float32"),
    "number-divided-by-int": (lambda: 2 / t("i8", 3), "float32"),
    "mean-of-int": (lambda: t("i8", 3).mean(), "float32"),
    "mean-of-bool": (lambda: t("?", 3).mean(), "float32"),
    "sum-of-int": (lambda: t("i8", 3).sum(), "int64"),
    "sum-of-float16": (lambda: t("f2", 3).sum(), "float16"),
    "leaky_relu-of-int": (lambda: F.leaky_relu(t("i8", 3)), "float32"),
    "clip-of-int-by-float": (lambda: F.clip(t("i8", 3), 0.5), "float32"),
    "int-to-a-float-power": (lambda: t("i8", 3) ** 0.5, "float32"),
    "matmul-of-float16": (lambda: t("f2", 2, 3) @ t("f2", 3, 2), "float16"),
    "astype-to-float64": (lambda: t("f4", 3).astype(np.float64), "float64"),
    "astype-to-float16": (lambda: t("f4", 3).astype("float16"), "float16"),
    "astype-to-int": (lambda: t("f4", 3).astype(int), "int64"),
    "astype-from-int": (lambda: t("i8", 3).astype("float64"), "float64"),
    "python-float": (lambda: Tensor(1.5), "float32"),
    "list-of-floats": (lambda: Tensor([1.5, 2.5]), "float32"),
    "python-int": (lambda: Tensor(3), "int64"),
    "float64-array": (lambda: Tensor(np.ones(3)), "float64"),
    "layer-norm-float16-with-float32-weights": (lambda: F.layer_norm(t("f2", 2, 3), t("f4", 3), t("f4", 3)), "float16"),
    "batch-norm-float16-with-float32-statistics": (
        lambda: F.batch_norm(t("f2", 2, 3), t("f4", 3), t("f4", 3)),
        "float16",
    ),
    "attention-float16": (lambda: F.attention(*[t("f2", 1, 1, 2, 3)] * 3), "float16"),
}
for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "silu", "gelu"):
    DTYPES[f"{name}-of-int"] = (lambda name=name: getattr(F, name)(t("i8", 3)), "float32")


@pytest.mark.parametrize("f, dtype", DTYPES.values(), ids=DTYPES.keys())
def test_result_dtype(f, dtype):
    assert f().dtype == dtype


def test_python_floats_are_not_rounded_on_the_way():
    """0.1 beside a float64 tensor is the double 0.1, not the float32 one."""
    assert (Tensor(np.zeros(1)) + 0.1).item() == 0.1
    assert (Tensor(np.ones(1)) / 3).item() == 1 / 3


@pytest.mark.parametrize("x, y", [("f4", "f8"), ("f2", "f4"), ("f8", "f4")])
def test_gradients_have_their_inputs_dtypes(x, y):
    a, b = (Tensor(np.ones(3, d), requires_grad=True) for d in (x, y))
    (a * b).sum().backward()
    assert a.grad.dtype == x and b.grad.dtype == y


def test_gradient_of_a_0d_float64_beside_float32():
    a, b = Tensor(np.ones(3, "f4"), requires_grad=True), Tensor(np.array(2.0), requires_grad=True)
    (a * b).sum().backward()
    assert a.grad.dtype == np.float32 and b.grad.dtype == np.float64 and b.grad.shape == ()


def test_float16_sums_do_not_stop_at_2048():
    """2048 + 1 is 2048 in float16: only a wider accumulator counts further."""
    assert t("f2", 4096).sum().item() == 4096
    assert (t("f2", 1, 3000) @ t("f2", 3000, 1)).item() == 3000


def test_overflow_makes_infinities_not_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = Tensor(np.array([300.0, 1.0], np.float16), requires_grad=True)
        y = x * x
        assert np.array_equal(y.data, [np.inf, 1])
        (y * 300.0).backward(np.array([300.0, 1.0]))
        assert np.array_equal(x.grad, [np.inf, 600])
        assert np.isposinf(F.exp(np.array([1e3], np.float32)).data).all()
        assert np.isnan(F.log(np.array([-1.0], np.float32)).data).all()


# --- Tensor's manners ----------------------------------------


def test_arrays_on_the_left_give_tensors():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    a = np.array([3.0, 5.0])
    for y, value in ((a + x, [4, 7]), (a - x, [2, 3]), (a * x, [3, 10]), (a / x, [3, 2.5]), (a**x, [3, 25])):
        assert isinstance(y, Tensor) and np.array_equal(y.data, value)
    assert isinstance(a @ x, Tensor) and (a @ x).item() == 13


def test_comparisons_are_boolean_and_equality_is_identity():
    x, y = Tensor([1.0, 2.0]), Tensor([2.0, 2.0])
    assert [list(c.data) for c in (x < y, x <= 1.5, x > 1, x >= y)] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert x == x and x != y and {x: 1}[x] == 1


def test_length_iteration_and_truth():
    x = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    assert len(x) == 3 and [row.shape for row in x] == [(2,)] * 3 and next(iter(x)).requires_grad
    assert bool(Tensor(1.0)) and not Tensor(0.0)
    assert (x.ndim, x.size, x.device, x.T.shape) == (2, 6, "cpu", (2, 3))
    assert "requires_grad=True" in repr(x) and "requires_grad" not in repr(x.detach())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_from_torch_without_a_copy(dtype):
    source = torch.ones(2, 3).to(getattr(torch, dtype))
    x = from_dlpack(source)
    assert x.dtype == dtype and x.shape == (2, 3) and not x.requires_grad
    source[1, 2] = 0
    assert x.data[1, 2] == 0
    x.assign_(np.zeros((2, 3)))
    assert not source.any()


def test_from_torch_keeps_strides():
    source = torch.arange(6.0).reshape(2, 3).T
    assert np.array_equal(from_dlpack(source).data, [[0, 3], [1, 4], [2, 5]])


def test_to_torch_without_a_copy():
    x = Tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    y = torch.from_dlpack(x)
    assert y.dtype == torch.float32 and y.shape == (2, 3)
    y[0, 1] = 42
    assert x.data[0, 1] == 42
    assert x.__dlpack_device__() == (1, 0)


def test_arrays_of_another_byte_order_are_read():
    """As files and networks hand them over; kernels take the machine's own order only."""
    for kind in ("f4", "f8", "i8"):
        assert Tensor(np.arange(3, dtype=f">{kind}")).data.dtype == np.dtype(f"={kind}")
    rows = F.embedding(np.array([2, 0], ">i8"), np.arange(6, dtype=np.float32).reshape(3, 2))
    assert rows.data.tolist() == [[4, 5], [0, 1]]

"""Matrix products."""

from core import check
from core.dispatch import run
from core.functional.arguments import activation, bias_of, optional, tensor


def matmul(x, y):
    """Matrix product with NumPy's rules for vectors and batches."""
    return run("matmul", x, y)


def linear(x, w, b=None, *, act=None):
    """act(x @ w.T + b): x (..., in), w (out, in), b (out,) -> (..., out). `act`: see ACTIVATIONS."""
    op = "linear"
    x, w, b = tensor(op, "x", x), tensor(op, "w", w), optional(op, "b", b)
    check.floating(op, x=x.data, w=w.data, b=b.data if b is not None else None)
    check.shaped(op, "w", w, 2, "(out, in)")
    if not x.ndim or x.shape[-1] != w.shape[1]:
        check.fail(op, "x", f"of shape {x.shape}", f"(..., {w.shape[1]}) to match w {w.shape}")
    bias_of(op, b, w.shape[0])
    return run(op, x, w, b, **activation(op, act, 0.01))

"""Convolutions on (N, H, W, C) images."""

from core import check
from core.dispatch import run
from core.functional.arguments import activation, bias_of, optional, tensor
from core.reference.conv import span, transposed_size


def conv2d(x, w, b=None, *, stride=1, padding=0, dilation=1, act=None, negative_slope=0.01):
    """act(correlation of x with w, plus b), as torch.nn.functional.conv2d with channels last.

    x (N, H, W, Cin), w (KH, KW, Cin, Cout), b (Cout,) -> (N, OH, OW, Cout) with
    OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1. stride, padding and dilation: integers or pairs.
    """
    op = "conv2d"
    x, w, b = tensor(op, "x", x), tensor(op, "w", w), optional(op, "b", b)
    stride, padding, dilation = _image_arguments(op, x, w, b, stride, padding, dilation)
    check.matches(op, "w's third length (Cin)", w.shape[2], x.shape[3])
    bias_of(op, b, w.shape[3])
    reach = span(w.shape[:2], dilation)
    if any(n + 2 * p < r for n, p, r in zip(x.shape[1:3], padding, reach)):
        check.fail(op, "x", f"{x.shape[1:3]} pixels with padding {padding}", f"at least the kernel's {reach}")
    attrs = {"stride": stride, "padding": padding, "dilation": dilation}
    return run(op, x, w, b, **attrs, **activation(op, act, negative_slope))


def conv_transpose2d(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, act=None, negative_slope=0.01):
    """act(adjoint of conv2d's correlation, plus b), as torch.nn.functional.conv_transpose2d with channels last.

    x (N, H, W, Cin), w (KH, KW, Cout, Cin), b (Cout,) -> (N, OH, OW, Cout) with
    OH = stride (H - 1) + dilation (KH - 1) + 1 - 2 padding + output_padding; output_padding < max(stride, dilation).
    """
    op = "conv_transpose2d"
    x, w, b = tensor(op, "x", x), tensor(op, "w", w), optional(op, "b", b)
    stride, padding, dilation = _image_arguments(op, x, w, b, stride, padding, dilation)
    output_padding = check.pair(op, "output_padding", output_padding, 0)
    check.matches(op, "w's fourth length (Cin)", w.shape[3], x.shape[3])
    bias_of(op, b, w.shape[2])
    if any(o >= max(s, d) for o, s, d in zip(output_padding, stride, dilation)):
        check.fail(op, "output_padding", output_padding, f"below stride {stride} or dilation {dilation}")
    out = transposed_size(x.shape[1:3], w.shape[:2], stride, padding, output_padding, dilation)
    if min(out) < 1:
        check.fail(op, "padding", padding, f"small enough to leave a pixel (the result would be {out})")
    attrs = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return run(op, x, w, b, **attrs, **activation(op, act, negative_slope))


def _image_arguments(op, x, w, b, stride, padding, dilation):
    check.floating(op, x=x.data, w=w.data, b=b.data if b is not None else None)
    check.shaped(op, "x", x, 4, "(N, H, W, Cin)")
    check.shaped(op, "w", w, 4, "(KH, KW, Cin, Cout)" if op == "conv2d" else "(KH, KW, Cout, Cin)")
    if min(w.shape) < 1:
        check.fail(op, "w", f"of shape {w.shape}", "without a zero length")
    lows = (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    return tuple(check.pair(op, name, value, least) for name, value, least in lows)

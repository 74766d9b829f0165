"""Convolution and transposed convolution, channels last, as implicit matrix products: nothing is packed or scattered.

As in core/reference/conv.py: the large image (N, H, W, A), the small one (N, U, V, B), w (KH, KW, A, B), and the links
h = S u + D i - P, c = S v + D j - P of pixel (u, v), tap (i, j) and pixel (h, c), with stride S, dilation D, padding P:

    correlate              small[u, v] = sum over the taps            of large[h, c] @ w[i, j]
    correlate_transpose    large[h, c] = sum over the links into it   of small[u, v] @ w[i, j].T

The first is conv2d, and conv_transpose2d's dx; the second is conv_transpose2d, and conv2d's dx. What is summed over
pixels, dw and db, is in conv_weight.py. One kernel does both: its x is what comes in and its y what goes out.

Shapes      x (N, IH, IW, CI), y (N, OH, OW, CO): the large and the small image for correlate, with CI = A, CO = B, and
            the other way round for its transpose. An Axis holds K, S, P, D of the rows or of the columns
Phases      output row S q + r of the transpose takes tap i from input row q + (r + P - D i) / S where that is whole.
With
            g = gcd(S, D) these are every (S/g)-th tap, the first being (r + P)/g times the inverse of D/g, mod S/g;
            from one to the next the input row falls by D/g. So each residue r is a dense stride-1 correlation
Plan        a program makes BLOCK_M pixels x BLOCK_N channels of y, of one phase (the fastest axis of the grid, so that
            neighbours read the same x), in one flat loop over k = (tap, channel of x). A row's pointer is made once, a
            tap adds one offset to all; bit t of a row's mask says whether tap t is inside the image. If BLOCK_K does
            not divide CI, a block of k holds parts of several taps, so an image of 1 or 3 channels wastes nothing.
            BLOCK_N = 1 serves one channel, a GAN's last layer, on the ordinary cores: a tensor core would compute 16
            columns to use one
Cost        2 N U V KH KW A B flops, either way (no inserted zero is multiplied); every array once as long as L2
            holds the rows in flight
Precision   products of float32 in three TF32 passes ("tf32x3"); the compiler sums each block of k from zero and adds
            that to the float32 total, so the tensor cores' cruder rounding does not pile up. float16 is only stored
Versions    read in compiled code, not timed: nested loops over taps drain the pipeline at every tap; tl.range(flatten)
            switches it off; an address by division in every row costs 1.4 times the instructions. Of leaky_relu the
            result is kept, not the input, which would be one more array to write: for a positive negative_slope their
            signs agree
Limits      kernels to 31 taps an axis (bits of a mask); below 2^31 pixels, and elements of one padded image and of w:
            core/table.py refuses more
Source      phases: Dumoulin and Visin 2016, section 4
Status      untested on a device: all of it

# why: docs/kernels/convolution.md
# next: kernels/gpu/conv_weight.py, the sums over pixels
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from core.reference.conv import span, transposed_size
from kernels.gpu.activations import KEEPS_INPUT, activate
from kernels.gpu.common import cdiv, precision_of
from kernels.gpu.conv_weight import before_activation, weight_gradient, width_of
from kernels.launch import blocks, launch


class Axis(NamedTuple):
    """One axis of a convolution: K, S, P, D, gcd(S, D), and the inverse of D/g mod S/g."""

    taps: int
    stride: int
    padding: int
    dilation: int
    gcd: int
    inverse: int


@triton.jit
def _phase(r, AXIS: tl.constexpr):
    """Phase r of the transpose: (number of its taps, the first one, the input position of that one for q = 0)."""
    period: tl.constexpr = AXIS.stride // AXIS.gcd
    first = (r + AXIS.padding) // AXIS.gcd * AXIS.inverse % period
    taps = tl.where((r + AXIS.padding) % AXIS.gcd == 0, tl.cdiv(tl.maximum(AXIS.taps - first, 0), period), 0)
    return taps, first, (r + AXIS.padding - AXIS.dilation * first) // AXIS.stride


@triton.jit
def _inside(position, size, taps, STEP: tl.constexpr, AXIS: tl.constexpr):
    """Bit t is set where tap t < taps, which reads at position + STEP t, reads inside the image."""
    bits = tl.zeros_like(position)
    most: tl.constexpr = AXIS.taps
    for t in tl.static_range(most):
        at = position + STEP * t
        bits |= ((at >= 0) & (at < size) & (t < taps)).to(tl.int32) << t
    return bits


@triton.jit
def _gather(
    x_ptr, w_ptr, b_ptr, y_ptr, kept_ptr, images, IH, IW, OH, OW, negative_slope,
    CI: tl.constexpr, CO: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, TRANSPOSE: tl.constexpr,
    ACT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y = act(x correlated with w, or TRANSPOSE by it, + b); act's input goes to kept_ptr, unless that is None."""
    program = tl.program_id(0)
    if TRANSPOSE:  # output pixel S q + r; tap first + S/g t reads input pixel q + start - D/g t
        step_h: tl.constexpr = -(ROWS.dilation // ROWS.gcd)
        step_w: tl.constexpr = -(COLS.dilation // COLS.gcd)
        out_h: tl.constexpr = ROWS.stride
        out_w: tl.constexpr = COLS.stride
        rh, rw = program % (out_h * out_w) // out_w, program % out_w
        taps_h, first_h, start_h = _phase(rh, ROWS)
        taps_w, first_w, start_w = _phase(rw, COLS)
    else:  # output pixel q; tap t reads input pixel S q - P + D t
        step_h: tl.constexpr = ROWS.dilation
        step_w: tl.constexpr = COLS.dilation
        out_h: tl.constexpr = 1
        out_w: tl.constexpr = 1
        rh, rw, first_h, first_w = 0, 0, 0, 0
        taps_h, start_h, taps_w, start_w = ROWS.taps, -ROWS.padding, COLS.taps, -COLS.padding
    PH, PW = tl.cdiv(OH, out_h), tl.cdiv(OW, out_w)  # rows and columns of output pixels in a phase
    tile = program // (out_h * out_w)
    m = tile // tl.cdiv(CO, BLOCK_N) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % tl.cdiv(CO, BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    image, qh, qw = m // (PH * PW), m // PW % PH, m % PW
    ih = qh * (1 if TRANSPOSE else ROWS.stride) + start_h
    iw = qw * (1 if TRANSPOSE else COLS.stride) + start_w
    bits_h = tl.where(image < images, _inside(ih, IH, taps_h, step_h, ROWS), 0)
    bits_w = _inside(iw, IW, taps_w, step_w, COLS)
    x_row = x_ptr + ((image.to(tl.int64) * IH + ih) * IW + iw) * CI  # (BLOCK_M,)

    total = taps_h * taps_w * CI
    acc = tl.zeros((BLOCK_M, BLOCK_K if BLOCK_N == 1 else BLOCK_N), tl.float32)
    for start in range(0, total, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if CI % BLOCK_K == 0:  # one tap: a scalar
            tap = tl.full((BLOCK_K,), start // CI, tl.int32)
        else:
            tap = k // CI
        c = k % CI
        th = tl.minimum(tap // tl.maximum(taps_w, 1), 31)  # no image has bit 31 set: a k past the end reads nothing
        tw = tap % tl.maximum(taps_w, 1)
        x_at = (th * step_h * IW + tw * step_w) * CI + c
        hit = (bits_h[:, None] >> th[None, :]) & (bits_w[:, None] >> tw[None, :]) & 1  # (BLOCK_M, BLOCK_K)
        x = tl.load(x_row[:, None] + x_at[None, :], mask=hit != 0, other=0.0)
        if TRANSPOSE:
            at = (first_h + th * (ROWS.stride // ROWS.gcd)) * COLS.taps + first_w + tw * (COLS.stride // COLS.gcd)
            w_at, across = at * CO * CI + c, CI
        else:
            w_at, across = (tap * CI + c) * CO, 1
        if BLOCK_N == 1:
            w = tl.load(w_ptr + w_at + n * across, mask=k < total, other=0.0)
            acc += x.to(tl.float32) * w.to(tl.float32)[None, :]
        else:
            inside = (k < total)[:, None] & (n < CO)[None, :]
            w = tl.load(w_ptr + w_at[:, None] + (n * across)[None, :], mask=inside, other=0.0)  # (BLOCK_K, BLOCK_N)
            acc = tl.dot(x, w, acc, input_precision=PRECISION)

    if BLOCK_N == 1:
        acc = tl.sum(acc, 1, keep_dims=True)
    if b_ptr is not None:
        acc += tl.load(b_ptr + n, mask=n < CO, other=0.0).to(tl.float32)[None, :]
    oh, ow = qh * out_h + rh, qw * out_w + rw
    y_at = (((image.to(tl.int64) * OH + oh) * OW + ow) * CO)[:, None] + n[None, :]
    inside = ((image < images) & (oh < OH) & (ow < OW))[:, None] & (n < CO)[None, :]
    if kept_ptr is not None:
        tl.store(kept_ptr + y_at, acc, mask=inside)
    tl.store(y_ptr + y_at, activate(acc, negative_slope, ACT), mask=inside)


# --- launches ----------------------------------------


def _axes(taps, stride, padding, dilation):
    """{"ROWS": Axis, "COLS": Axis}"""
    made = []
    for k, s, p, d in zip(taps, stride, padding, dilation):
        g = math.gcd(s, d)
        made.append(Axis(k, s, p, d, g, pow(d // g, -1, s // g)))
    return {"ROWS": made[0], "COLS": made[1]}


def _ready(dtype, *arrays):
    """The arrays C-contiguous and of one dtype, as a product wants both its sides; None stays None."""
    return [None if a is None else array_module(a).ascontiguousarray(a, dtype) for a in arrays]


def _apply(x, w, b, out, axes, transpose, act=None, negative_slope=0.0):
    """(y, what the derivative of `act` needs, or None): y (N, *out, CO) = act(x correlated, or its transpose, + b)."""
    xp, (n, h, width, ci), co = array_module(x), x.shape, w.shape[2 if transpose else 3]
    y = xp.empty((n, *out, co), x.dtype)
    kept = xp.empty_like(y) if act in KEEPS_INPUT and not (act == "leaky_relu" and negative_slope > 0) else None
    strides = (axes["ROWS"].stride, axes["COLS"].stride) if transpose else (1, 1)
    config = blocks("conv", f"gather_{width_of(co)}", x.dtype, y.size // co)
    pixels = n * cdiv(out[0], strides[0]) * cdiv(out[1], strides[1])
    grid = math.prod(strides) * cdiv(pixels, config["BLOCK_M"]) * cdiv(co, config["BLOCK_N"])
    constants = {"CI": ci, "CO": co, **axes, "TRANSPOSE": transpose, "ACT": act, "PRECISION": precision_of(x), **config}
    launch(_gather, (grid,), x, w, b, y, kept, n, h, width, *out, float(negative_slope), **constants)
    return y, y if kept is None and act is not None else kept


# --- the two operations ----------------------------------------


def _conv2d(x, w, b, *, stride, padding, dilation, act, negative_slope):
    x, w, b = _ready(result_dtype(x, w, b), x, w, b)
    out = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[1:], padding, span(w.shape[:2], dilation), stride)]
    axes = _axes(w.shape[:2], stride, padding, dilation)
    y, kept = _apply(x, w, b, out, axes, False, act, negative_slope)
    return y, (x, w, kept)


def _conv2d_backward(saved, dy, needs_input_grad, *, stride, padding, dilation, act, negative_slope):
    x, w, kept = saved
    dy, db = before_activation(*_ready(x.dtype, dy), kept, act, negative_slope, needs_input_grad[2])
    axes = _axes(w.shape[:2], stride, padding, dilation)
    dx = _apply(dy, w, None, x.shape[1:3], axes, True)[0] if needs_input_grad[0] else None
    return dx, weight_gradient(x, dy, axes) if needs_input_grad[1] else None, db


def _conv_transpose2d(x, w, b, *, stride, padding, output_padding, dilation, act, negative_slope):
    x, w, b = _ready(result_dtype(x, w, b), x, w, b)
    out = transposed_size(x.shape[1:3], w.shape[:2], stride, padding, output_padding, dilation)
    axes = _axes(w.shape[:2], stride, padding, dilation)
    y, kept = _apply(x, w, b, out, axes, True, act, negative_slope)
    return y, (x, w, kept)


def _conv_transpose2d_backward(
    saved, dy, needs_input_grad, *, stride, padding, output_padding, dilation, act, negative_slope
):
    x, w, kept = saved
    dy, db = before_activation(*_ready(x.dtype, dy), kept, act, negative_slope, needs_input_grad[2])
    axes = _axes(w.shape[:2], stride, padding, dilation)
    dx = _apply(dy, w, None, x.shape[1:3], axes, False)[0] if needs_input_grad[0] else None
    return dx, weight_gradient(dy, x, axes) if needs_input_grad[1] else None, db


conv2d = Op("conv2d", _conv2d, _conv2d_backward, backend="triton")
conv_transpose2d = Op("conv_transpose2d", _conv_transpose2d, _conv_transpose2d_backward, backend="triton")

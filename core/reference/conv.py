"""Convolution and its transpose: three functions of arrays, and either operation is made of all three.

    correlate(x, w)              (N, H, W, A) -> (N, U, V, B)    conv2d forward;  conv_transpose2d's input gradient
    correlate_transpose(y, w)    (N, U, V, B) -> (N, H, W, A)    conv_transpose2d forward;  conv2d's input gradient
    weight_gradient(x, y)        -> (KH, KW, A, B)               the weight gradient of both

x is the large image, y the small one, whichever of them an operation is given; w (KH, KW, A, B) has their channels: A
is conv2d's Cin and conv_transpose2d's Cout, B the other. With stride S, dilation D and padding P, tap (i, j) of w links
the pixel y[u, v] with the pixel x[h, c] where h = S u + D i - P and c = S v + D j - P:

    correlate              y[u, v] = sum over the taps i, j       of x[h, c] @ w[i, j]
    correlate_transpose    x[h, c] = sum over the links into it   of y[u, v] @ w[i, j].T      (the adjoint)

`correlate` packs the patches of a few images into a matrix and multiplies (implicit GEMM on the GPU).
`correlate_transpose` uses the phase decomposition: output pixels with equal residues mod S see the same taps, so each
of the S*S residues is a dense stride-1 correlation with a subset of the taps. Nothing is scattered, and no inserted
zero is multiplied.

# why: docs/kernels/convolution.md
# next: core/reference/attention.py
"""

from core.arrays import array_module, total
from core.engine import Op
from core.reference.pointwise import activate, activate_backward

BLOCK = 1 << 19  # elements packed at once (2 MB of float32), so that a block is still in cache when it is multiplied
# Pixels of y in a block of the weight gradient, unless one image has more: a shorter sum rounds less.
ROWS = 64


def _pad(x, ph, pw):
    """`x` with zeros around it: ph = (above, below), pw = (left, right); negative values crop."""
    n, h, w, c = x.shape
    (top, bottom), (left, right) = ph, pw
    y = array_module(x).zeros((n, h + top + bottom, w + left + right, c), x.dtype)
    inner = x[:, max(-top, 0) : max(h + min(bottom, 0), 0), max(-left, 0) : max(w + min(right, 0), 0)]
    y[:, max(top, 0) : max(top, 0) + inner.shape[1], max(left, 0) : max(left, 0) + inner.shape[2]] = inner
    return y


def _windows(x, taps, out, stride, dilation):
    """A view (N, *out, KH, KW, C) of the padded x: every output pixel's patch, without a copy."""
    n, h, w, c = x.strides
    strides = (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c)
    return array_module(x).lib.stride_tricks.as_strided(x, (x.shape[0], *out, *taps, x.shape[3]), strides)


def _blocks(n, elements, rows=0):
    """Slices of the batch: as many images as have BLOCK packed numbers, of `elements` each, and ROWS pixels, of `rows`
    each if that is given; one image at least."""
    step = max(1, min(BLOCK // max(elements, 1), ROWS // max(rows, 1) if rows else n))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def span(taps, dilation):
    """How many pixels a dilated kernel spans: (D (K - 1) + 1) per axis."""
    return tuple(d * (k - 1) + 1 for k, d in zip(taps, dilation))


def correlate(x, w, stride, dilation, ph, pw):
    """The correlation above; ph and pw are (before, after) paddings, negative ones crop."""
    kh, kw, a, b = w.shape
    x = _pad(x, ph, pw)
    n, h, width, _ = x.shape
    rh, rw = span((kh, kw), dilation)
    u, v = (h - rh) // stride[0] + 1, (width - rw) // stride[1] + 1
    if 4 * b <= a:
        return _correlate_narrow(x, w, (u, v), stride, dilation)
    xp = array_module(x)
    windows, matrix = _windows(x, (kh, kw), (u, v), stride, dilation), w.reshape(-1, b)  # ..., (KH KW A, B)
    y = xp.empty((n, u, v, b), x.dtype)
    for part in _blocks(n, u * v * kh * kw * a):
        patches = windows[part].reshape(-1, kh * kw * a)  # (n U V, KH KW A)
        xp.matmul(patches, matrix, out=y[part].reshape(-1, b))
    return y


def _correlate_narrow(x, w, out, stride, dilation):
    """Few output channels (128 -> 1): packing would move KH KW A numbers a pixel for little arithmetic, so multiply
    first, which leaves KH KW B of them, and then shift and add."""
    kh, kw, a, b = w.shape
    (u, v), (n, h, width, _) = out, x.shape
    xp = array_module(x)
    matrix = xp.ascontiguousarray(w.transpose(2, 0, 1, 3)).reshape(a, -1)  # (A, KH KW B)
    y = xp.zeros((n, u, v, b), x.dtype)
    for part in _blocks(n, h * width * kh * kw * b):
        products = (x[part].reshape(-1, a) @ matrix).reshape(-1, h, width, kh, kw, b)  # (n H W, A) @ (A, KH KW B)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                rows = slice(top, top + stride[0] * (u - 1) + 1, stride[0])
                cols = slice(left, left + stride[1] * (v - 1) + 1, stride[1])
                y[part] += products[:, rows, cols, i, j]
    return y


def phase(residue, taps, stride, dilation, padding, size_in, size_out):
    """One axis of one phase: which taps reach the output pixels `residue, residue + stride, ...`, and how to pad.

    Output pixel h = S q + r takes tap i from input oh = (h + P - D i) / S where that is whole. With
    c_i = (r + P - D i) / S the input is q + c_i, which falls as i grows, so the taps are read in reverse.
    Returns (taps in order of rising input position, spacing of their inputs, (padding before, after)): the first tap of
    the first pixel reads input c, so -c zeros go before; the last tap of the last of n pixels reads input n - 1 + c',
    so n + c' - size_in go after. Either may be negative: inputs that no pixel reads are cut off.
    """
    whole = [i for i in reversed(range(taps)) if (residue + padding - dilation * i) % stride == 0]
    if not whole:
        return [], 1, (0, 0)
    offsets = [(residue + padding - dilation * i) // stride for i in whole]
    spacing = offsets[1] - offsets[0] if len(offsets) > 1 else 1
    pixels = len(range(residue, size_out, stride))
    return whole, spacing, (-offsets[0], pixels + offsets[-1] - size_in)


def correlate_transpose(y, w, stride, dilation, padding, out):
    """The adjoint of `correlate`: y (N, U, V, B) -> (N, *out, A), by phases."""
    xp = array_module(y)
    n, u, v, _ = y.shape
    kh, kw, a, _ = w.shape
    x = xp.empty((n, *out, a), y.dtype)
    for r in range(min(stride[0], out[0])):
        rows, step_h, ph = phase(r, kh, stride[0], dilation[0], padding[0], u, out[0])
        for c in range(min(stride[1], out[1])):
            cols, step_w, pw = phase(c, kw, stride[1], dilation[1], padding[1], v, out[1])
            target = x[:, r :: stride[0], c :: stride[1]]
            if rows and cols:
                taps = w[rows][:, cols].transpose(0, 1, 3, 2)  # (taps, taps, B, A)
                target[...] = correlate(y, xp.ascontiguousarray(taps), (1, 1), (step_h, step_w), ph, pw)
            else:
                target[...] = 0  # stride > kernel: no tap reaches these pixels
    return x


def weight_gradient(x, y, taps, stride, dilation, padding):
    """(KH, KW, A, B): for every tap, the sum over pixels of x's value times y's, `patches.T @ y` block by block."""
    xp = array_module(x)
    (n, u, v, b), a = y.shape, x.shape[3]
    rh, rw = span(taps, dilation)
    ph = (padding[0], stride[0] * (u - 1) + rh - x.shape[1] - padding[0])
    pw = (padding[1], stride[1] * (v - 1) + rw - x.shape[2] - padding[1])
    if 4 * b <= a and stride == (1, 1):
        return _weight_gradient_narrow(x, y, taps, dilation, padding)
    windows = _windows(_pad(x, ph, pw), taps, (u, v), stride, dilation)
    dw = xp.zeros((taps[0] * taps[1] * a, b), x.dtype)
    for part in _blocks(n, u * v * len(dw), u * v):
        dw += windows[part].reshape(-1, len(dw)).T @ y[part].reshape(-1, b)  # (KH KW A, n U V) @ (n U V, B)
    return dw.reshape(*taps, a, b)


def _weight_gradient_narrow(x, y, taps, dilation, padding):
    """Few output channels at stride 1: the same sum with the roles exchanged, so that the narrow array is packed.

    x[h + D i - P] y[h] = x[h'] y[h' - D i + P]: a correlation of y around each pixel of x, taps in reverse."""
    xp = array_module(x)
    (n, h, w, a), b = x.shape, y.shape[3]
    rh, rw = span(taps, dilation)
    ph = (rh - 1 - padding[0], h + padding[0] - y.shape[1])
    pw = (rw - 1 - padding[1], w + padding[1] - y.shape[2])
    windows = _windows(_pad(y, ph, pw), taps, (h, w), (1, 1), dilation)
    dw = xp.zeros((taps[0] * taps[1] * b, a), x.dtype)
    for part in _blocks(n, h * w * len(dw), h * w):
        dw += windows[part].reshape(-1, len(dw)).T @ x[part].reshape(-1, a)  # (KH KW B, n H W) @ (n H W, A)
    return dw.reshape(*taps, b, a)[::-1, ::-1].transpose(0, 1, 3, 2)  # (KH, KW, A, B)


# --- the two operations ----------------------------------------


def _both(p):
    return (p[0], p[0]), (p[1], p[1])


def _conv2d(x, w, b, *, stride, padding, dilation, act, negative_slope):
    y = correlate(x, w, stride, dilation, *_both(padding))
    if b is not None:
        y += b
    y, activated = activate(act, y, negative_slope)
    return y, (x, w, activated)


def _conv2d_backward(saved, dy, needs_input_grad, *, stride, padding, dilation, act, negative_slope):
    x, w, activated = saved
    dy = activate_backward(act, activated, dy, negative_slope)
    dx = correlate_transpose(dy, w, stride, dilation, padding, x.shape[1:3]) if needs_input_grad[0] else None
    dw = weight_gradient(x, dy, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None
    return dx, dw, total(dy, (0, 1, 2)) if needs_input_grad[2] else None


def transposed_size(size, taps, stride, padding, output_padding, dilation):
    """Height and width of conv_transpose2d's result: S (n - 1) + D (K - 1) + 1 - 2 P + output padding."""
    reaches = span(taps, dilation)
    return tuple(s * (n - 1) + r - 2 * p + o for n, s, r, p, o in zip(size, stride, reaches, padding, output_padding))


def _conv_transpose2d(x, w, b, *, stride, padding, output_padding, dilation, act, negative_slope):
    out = transposed_size(x.shape[1:3], w.shape[:2], stride, padding, output_padding, dilation)
    y = correlate_transpose(x, w, stride, dilation, padding, out)
    if b is not None:
        y += b
    y, activated = activate(act, y, negative_slope)
    return y, (x, w, activated)


def _conv_transpose2d_backward(
    saved, dy, needs_input_grad, *, stride, padding, output_padding, dilation, act, negative_slope
):
    x, w, activated = saved
    dy = activate_backward(act, activated, dy, negative_slope)
    u, v = x.shape[1:3]  # an output_padding of a stride or more, which a dilation allows, makes correlate find more
    dx = correlate(dy, w, stride, dilation, *_both(padding))[:, :u, :v] if needs_input_grad[0] else None
    dw = weight_gradient(dy, x, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None
    return dx, dw, total(dy, (0, 1, 2)) if needs_input_grad[2] else None


conv2d = Op("conv2d", _conv2d, _conv2d_backward)
conv_transpose2d = Op("conv_transpose2d", _conv_transpose2d, _conv_transpose2d_backward)

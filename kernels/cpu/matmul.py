"""linear on a CPU: a block of rows is multiplied, and bias and activation follow while it is in cache.

    z = x w^T + b,  y = act(z);      dz = dy act'(z),  dx = dz w,  dw = dz^T x,  db = the sum of dz over rows

Shapes      x (..., in), w (out, in), b (out,), y (..., out)
Plan        rows are shared out over threads, in blocks of about BLOCK results; dw by its own rows, so that no two
            threads add to the same number. Where all sizes fill whole tiles the products are those of
            kernels/cpu/tiles.py, whose right matrix is copied into columns first; elsewhere BLAS's
Cost        2 rows in out flops forward, twice that backward; bias and activation would cost 12 bytes a result by
            themselves and are nearly free in cache
Precision   float32; db adds in float64
Versions    BLAS alone: 83 GF/s a core on the layers of a small GPT (384 rows, 128 to 512 columns), 200 on large ones
Limits      activations: none, relu, tanh, leaky_relu with a slope that is not negative, and gelu, which keeps z

# why: docs/kernels/others.md
# next: kernels/cpu/attention.py
"""

import math

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.activations import activation_backward, negative_slope_of, tanh_loop
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, floats, kernel, out
from kernels.cpu.lanes import LANES
from kernels.cpu.pointwise import gelu_of
from kernels.cpu.tiles import ROWS, product

BLOCK = 1 << 18  # results of a block (1 MB)


@kernel(const(1), REAL, INDEX, out(2), out(2), *PIECE)
def _finish(bias, slope, is_gelu, z, y, start, stop):
    """z += bias, y = act(z) for rows start to stop; z and y are one array unless act is gelu."""
    for i in range(start, stop):
        for k in range(z.shape[1]):
            z[i, k] += bias[k]
        if is_gelu:
            for k in range(z.shape[1]):
                y[i, k] = gelu_of(z[i, k])
        elif slope != f32(1):
            for k in range(z.shape[1]):
                low = z[i, k] * slope if slope != f32(0) else f32(0)
                y[i, k] = low if z[i, k] < f32(0) else z[i, k]


# --- y = a b, with a read as it lies or turned ----------------------------------------


@kernel(const(2), out(3), *PIECE)
def _columns(b, blocks, start, stop):
    """blocks[i] = columns LANES i, ... of b (K, N)."""
    for i in range(start, stop):
        for k in range(b.shape[0]):
            source, target = b[k, i * LANES : (i + 1) * LANES], blocks[i, k]
            for c in range(LANES):
                target[c] = source[c]


@kernel(const(2), out(3), *PIECE)
def _rows_as_columns(b, blocks, start, stop):
    """blocks[i, :, c] = row LANES i + c of b (N, K)."""
    for i in range(start, stop):
        for k in range(0, b.shape[1], ROWS):
            for c in range(LANES):
                source = b[i * LANES + c, k : k + ROWS]
                for j in range(source.size):
                    blocks[i, k + j, c] = source[j]


@kernel(const(2), const(3), out(2), INDEX, *PIECE)
def _multiply(a, b, y, turned, start, stop):
    """Rows start to stop of y = a b, or a^T b: b (K, N) in columns."""
    n, depth, width = b.shape[0] * LANES, b.shape[1], a.shape[1]
    first, row, column = (start, 1, width) if turned else (start * width, width, 1)
    columns, result = b.reshape(-1), y.reshape(-1)[start * n :]
    product(a.reshape(-1)[first:], row, column, columns, LANES, depth * LANES, result, n, stop - start, n, depth, False)


def in_columns(b, turned=False):
    """b (K, N), or (N, K) to be turned, in blocks of LANES columns."""
    depth, n = b.shape[::-1] if turned else b.shape
    blocks = np.empty((n // LANES, depth, LANES), f32)
    (_rows_as_columns if turned else _columns)(b, blocks, 0, len(blocks))
    return blocks


def whole(rows, columns) -> bool:
    """Whether a result of this size consists of whole tiles."""
    return rows > 0 and rows % ROWS == 0 and columns > 0 and columns % LANES == 0


# --- the operation ----------------------------------------


def _linear(x, w, b, *, act, negative_slope):
    x, w = floats(x), floats(w)
    bias = np.zeros(len(w), f32) if b is None else floats(b)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    z = np.empty((len(rows), len(w)), f32)
    y = np.empty_like(z) if act == "gelu" else z
    tiled = whole(*z.shape)
    columns = in_columns(w, turned=True) if tiled else None
    step = max(1, BLOCK // max(len(w), 1) // ROWS) * ROWS

    def piece(start, stop):
        for i in range(start * ROWS, min(stop * ROWS, len(rows)), step):
            j = min(i + step, stop * ROWS, len(rows))
            if tiled:
                _multiply(rows, columns, z, False, i, j)
            else:
                np.matmul(rows[i:j], w.T, out=z[i:j])  # (rows, in) @ (in, out)
            _finish(bias, negative_slope_of(act, negative_slope), act == "gelu", z, y, i, j)
            if act == "tanh":
                tanh_loop(z[i:j].reshape(-1), y[i:j].reshape(-1), 0, (j - i) * len(w))

    share(piece, -(-len(rows) // ROWS))
    y = y.reshape(*x.shape[:-1], len(w))
    kept = None if act is None else z if act == "gelu" else y
    return y, (x, w, kept)


def _linear_backward(saved, dy, needs_input_grad, *, act, negative_slope):
    x, w, kept = saved
    dz, db = activation_backward(act, kept, dy, negative_slope, needs_input_grad[2])
    count = math.prod(x.shape[:-1])
    rows, dz = x.reshape(count, x.shape[-1]), dz.reshape(count, len(w))
    dx = _times(dz, w, np.empty_like(rows)) if needs_input_grad[0] else None  # (rows, out) @ (out, in)
    dw = _times(dz, rows, np.empty_like(w), turned=True) if needs_input_grad[1] else None  # (out, rows) @ (rows, in)
    return dx.reshape(x.shape) if needs_input_grad[0] else None, dw, db


def _times(a, b, y, turned=False):
    """y = a b or a^T b, its rows shared out over threads."""
    if whole(*y.shape):
        columns = in_columns(b)
        share(lambda start, stop: _multiply(a, columns, y, turned, start * ROWS, stop * ROWS), len(y) // ROWS)
    else:
        a = a.T if turned else a
        share(lambda start, stop: np.matmul(a[start:stop], b, out=y[start:stop]), len(y), ROWS)
    return y


linear = Op("linear", _linear, _linear_backward, backend="numba")

"""linear on a CPU: BLAS multiplies a block of rows, and bias and activation follow while the block is in cache.

    z = x w^T + b,  y = act(z);      dz = dy act'(z),  dx = dz w,  dw = dz^T x,  db = the sum of dz over rows

Shapes      x (..., in), w (out, in), b (out,), y (..., out)
Plan        rows are shared out over threads, in blocks of about BLOCK results; dw by its own rows, so that no two
            threads add to the same number
Cost        2 rows in out flops forward, twice that backward; bias and activation would cost 12 bytes a result by
            themselves and are nearly free in cache
Precision   float32; db adds in float64
Limits      activations: none, relu, tanh, leaky_relu with a slope that is not negative, and gelu, which keeps z

# next: kernels/cpu/patches.py, where the same follows a product of patches
"""

import math

import numpy as np

from core.op import Op
from core.threads import share
from kernels.cpu.activations import activation_backward, slope_of, tanh_loop
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, floats, kernel, out
from kernels.cpu.pointwise import gelu_of

BLOCK = 1 << 18  # results of a block (1 MB)
ROWS = 16  # rows below which a second thread costs more than it brings


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


def _linear(x, w, b, *, act, negative_slope):
    x, w = floats(x), floats(w)
    bias = np.zeros(len(w), f32) if b is None else floats(b)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    z = np.empty((len(rows), len(w)), f32)
    y = np.empty_like(z) if act == "gelu" else z
    step = max(ROWS, BLOCK // max(len(w), 1))

    def piece(start, stop):
        for i in range(start, stop, step):
            j = min(i + step, stop)
            np.matmul(rows[i:j], w.T, out=z[i:j])  # (rows, in) @ (in, out)
            _finish(bias, slope_of(act, negative_slope), act == "gelu", z, y, i, j)
            if act == "tanh":
                tanh_loop(z[i:j].reshape(-1), y[i:j].reshape(-1), 0, (j - i) * len(w))

    share(piece, len(rows), ROWS)
    y = y.reshape(*x.shape[:-1], len(w))
    kept = None if act is None else z if act == "gelu" else y
    return y, (x, w, kept)


def _linear_backward(saved, dy, needs, *, act, negative_slope):
    x, w, kept = saved
    dz, db = activation_backward(act, kept, dy, negative_slope, needs[2])
    count = math.prod(x.shape[:-1])
    rows, dz = x.reshape(count, x.shape[-1]), dz.reshape(count, len(w))
    dx, dw = np.empty_like(rows) if needs[0] else None, np.empty_like(w) if needs[1] else None
    if needs[0]:
        share(lambda a, b: np.matmul(dz[a:b], w, out=dx[a:b]), len(rows), ROWS)  # (rows, out) @ (out, in)
    if needs[1]:
        share(lambda a, b: np.matmul(dz[:, a:b].T, rows, out=dw[a:b]), len(w), ROWS)  # (out, rows) @ (rows, in)
    return dx.reshape(x.shape) if needs[0] else None, dw, db


linear = Op("linear", _linear, _linear_backward, backend="numba")

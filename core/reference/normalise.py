"""What layer norm, batch norm and group norm share: statistics, x^ = (x - mean) / sqrt(var + eps), and the gradient.

With y = x^ w + b, all have the same input gradient, the means being taken over the axes that were normalised:

    g = dy w;   dx = rstd (g - mean(g) - x^ mean(g x^))

The variance always comes from centred values, never from E[x^2] - E[x]^2, which cancels.

# why: docs/kernels/norms.md
# next: core/reference/layer_norm.py
"""

from core.arrays import array_module, total


def mean_over(x, axes):
    n = 1
    for a in axes:
        n *= x.shape[a]
    return total(x, axes, keepdims=True) / array_module(x).asarray(n, x.dtype)


def reciprocal_deviation(var, eps):
    """1 / sqrt(var + eps), rounded once: what is off here is off in a whole row or channel."""
    xp = array_module(var)
    return (1 / xp.sqrt(var.astype(xp.float64) + eps)).astype(var.dtype)


def normalise(x, axes, eps):
    """(x^, mean, var, rstd) over `axes`, all with those axes kept as ones."""
    mean = mean_over(x, axes)
    centred = x - mean
    var = mean_over(centred * centred, axes)
    rstd = reciprocal_deviation(var, eps)
    centred *= rstd
    return centred, mean, var, rstd


def affine(xhat, w, b):
    y = xhat.copy() if w is None else xhat * w
    if b is not None:
        y += b
    return y


def normalise_backward(g, xhat, rstd, axes):
    dx = g - mean_over(g, axes)
    dx -= xhat * mean_over(g * xhat, axes)
    dx *= rstd
    return dx


def affine_backward(xhat, w, dy, needs_input_grad):
    """(gradient of x^, dw, db), for weights over the last axis."""
    leading = tuple(range(dy.ndim - 1))
    dw = total(dy * xhat, leading) if needs_input_grad[0] else None
    db = total(dy, leading) if needs_input_grad[1] else None
    return dy if w is None else dy * w, dw, db

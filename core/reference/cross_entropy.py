"""Cross entropy of logits z (..., V) with targets t (...), and of a linear layer's logits, never held at once.

cross entropy of one row z with target t, label smoothing s:   L = lse(z) - (1 - s) z_t - s mean(z)
                                                               dL/dz = softmax(z) - (1 - s) onehot(t) - s / V
z-loss c, added to it (Chowdhery et al. 2022, section 5):      L = c lse(z)^2,    dL/dz = 2 c lse(z) softmax(z)

# why: docs/kernels/losses.md
# next: core/reference/variational.py
"""

from core.arrays import array_module
from core.engine import Op
from core.reference.losses import gradient_scale, reduce_losses

CHUNK = 1 << 22  # logits held at once by linear_cross_entropy (16 MB of float32)


def _rows(logits, target, smoothing, ignore_index, z_loss=0.0):
    """(losses (n,), lse (n, 2)) of logits (n, V) and target (n,); ignored rows have loss 0."""
    xp = array_module(logits)
    top = logits.max(1)  # (n,)
    z = logits - top[:, None]
    rest = xp.log(xp.exp(z).sum(1))
    lse = xp.stack([top, rest], 1)  # (n, 2): their sum is the log-sum-exp, kept apart to lose no digits
    kept = target != ignore_index
    picked = xp.take_along_axis(z, xp.where(kept, target, 0)[:, None], 1)[:, 0]
    losses = rest - (picked if smoothing == 0 else (1 - smoothing) * picked + smoothing * z.mean(1))
    if z_loss:
        losses += z_loss * (top + rest) ** 2
    return xp.where(kept, losses, 0), lse


def _rows_backward(logits, target, lse, scale, smoothing, ignore_index, z_loss):
    """Gradient (n, V); scale is a scalar or (n,)."""
    xp = array_module(logits)
    kept = target != ignore_index
    d = xp.exp(logits - lse[:, :1] - lse[:, 1:])
    if z_loss:
        d *= 1 + 2 * z_loss * lse.sum(1, keepdims=True)
    if smoothing:
        d -= smoothing / logits.shape[1]
    d[xp.arange(len(d)), xp.where(kept, target, 0)] -= 1 - smoothing
    d *= xp.where(kept, scale, 0)[:, None]
    return d


def _cross_entropy(logits, target, *, ignore_index, label_smoothing, reduction, z_loss):
    flat, t = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    losses, lse = _rows(flat, t, label_smoothing, ignore_index, z_loss)
    count = (t != ignore_index).sum()
    return reduce_losses(losses.reshape(target.shape), reduction, count), (logits, target, lse, count)


def _cross_entropy_backward(saved, dy, needs_input_grad, *, ignore_index, label_smoothing, reduction, z_loss):
    logits, target, lse, count = saved
    scale = gradient_scale(dy, reduction, count).reshape(-1)
    flat = logits.reshape(-1, logits.shape[-1])
    d = _rows_backward(flat, target.reshape(-1), lse, scale, label_smoothing, ignore_index, z_loss)
    return d.reshape(logits.shape), None


def _chunks(n, v):
    step = max(1, CHUNK // max(v, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _linear_cross_entropy(x, w, target, *, ignore_index, label_smoothing, reduction, z_loss):
    """cross_entropy(x @ w.T, target), a chunk of rows at a time; only the log-sum-exp of each row is kept."""
    xp = array_module(x)
    flat, t = x.reshape(target.size, x.shape[-1]), target.reshape(-1)
    losses, lse = xp.zeros(len(t), x.dtype), xp.zeros((len(t), 2), x.dtype)
    for part in _chunks(len(t), len(w)):
        losses[part], lse[part] = _rows(flat[part] @ w.T, t[part], label_smoothing, ignore_index, z_loss)
    count = (t != ignore_index).sum()
    return reduce_losses(losses.reshape(target.shape), reduction, count), (x, w, target, lse, count)


def _linear_cross_entropy_backward(saved, dy, needs_input_grad, *, ignore_index, label_smoothing, reduction, z_loss):
    x, w, target, lse, count = saved
    xp = array_module(x)
    flat, t = x.reshape(target.size, x.shape[-1]), target.reshape(-1)
    scale = xp.broadcast_to(gradient_scale(dy, reduction, count).reshape(-1), t.shape)
    dx, dw = xp.empty_like(flat), xp.zeros_like(w)
    for part in _chunks(len(t), len(w)):
        d = _rows_backward(flat[part] @ w.T, t[part], lse[part], scale[part], label_smoothing, ignore_index, z_loss)
        if needs_input_grad[0]:
            dx[part] = d @ w
        if needs_input_grad[1]:
            dw += d.T @ flat[part]
    return dx.reshape(x.shape) if needs_input_grad[0] else None, dw if needs_input_grad[1] else None, None


cross_entropy = Op("cross_entropy", _cross_entropy, _cross_entropy_backward)
linear_cross_entropy = Op("linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_backward)

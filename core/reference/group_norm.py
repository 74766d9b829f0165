"""Group norm (Wu & He 2018): each image is normalised over its pixels and the channels of one group. x (N, ..., C).

# why: docs/kernels/norms.md
# next: core/reference/softmax.py
"""

import math

from core.engine import Op
from core.reference.normalise import affine, affine_backward, normalise, normalise_backward
from core.reference.pointwise import activate, activate_backward


def _grouped(x, groups):
    """x (N, ..., C) as (N, P, G, C / G), P pixels."""
    channels = x.shape[-1]
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, channels // groups)


def _group_norm(x, w, b, *, num_groups, eps, act):
    """Normalise each image and group of channels over pixels and channels, then activate."""
    xhat, _, _, rstd = normalise(_grouped(x, num_groups), (1, 3), eps)
    xhat = xhat.reshape(x.shape)
    y, activated = activate(act, affine(xhat, w, b))
    return y, (xhat, rstd, w, activated)


def _group_norm_backward(saved, dy, needs_input_grad, *, num_groups, eps, act):
    xhat, rstd, w, activated = saved
    g, dw, db = affine_backward(xhat, w, activate_backward(act, activated, dy), needs_input_grad[1:])
    dx = None
    if needs_input_grad[0]:
        dx = normalise_backward(_grouped(g, num_groups), _grouped(xhat, num_groups), rstd, (1, 3)).reshape(dy.shape)
    return dx, dw, db


group_norm = Op("group_norm", _group_norm, _group_norm_backward)

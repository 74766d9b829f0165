"""The reparameterisation of a VAE (Kingma & Welling 2014, section 2.4): z = mu + exp(l / 2) noise, l the log variance.

# why: docs/kernels/losses.md
# next: core/reference/random.py
"""

from core.arrays import array_module
from core.engine import Op
from core.reference import random


def _reparameterize(mu, logvar, noise, step, *, seed, draw):
    """mu + exp(logvar / 2) noise; the noise may be given, else it is drawn, and drawn again backward: a copy of the
    step is all that is kept for that."""
    std = array_module(mu).exp(0.5 * logvar)
    step = None if step is None else step.copy()
    return mu + std * _noise(mu, noise, step, seed, draw), (logvar, noise, step)


def _reparameterize_backward(saved, dz, needs_input_grad, *, seed, draw):
    logvar, noise, step = saved
    dlogvar = None
    if needs_input_grad[1]:
        dlogvar = 0.5 * dz * array_module(dz).exp(0.5 * logvar) * _noise(dz, noise, step, seed, draw)
    return dz if needs_input_grad[0] else None, dlogvar, None, None


def _noise(x, noise, step, seed, draw):
    return random.normal(x.shape, seed, draw, step, x.dtype) if noise is None else noise


reparameterize = Op("reparameterize", _reparameterize, _reparameterize_backward)

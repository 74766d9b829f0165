"""Noise scaled and shifted as the encoder says: z = mu + exp(logvar / 2) noise, dlogvar = dz exp(logvar / 2) noise / 2.

Shapes      any, n elements in C order
Plan        the noise is drawn (kernels/cpu/random.py), unless it is given, and drawn again backward: between the passes
            nothing of its size is kept. A latent is small: no more than plain loops

# why: docs/kernels/losses.md
# next: kernels/cpu/random.py
"""

from core.engine import Op
from kernels.cpu.common import PIECE, const, exp, f32, kernel, out
from kernels.cpu.pointwise import elementwise
from kernels.cpu.random import normal


@kernel(const(1), const(1), const(1), out(1), *PIECE)
def _forward(mu, logvar, noise, z, start, stop):
    mu, logvar, noise, z = mu[start:stop], logvar[start:stop], noise[start:stop], z[start:stop]
    for i in range(z.size):
        z[i] = mu[i] + exp(f32(0.5) * logvar[i]) * noise[i]


@kernel(const(1), const(1), const(1), out(1), *PIECE)
def _backward(dz, logvar, noise, dlogvar, start, stop):
    dz, logvar, noise, dlogvar = dz[start:stop], logvar[start:stop], noise[start:stop], dlogvar[start:stop]
    for i in range(dz.size):
        dlogvar[i] = f32(0.5) * dz[i] * exp(f32(0.5) * logvar[i]) * noise[i]


def _noise(x, noise, step, seed, draw):
    return normal(x.shape, seed, draw, step) if noise is None else noise


def _reparameterize(mu, logvar, noise, step, *, seed, draw):
    step = None if step is None else step.copy()
    return elementwise(_forward, mu, logvar, _noise(mu, noise, step, seed, draw)), (logvar, noise, step)


def _reparameterize_backward(saved, dz, needs_input_grad, *, seed, draw):
    logvar, noise, step = saved
    dlogvar = elementwise(_backward, dz, logvar, _noise(dz, noise, step, seed, draw)) if needs_input_grad[1] else None
    return dz if needs_input_grad[0] else None, dlogvar, None, None


reparameterize = Op("reparameterize", _reparameterize, _reparameterize_backward, backend="numba")

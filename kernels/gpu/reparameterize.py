"""A VAE's sampling step: z drawn from N(mu, exp(logvar)), with its noise drawn in registers, twice.

    z = mu + exp(logvar / 2) noise,     dmu = dz,     dlogvar = dz exp(logvar / 2) noise / 2

Shapes      mu, logvar and noise, if it is given, the same shape, n elements; step is the generator's 0-dimensional
            int64 array. In kernels lv is logvar
Plan        program i works on BLOCK elements as a tile (blocks of random words, 4 lanes). backward draws the same noise
            again; dmu is dz itself, no launch
Cost        of n float32 elements 12n bytes each way, 16n where the noise is given: memory decides, or for a VAE's few
            latents the number of launches, which is one less than with the noise drawn apart
Precision   float32 inside, whatever is stored: noise that is drawn is never rounded to float16
Versions    exp(logvar / 2) stored would be read as logvar is: computing it again moves less
Limits      any shape; a grid has fewer than 2^31 programs, of BLOCK elements each
Source      Kingma & Welling 2014, section 2.4
Status      untested on a device: all of it

# why: docs/kernels/losses.md
# next: kernels/gpu/cross_entropy.py
"""

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.random import KEY, frozen, key, normal_lane
from kernels.launch import blocks, launch


@triton.jit
def _noise(noise_ptr, step_ptr, block, lane, inside, seed_low, seed_high, draw):
    """The noise of elements 4 block + lane: read if there is one, else drawn."""
    if noise_ptr is None:
        noise = normal_lane(block, lane, seed_low, seed_high, draw, tl.load(step_ptr))
    else:
        noise = tl.load(noise_ptr + block * 4 + lane, mask=inside, other=0.0).to(tl.float32)
    return noise


@triton.jit(do_not_specialize=KEY)
def _reparameterize_forward(
    mu_ptr, lv_ptr, noise_ptr, step_ptr, z_ptr, n, seed_low, seed_high, draw, BLOCK: tl.constexpr
):
    block = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)[:, None]  # (BLOCK / 4, 1)
    lane = tl.arange(0, 4)[None, :]  # (1, 4)
    o = block * 4 + lane  # (BLOCK / 4, 4)
    mu = tl.load(mu_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    lv = tl.load(lv_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    noise = _noise(noise_ptr, step_ptr, block, lane, o < n, seed_low, seed_high, draw)
    tl.store(z_ptr + o, mu + tl.exp(0.5 * lv) * noise, mask=o < n)


@triton.jit(do_not_specialize=KEY)
def _reparameterize_backward(
    lv_ptr, noise_ptr, step_ptr, dz_ptr, dlv_ptr, n, seed_low, seed_high, draw, BLOCK: tl.constexpr
):
    block = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)[:, None]  # (BLOCK / 4, 1)
    lane = tl.arange(0, 4)[None, :]  # (1, 4)
    o = block * 4 + lane  # (BLOCK / 4, 4)
    lv = tl.load(lv_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    dz = tl.load(dz_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    noise = _noise(noise_ptr, step_ptr, block, lane, o < n, seed_low, seed_high, draw)
    tl.store(dlv_ptr + o, 0.5 * dz * tl.exp(0.5 * lv) * noise, mask=o < n)


def _reparameterize(mu, logvar, noise, step, *, seed, draw):
    mu, logvar, noise = contiguous(mu), contiguous(logvar), contiguous(noise)
    z, config = array_module(mu).empty(mu.shape, result_dtype(mu, logvar, noise)), blocks("random", "normal", mu.dtype)
    arrays = (mu, logvar, noise, step, z)
    launch(_reparameterize_forward, (cdiv(mu.size, config["BLOCK"]),), *arrays, mu.size, *key(seed, draw), **config)
    return z, (logvar, noise, frozen(step))


def _reparameterize_gradients(saved, dz, needs_input_grad, *, seed, draw):
    dlogvar = None
    if needs_input_grad[1]:
        dlogvar = array_module(dz).empty_like(saved[0])
        config = blocks("random", "normal", dlogvar.dtype)
        arrays, grid = (*saved, contiguous(dz), dlogvar), (cdiv(dz.size, config["BLOCK"]),)
        launch(_reparameterize_backward, grid, *arrays, dz.size, *key(seed, draw), **config)
    return dz if needs_input_grad[0] else None, dlogvar, None, None


reparameterize = Op("reparameterize", _reparameterize, _reparameterize_gradients, backend="triton")

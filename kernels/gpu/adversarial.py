"""The losses of a GAN's two players, on the discriminator's logits.

    discriminator   mean f(-real) + mean f(fake)    f(x) = log(1 + exp(x)), or max(1 + x, 0) with kind "hinge"
    generator       mean f(-fake), kind "minimax": -mean f(fake), kind "hinge": -mean fake
    gradients       of mean f(s x):  s f'(s x) / n, with f' = sigmoid; 0 or 1; 1

Shapes      real and fake of any shapes, each averaged over its own elements: reals and fakes of them
Plan        program i sums block i of both and writes its share of the loss; if one program holds all, as it holds a
            GAN's logits, that is the loss and there is one launch, else one program sums the shares in order (no
            atomics). backward: program i reads block i of both, writes as much: one launch. The generator has no real
Cost        of n float32 logits in all 4n bytes forward, 8n backward; but a step has a few hundred, and there the number
            of launches decides: 2, where two calls of bce_with_logits and their sum are 5
Precision   float32 inside. -sigmoid(-x), not sigmoid(x) - 1, keeps the gradient's digits where the network is sure; nan
            comes through the hinge, as in torch's relu
Versions    gradients stored by the forward pass would still wait for dy: as many launches, more bytes
Limits      any shapes; a grid has fewer than 2^31 programs, of BLOCK elements each
Source      Goodfellow et al. 2014; Lim & Ye 2017
Status      untested on a device: all of it

# why: docs/kernels/losses.md
# next: kernels/gpu/normalise.py
"""

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from core.reference.adversarial import DISCRIMINATOR, GENERATOR
from kernels.gpu.common import add_up, cdiv, contiguous, log1p, sigmoid
from kernels.launch import blocks, launch


@triton.jit
def _value(x, TERM: tl.constexpr):
    """f(x)"""
    if TERM == "softplus":
        y = tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))
    elif TERM == "hinge":
        y = tl.where(1.0 + x <= 0.0, 0.0, 1.0 + x)
    else:
        y = x
    return y


@triton.jit
def _derivative(x, TERM: tl.constexpr):
    """f'(x); of the hinge 0 at its kink."""
    if TERM == "softplus":
        y = sigmoid(x)
    elif TERM == "hinge":
        y = tl.where(1.0 + x <= 0.0, 0.0, 1.0)
    else:
        y = tl.full(x.shape, 1.0, tl.float32)
    return y


@triton.jit
def _sum(x_ptr, n, SIGN: tl.constexpr, TERM: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of f(SIGN x) over this program's block."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    return tl.sum(tl.where(o < n, _value(SIGN * x, TERM), 0.0), 0)


@triton.jit
def _gradient(x_ptr, dx_ptr, n, scale, SIGN: tl.constexpr, TERM: tl.constexpr, BLOCK: tl.constexpr):
    """dx = SIGN f'(SIGN x) scale, of this program's block."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=0.0).to(tl.float32)
    tl.store(dx_ptr + o, SIGN * _derivative(SIGN * x, TERM) * scale, mask=o < n)


@triton.jit
def _adversarial_forward(
    real_ptr, fake_ptr, y_ptr, reals, fakes, real_factor, fake_factor,
    SIGN: tl.constexpr, TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[program] = real_factor * (sum of f(-real)) + fake_factor * (sum of f(SIGN fake)), of one block of each."""
    total = fake_factor * _sum(fake_ptr, fakes, SIGN, TERM, BLOCK)
    if real_ptr is not None:
        total += real_factor * _sum(real_ptr, reals, -1, TERM, BLOCK)
    tl.store(y_ptr + tl.program_id(0), total)


@triton.jit
def _adversarial_backward(
    real_ptr, fake_ptr, dy_ptr, dreal_ptr, dfake_ptr, reals, fakes, real_factor, fake_factor,
    SIGN: tl.constexpr, TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of one block of each, where they are wanted."""
    dy = tl.load(dy_ptr).to(tl.float32)
    if dreal_ptr is not None:
        _gradient(real_ptr, dreal_ptr, reals, real_factor * dy, -1, TERM, BLOCK)
    if dfake_ptr is not None:
        _gradient(fake_ptr, dfake_ptr, fakes, fake_factor * dy, SIGN, TERM, BLOCK)


def _loss(real, fake, term, sign=1, weight=1):
    """The loss from contiguous logits; real is None in the generator's."""
    numbers, most = _numbers(real, fake, weight)
    y, config = array_module(fake).empty((), result_dtype(real, fake)), blocks("adversarial", "sum", fake.dtype, most)
    programs = max(cdiv(most, config["BLOCK"]), 1)
    parts = y if programs == 1 else array_module(fake).empty(programs, "float32")
    launch(_adversarial_forward, (programs,), real, fake, parts, *numbers, SIGN=sign, TERM=term, **config)
    return y if programs == 1 else add_up(parts, y.dtype, 1.0)


def _gradients(real, fake, dy, needs_input_grad, term, sign=1, weight=1):
    """(dreal or None, dfake or None)"""
    numbers, most = _numbers(real, fake, weight)
    dreal, dfake = (array_module(x).empty_like(x) if need else None for x, need in zip((real, fake), needs_input_grad))
    config = blocks("adversarial", "each", fake.dtype)
    arrays = (real, fake, dy, dreal, dfake)
    launch(_adversarial_backward, (cdiv(most, config["BLOCK"]),), *arrays, *numbers, SIGN=sign, TERM=term, **config)
    return dreal, dfake


def _numbers(real, fake, weight):
    """((reals, fakes, what the sum over each is multiplied by), the larger of the two); the mean of nothing is nan."""
    reals, fakes = 0 if real is None else real.size, fake.size
    share = lambda n: 1 / n if n else float("nan")
    return (reals, fakes, share(reals), weight * share(fakes)), max(reals, fakes)


def _discriminator_loss(real, fake, *, kind):
    real, fake = contiguous(real), contiguous(fake)
    return _loss(real, fake, DISCRIMINATOR[kind]), (real, fake)


def _discriminator_loss_backward(saved, dy, needs_input_grad, *, kind):
    return _gradients(*saved, dy, needs_input_grad, DISCRIMINATOR[kind])


def _generator_loss(fake, *, kind):
    fake = contiguous(fake)
    return _loss(None, fake, *GENERATOR[kind]), (fake,)


def _generator_loss_backward(saved, dy, needs_input_grad, *, kind):
    return _gradients(None, *saved, dy, (False, True), *GENERATOR[kind])[1:]


discriminator_loss = Op("discriminator_loss", _discriminator_loss, _discriminator_loss_backward, backend="triton")
generator_loss = Op("generator_loss", _generator_loss, _generator_loss_backward, backend="triton")

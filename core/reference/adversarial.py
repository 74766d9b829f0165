"""What a GAN's two players minimise, on logits x where the discriminator says real with probability sigmoid(x).

    discriminator   non_saturating, minimax    mean log(1 + exp(-real)) + mean log(1 + exp(fake))
                    hinge                      mean max(1 - real, 0) + mean max(1 + fake, 0)
    generator       non_saturating             mean log(1 + exp(-fake))
                    minimax                   -mean log(1 + exp(fake))
                    hinge                     -mean fake

(Goodfellow et al. 2014; the hinge: Lim & Ye 2017.) Each term is the mean of f(x) or of f(-x), with slope f'(x) or
-f'(-x). For f = log(1 + exp), f' is the sigmoid: -sigmoid(-x) has the digits that sigmoid(x) - 1 loses where the
discriminator is sure and right.

# why: docs/kernels/losses.md
"""

from core.arrays import array_module
from core.engine import Op
from core.reference.losses import gradient_scale, reduce_losses
from core.reference.pointwise import _sigmoid, _softplus

TERMS = {  # name -> (f, f')
    "softplus": (_softplus, _sigmoid),
    "hinge": (lambda xp, x: xp.maximum(1 + x, 0), lambda xp, x: xp.where(1 + x <= 0, 0, 1).astype(x.dtype)),
    "linear": (lambda xp, x: x, lambda xp, x: xp.ones_like(x)),
}
DISCRIMINATOR = {"non_saturating": "softplus", "minimax": "softplus", "hinge": "hinge"}  # of -real and of fake
GENERATOR = {  # (term, sign of fake in it, weight of the mean)
    "non_saturating": ("softplus", -1, 1),
    "minimax": ("softplus", 1, -1),
    "hinge": ("linear", -1, 1),
}
KINDS = tuple(GENERATOR)


def _mean(x, term, sign, weight=1):
    f, _ = TERMS[term]
    return weight * reduce_losses(f(array_module(x), sign * x), "mean", x.size)


def _gradient(x, dy, term, sign, weight=1):
    _, derivative = TERMS[term]
    return derivative(array_module(x), sign * x) * (sign * weight * gradient_scale(dy, "mean", x.size))


def _discriminator_loss(real, fake, *, kind):
    term = DISCRIMINATOR[kind]
    return _mean(real, term, -1) + _mean(fake, term, 1), (real, fake)


def _discriminator_loss_backward(saved, dy, needs_input_grad, *, kind):
    (real, fake), term = saved, DISCRIMINATOR[kind]
    return _gradient(real, dy, term, -1) if needs_input_grad[0] else None, _gradient(
        fake, dy, term, 1
    ) if needs_input_grad[1] else None


def _generator_loss(fake, *, kind):
    return _mean(fake, *GENERATOR[kind]), (fake,)


def _generator_loss_backward(saved, dy, needs_input_grad, *, kind):
    return (_gradient(saved[0], dy, *GENERATOR[kind]),)


discriminator_loss = Op("discriminator_loss", _discriminator_loss, _discriminator_loss_backward)
generator_loss = Op("generator_loss", _generator_loss, _generator_loss_backward)

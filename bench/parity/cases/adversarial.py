"""Cases of the losses of a GAN's two players. torch has none of them: the other side is its plain operations."""

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, normal, value

INF, NAN = float("inf"), float("nan")
KINDS = ("non_saturating", "minimax", "hinge")


def _bce(x, target):
    return TF.binary_cross_entropy_with_logits(x, torch.full_like(x, target))


def torch_discriminator(real, fake, kind):
    if kind == "hinge":
        return TF.relu(1 - real).mean() + TF.relu(1 + fake).mean()
    return _bce(real, 1.0) + _bce(fake, 0.0)


def torch_generator(fake, kind):
    others = {"minimax": lambda: -_bce(fake, 0.0), "hinge": lambda: -fake.mean()}
    return others.get(kind, lambda: _bce(fake, 1.0))()


def sure_discriminator(real, fake, kind):
    """What keeps its digits where the network is sure: torch's own bce loses them there, even in float64."""
    return -TF.logsigmoid(real).mean() - TF.logsigmoid(-fake).mean()


def sure_generator(fake, kind):
    return TF.logsigmoid(-fake).mean() if kind == "minimax" else -TF.logsigmoid(fake).mean()


def discriminator(name, kind, real, fake, smooth=True, oracle=None, fixed=()):
    return Case(
        f"discriminator_loss/{name}",
        lambda real, fake: F.discriminator_loss(real, fake, kind=kind),
        lambda real, fake: torch_discriminator(real, fake, kind),
        (real, fake),
        smooth=smooth,
        fixed=fixed,
        oracle=oracle and (lambda real, fake: oracle(real, fake, kind)),
    )


def generator(name, kind, fake, smooth=True, oracle=None):
    return Case(
        f"generator_loss/{name}",
        lambda fake: F.generator_loss(fake, kind=kind),
        lambda fake: torch_generator(fake, kind),
        (fake,),
        smooth=smooth,
        oracle=oracle and (lambda fake: oracle(fake, kind)),
    )


def off_kink(sign, *shape):
    """1 + sign x stays at least 0.2 from zero."""
    return lambda rng: sign * (rng.uniform(0.2, 2.5, shape) * rng.choice([-1.0, 1.0], shape) - 1)


def certain(sign, *shape):
    return lambda rng: sign * rng.uniform(6, 12, shape)


def _plain(kind):
    """The settings that every kind has; only the hinge has a kink to keep away from."""
    hinge = kind == "hinge"
    real = lambda *shape: off_kink(-1, *shape) if hinge else normal(*shape, scale=2.0)
    fake = lambda *shape: off_kink(1, *shape) if hinge else normal(*shape, scale=2.0)
    yield discriminator(f"{kind}-columns", kind, real(13, 1), fake(13, 1))
    yield discriminator(f"{kind}-more-real", kind, real(5, 9), fake(7))
    yield discriminator(f"{kind}-more-fake", kind, real(3), fake(2, 25))
    yield discriminator(f"{kind}-many", kind, real(3000), fake(41, 53))
    yield discriminator(f"{kind}-fixed-real", kind, real(4, 1), fake(6, 1), fixed=(0,))
    yield discriminator(f"{kind}-no-fake", kind, real(4, 1), fake(0, 1), smooth=False)  # the mean of nothing is nan
    yield generator(f"{kind}-column", kind, fake(13, 1))
    yield generator(f"{kind}-many", kind, fake(41, 53))
    yield generator(f"{kind}-0d", kind, fake())
    yield generator(f"{kind}-nothing", kind, fake(0, 1), smooth=False)


SPECIAL = value([NAN, 0.5, -2.0]), value([INF, -3.0, 0.25, -INF])

CASES = [
    *(case for kind in KINDS for case in _plain(kind)),
    discriminator("sure-and-right", "non_saturating", certain(1, 20), certain(-1, 20), oracle=sure_discriminator),
    discriminator("sure-and-wrong", "non_saturating", certain(-1, 20), certain(1, 20), oracle=sure_discriminator),
    discriminator("huge", "minimax", value([1e4, -1e4, 300.0]), value([1e4, -1e4, -300.0]), smooth=False),
    discriminator("at-the-kink", "hinge", value([1.0, 0.0, 2.0]), value([-1.0, 0.0, -2.0]), smooth=False),
    discriminator("special", "hinge", *SPECIAL, smooth=False),
    discriminator("nan", "non_saturating", SPECIAL[0], value([0.5]), smooth=False),
    generator("sure-of-real", "non_saturating", certain(1, 20), oracle=sure_generator),
    generator("sure-of-fake", "minimax", certain(-1, 20), oracle=sure_generator),
    generator("special", "hinge", SPECIAL[1], smooth=False),
]

"""The losses of a GAN."""

from core import check
from core.dispatch import run
from core.functional.arguments import tensor
from core.reference.adversarial import KINDS


def discriminator_loss(real, fake, *, kind):
    """What a GAN's discriminator minimises, from logits of real and of generated images, of any shapes.

    kind: "non_saturating" or "minimax" (the same here: Goodfellow et al. 2014), or "hinge" (Lim & Ye 2017).
    """
    op = "discriminator_loss"
    real, fake = tensor(op, "real", real), tensor(op, "fake", fake)
    check.floating(op, real=real.data, fake=fake.data)
    check.one_of(op, "kind", kind, KINDS)
    return run(op, real, fake, kind=kind)


def generator_loss(fake, *, kind):
    """What a GAN's generator minimises, from logits of its images, of any shape; kind: as in discriminator_loss."""
    fake = tensor("generator_loss", "fake", fake)
    check.floating("generator_loss", fake=fake.data)
    check.one_of("generator_loss", "kind", kind, KINDS)
    return run("generator_loss", fake, kind=kind)

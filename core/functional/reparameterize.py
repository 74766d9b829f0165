"""The sampling step of a VAE."""

from core import check, random
from core.arrays import compute_dtype, result_dtype
from core.dispatch import run
from core.functional.arguments import fixed, gaussian


def reparameterize(mu, logvar, *, noise=None):
    """mu + exp(logvar / 2) noise, noise standard normal unless given (Kingma & Welling 2014, section 2.4).

    Noise that is not given is drawn by the operation, again in its backward pass: nothing of its size is kept.
    """
    mu, logvar = gaussian("reparameterize", mu, logvar)
    noise = fixed("reparameterize", "noise", noise)
    check.floating("reparameterize", noise=noise)
    if noise is not None:
        check.matches("reparameterize", "noise", noise.shape, mu.shape)
    dtype = compute_dtype(result_dtype(mu.data, logvar.data))
    noise, step, key = random.normal_draw(mu.shape, dtype, noise)
    return run("reparameterize", mu, logvar, noise, step, **key)

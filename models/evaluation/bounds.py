"""Bounds of a VAE's likelihood: the ELBO, and the importance-weighted bound of many draws (Burda et al. 2016).

    log p(x) >= L_K = E[ log (1/K) sum over k of p(x|z_k) p(z_k) / q(z_k|x) ],     z_1 .. z_K from q(z|x)

L_1 is the ELBO; L_K grows with K, towards log p(x). So the gap between them is what the encoder's Gaussian loses.
N images, K draws, Z latents.
"""

import functools

import numpy as np

from core import random
from models.evaluation.bootstrap import of_mean
from models.evaluation.report import Figure
from models.training.progress import progress

IMAGES, DRAWS, BLOCK = 100, 500, 250  # test images, draws of each, and how many are decoded together


def log_weights(mu, logvar, noise, log_likelihood):
    """log p(x|z) p(z) / q(z|x) (K,) of z = mu + exp(logvar / 2) noise: mu, logvar (Z,), noise (K, Z).

    log_likelihood(z) gives log p(x|z) (K,). The constants of the two Gaussians cancel.
    """
    z = mu + np.exp(logvar / 2) * noise  # (K, Z)
    return log_likelihood(z) + (noise**2 + logvar - z**2).sum(-1) / 2


def importance_bound(weights):
    """L_K of log weights (N, K): an estimate (N,) from K draws each."""
    top = weights.max(-1, keepdims=True)
    return top[:, 0] + np.log(np.exp(weights - top).mean(-1))


def bernoulli(logits, x):
    """log p(x) (K,) of grey values x (784,) under pixels' logits (K, 784): minus the binary cross-entropy."""
    return (logits * x - np.logaddexp(0, logits)).sum(-1)


def vae_weights(trainer, images, labels, draws: int):
    """Log weights (N, K) of images, bytes (N, 28, 28), with a progress bar; labels (N,), None where there are none."""
    block = min(BLOCK, draws)
    found = np.empty((len(images), draws))
    with trainer.evaluating():
        pixels = trainer.pixels(images)
        labels = trainer.labels_of("vae_weights", len(images), labels)
        parameters = trainer.model.encoder(trainer.xp.asarray(pixels), labels)
        mu, logvar = (p.numpy().astype(np.float64) for p in parameters)  # (N, Z) each
        for i in progress(range(len(images)), desc="likelihood", unit="image"):
            label = None if labels is None else labels[i]
            likelihood = functools.partial(decoded, trainer, pixels[i].reshape(-1), label)
            for j in range(0, draws, block):
                noise = random.normal((min(block, draws - j), mu.shape[1]), np.float64)
                noise = noise.get() if hasattr(noise, "get") else noise
                found[i, j : j + block] = log_weights(mu[i], logvar[i], noise, likelihood)
    return found


def decoded(trainer, x, label, z):
    """log p(x|z) (K,) of one image's pixels x (784,) and label or None, and latents z (K, Z)."""
    labels = None if label is None else trainer.xp.full(len(z), label)
    logits = trainer.model.decoder(trainer.xp.asarray(z.astype(np.float32)), labels).numpy()
    return bernoulli(logits.reshape(len(z), -1).astype(np.float64), x.astype(np.float64))


def vae_figures(trainer) -> list:
    images = trainer.data
    some = np.random.default_rng(0).permutation(len(images.x_test))[:IMAGES]
    weights = vae_weights(trainer, images.x_test[some], images.y_test[some] if trainer.classes else None, DRAWS)
    n = len(weights)
    return [
        Figure("neg_elbo", of_mean(-weights.mean(1)), f"-ELBO, nats an image, of {n} test images"),
        Figure(
            "neg_importance_bound",
            of_mean(-importance_bound(weights)),
            f"-L_{DRAWS}, the importance-weighted bound, the same images",
        ),
    ]

"""A variational autoencoder for 28x28 images (Kingma & Welling 2014), convolutional.

The encoder gives a Gaussian over latents for each image, the decoder a Bernoulli logit for each pixel, and training
maximises a lower bound of log p(x):

    ELBO = E_q(z|x)[log p(x|z)] - KL(q(z|x) || N(0, 1)),      z = mu + exp(logvar / 2) noise

Grey values in [0, 1] stand for the probability that a pixel is on. With classes both networks are given the label y,
so that all of this is conditional on it, log p(x|y) >= ELBO (Sohn et al. 2015); z then holds what y does not say. The
prior of z stays N(0, 1), whatever the class.

N batch, Z latent, K classes.
# next: core/reference/variational.py
"""

from dataclasses import dataclass

import numpy as np

import core.functional as F
from core import Tensor, check, nn, optim, random
from models.evaluation.measures import label_figures
from models.training.config import Config
from models.training.families import LabelTrainer, check_images, unit_pixels

COLUMNS = 13  # values of a latent dimension that a picture shows, from -3 to 3


@dataclass(frozen=True)
class VAEConfig(Config):
    latent: int = 20
    classes: int = 0  # 0: unconditional
    dropout: float = 0.3
    slope: float = 0.3
    beta: float = 1.0  # weight of the KL term (Higgins et al. 2017); 1 is the true bound
    lr: float = 2e-3  # falls to 0 along half a cosine
    batch: int = 64
    steps: int = 500

    MODEL = ("latent", "slope", "classes")
    PRESETS = {
        "demo": {},
        "paper": {"lr": 1e-3, "batch": 128, "steps": 23_400},  # 50 epochs of 60,000 images
        "conditional": {"classes": 10},
    }


class Encoder(nn.Module):
    """Images (N, 28, 28, 1), with classes labels (N,) -> mu and log variance, each (N, Z)."""

    def __init__(self, config):
        down = {"stride": 2, "padding": 1, "act": "leaky_relu", "negative_slope": config.slope}
        self.convs = [nn.Conv2d(i, o, 3, **down) for i, o in ((1, 32), (32, 64), (64, 64))]
        self.drop = nn.Dropout(config.dropout)
        self.mu = nn.Linear(1024, config.latent)
        self.logvar = nn.Linear(1024, config.latent)
        self.labels = nn.Embedding(config.classes, 1024) if config.classes else None

    def forward(self, x, labels=None):
        for conv in self.convs:
            x = self.drop(conv(x))  # (N, 14, 14, 32), (N, 7, 7, 64), (N, 4, 4, 64)
        x = x.reshape(len(x), -1)  # (N, 1024)
        if self.labels is not None:
            x = x + self.labels(labels)
        return self.mu(x), self.logvar(x)


class Decoder(nn.Module):
    """Latents (N, Z), with classes labels (N,) -> Bernoulli logits (N, 28, 28, 1)."""

    def __init__(self, config):
        leaky = {"act": "leaky_relu", "negative_slope": config.slope}
        self.slope = config.slope
        self.dense = nn.Linear(config.latent, 3136)
        self.up1 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, **leaky)
        self.up2 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, **leaky)
        self.up3 = nn.ConvTranspose2d(64, 32, 3, stride=1, padding=1, **leaky)
        self.out = nn.Conv2d(32, 1, 3, padding=1)
        self.labels = nn.Embedding(config.classes, 3136) if config.classes else None

    def forward(self, z, labels=None):
        x = self.dense(z)  # (N, 3136)
        if self.labels is not None:
            x = x + self.labels(labels)  # what `dense` would add, had z the label as a one-hot row beside it
        x = F.leaky_relu(x, self.slope).reshape(-1, 7, 7, 64)  # (N, 7, 7, 64)
        x = self.up1(x)  # (N, 14, 14, 64)
        x = self.up2(x)  # (N, 28, 28, 64)
        x = self.up3(x)  # (N, 28, 28, 32)
        return self.out(x)  # (N, 28, 28, 1)


class VAE(nn.Module):
    def __init__(self, config):
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, x, labels=None):
        """x (N, 28, 28, 1), with classes labels (N,) -> (logits, mu, logvar)."""
        mu, logvar = self.encoder(x, labels)
        return self.decoder(F.reparameterize(mu, logvar), labels), mu, logvar


class VAETrainer(LabelTrainer):
    """Trains VAE; a batch is (images,), float32 (N, 28, 28, 1) in [0, 1]; with classes (images, labels). Losses are
    nats an image."""

    kind, Config, METRICS, SHOWN = "vae", VAEConfig, ("loss", "reconstruction", "kl"), 64
    model: VAE
    pixels = staticmethod(unit_pixels)

    def build(self):
        c = self.config
        self.model = VAE(c)
        self.beta = self.xp.asarray(c.beta, np.float32)
        self.optimizers = {"vae": optim.Adam(self.model.named_parameters(), optim.cosine(c.lr, c.steps))}
        self.inputs = self.image_inputs()

    def loss(self, images, labels=None):
        """(-ELBO, reconstruction, KL), each the mean of these images."""
        logits, mu, logvar = self.model(Tensor(images), labels)
        return F.elbo(logits, images, mu, logvar, beta=self.beta, parts=True)

    def train_step(self, images, labels=None):
        optimizer = self.optimizers["vae"]
        optimizer.zero_grad()
        objective = self.objective("loss", optimizer.parameters.values())
        for batch in objective.micro_batches(images, labels):
            losses = objective.on_threads(self.loss, *batch)
            objective.backward(*losses)
        for i, loss in enumerate(objective.losses):
            self.losses[i] = loss
        optimizer.step(objective.unscale_())

    def sample(self, n: int, seed: int = 0, labels=None):
        """n images decoded from the prior, NumPy (n, 28, 28) in [0, 1]: the probability of each pixel.

        labels, where there are classes: one class, or one for each image; None takes them in turn."""
        check.count("sample", "n", n)
        labels = self.labels_of("sample", n, self.in_turn(n) if labels is None else labels)
        with self.evaluating(seed):
            return self._decode(random.normal((n, self.config.latent)), labels)

    def reconstruct(self, images, labels=None):
        """Images (n, 28, 28) bytes, with classes labels -> their reconstructions from mu, (n, 28, 28) in [0, 1]."""
        check_images("reconstruct", images)
        labels = self.labels_of("reconstruct", len(images), labels)
        with self.evaluating():
            return self._decode(self._encode(images, labels), labels)

    def interpolate(self, first, last, n: int = 8, labels=None):
        """From images `first` to `last`, each (m, 28, 28) bytes, in n >= 2 steps between their mu: (m, n, 28, 28).

        labels, where there are classes: of both ends, one class or one for each of m."""
        check.count("interpolate", "n", n, 2)
        for images in (first, last):
            check_images("interpolate", images)
        check.matches("interpolate", "last", last.shape, first.shape)
        labels = self.labels_of("interpolate", len(first), labels)
        with self.evaluating():
            a, b = (self._encode(x, labels) for x in (first, last))
            rows = [self._decode(a + (b - a) * (i / (n - 1)), labels) for i in range(n)]
        return np.stack(rows, axis=1)

    def traverse(self, seed: int = 0):
        """(images (rows, columns, 28, 28), what they show): test image number `seed`, one latent dimension changed.

        A row is a dimension, the most informative first; with classes it is a class, and the most informative dimension
        is changed in all of them, the others being what the encoder says of the image."""
        check.integer_in("traverse", "seed", seed, 0, len(self.data.x_test))
        kl, one = self.information(), slice(seed, seed + 1)
        order, labels = np.argsort(-kl, kind="stable"), np.arange(self.classes).repeat(COLUMNS)
        own = self.labels_of("traverse", 1, self.data.y_test[one] if self.classes else None)
        rows = self.classes or len(order)
        with self.evaluating():
            z = self._encode(self.data.x_test[one], own).numpy()
            z = np.tile(z[:, None], (rows, COLUMNS, 1))  # (rows, columns, Z)
            z[np.arange(rows), :, order[0] if self.classes else order] = np.linspace(-3, 3, COLUMNS)
            z = self.xp.asarray(z.reshape(-1, z.shape[-1]))
            images = self._decode(z, self.labels_of("traverse", len(z), labels if self.classes else None))
        nats = [f"{i} ({kl[i]:.2f})" for i in order]
        what = (
            f"classes 0 to {rows - 1}; columns: latent dimension {nats[0]}"
            if self.classes
            else f"latent dimensions {', '.join(nats)}"
        )
        return images.reshape(rows, COLUMNS, 28, 28), f"{rows} rows: {what}, in brackets nats of KL; from -3 to 3"

    def information(self):
        """What each latent dimension says of an image: its KL in nats, NumPy (Z,), the mean of the test images."""
        total = np.zeros(self.config.latent)
        with self.evaluating():
            for batch in self.batches("test"):
                mu, logvar = (t.numpy() for t in self.model.encoder(*(self.xp.asarray(a) for a in batch)))
                total += 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(axis=0, dtype=np.float64)
        return total / len(self.data.x_test)

    def _encode(self, images, labels):
        return self.model.encoder(self.xp.asarray(self.pixels(images)), labels)[0]

    def _decode(self, z, labels):
        return F.sigmoid(self.model.decoder(z, labels)).numpy()[..., 0]

    def evaluate(self) -> dict:
        """-ELBO in nats over the whole test set, one draw an image, dropout off; and the figures of 200 samples."""
        sums, n = np.zeros(3), 0
        with self.evaluating():
            for batch in self.batches("test"):
                x, *labels = (self.xp.asarray(a) for a in batch)
                logits, mu, logvar = self.model(x, *labels)
                sums += [len(x) * p.item() for p in F.elbo(logits, x, mu, logvar, parts=True)]
                n += len(x)
        nats = dict(zip(("neg_elbo", "reconstruction", "kl"), (sums / n).tolist()))
        return {**nats, **label_figures(self.sample(200), self.in_turn(200), self.data)}

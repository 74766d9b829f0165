"""A generative adversarial network for 28x28 images (Goodfellow et al. 2014; convolutional as Radford et al. 2016).

A generator turns noise into images, a discriminator tells them from real ones; each is trained against the other:

    discriminator   maximise  log D(x) + log(1 - D(G(z)))
    generator       maximise  log D(G(z))                 ("non-saturating": its gradient lives while D is winning)

with D = sigmoid(logit), so that both are binary cross entropies on logits (F.discriminator_loss, F.generator_loss;
there are minimax and hinge, too). Images lie in [-1, 1], as tanh's do.

With classes, G is given a label beside its noise (Mirza & Osindero 2014), and D adds to its logit the product of the
label's row of a table with the image's features (a projection: Miyato & Koyama 2018, equation 3).

N batch, Z latent, C channels, K classes. # next: core/functional/conv.py, core/reference/conv.py
"""

import contextlib
from dataclasses import dataclass

import numpy as np

import core.functional as F
from core import Tensor, check, nn, no_grad, optim, random
from core.reference.adversarial import KINDS
from models.evaluation.measures import label_figures
from models.training.config import Config
from models.training.families import LabelTrainer, signed_pixels

ROWS, COLUMNS = 10, 13  # of a picture in which noises turn into others


@dataclass(frozen=True)
class GANConfig(Config):
    channels: int = 32
    latent: int = 100
    classes: int = 0  # 0: unconditional
    loss: str = "non_saturating"
    feature_matching: float = 0.0  # weight of the generator's feature-matching term (Salimans et al. 2016, section 3.1)
    dropout: float = 0.0  # 0.3 in `paper`; in a short run it blinds so small a discriminator
    slope: float = 0.3
    lr: float = 2e-3
    floor: float = 1e-4  # what the learning rate falls to, along half a cosine
    beta1: float = 0.5
    batch: int = 32
    steps: int = 1800

    MODEL = ("channels", "latent", "slope", "classes")
    PRESETS = {
        "demo": {},
        "paper": {
            "channels": 128,
            "dropout": 0.3,
            "lr": 1e-4,
            "floor": 1e-4,
            "beta1": 0.9,
            "batch": 256,
            "steps": 11_700,  # 50 epochs of 60,000
        },
        "conditional": {"classes": 10},
    }


class Generator(nn.Module):
    """z (N, Z), with classes labels (N,) -> images (N, 28, 28, 1) in [-1, 1]."""

    def __init__(self, config):
        c = config.channels
        self.channels = c
        leaky = {"act": "leaky_relu", "negative_slope": config.slope}
        self.dense = nn.Linear(config.latent, 49 * c, bias=False)
        self.norm0 = nn.BatchNorm(49 * c, **leaky)
        self.up1 = nn.ConvTranspose2d(c, c, 5, bias=False, stride=1, padding=2)
        self.norm1 = nn.BatchNorm(c, **leaky)
        self.up2 = nn.ConvTranspose2d(c, c, 5, bias=False, stride=2, padding=2, output_padding=1)
        self.norm2 = nn.BatchNorm(c, **leaky)
        self.up3 = nn.ConvTranspose2d(c, c, 5, bias=False, stride=2, padding=2, output_padding=1)
        self.norm3 = nn.BatchNorm(c, **leaky)
        self.out = nn.Conv2d(c, 1, 5, bias=False, padding=2, act="tanh")
        self.labels = nn.Embedding(config.classes, 49 * c) if config.classes else None

    def forward(self, z, labels=None):
        x = self.dense(z)  # (N, 49 C)
        if self.labels is not None:
            x = x + self.labels(labels)  # what `dense` would add, had z the label as a one-hot row beside it
        x = self.norm0(x).reshape(-1, 7, 7, self.channels)  # (N, 7, 7, C)
        x = self.norm1(self.up1(x))  # (N, 7, 7, C)
        x = self.norm2(self.up2(x))  # (N, 14, 14, C)
        x = self.norm3(self.up3(x))  # (N, 28, 28, C)
        return self.out(x)  # (N, 28, 28, 1)


class Discriminator(nn.Module):
    """Images (N, 28, 28, 1), with classes labels (N,) -> logits (N, 1): above 0 where an image looks real."""

    def __init__(self, config):
        c = config.channels
        down = {"stride": 2, "padding": 2, "act": "leaky_relu", "negative_slope": config.slope}
        self.down1 = nn.Conv2d(1, c, 5, **down)
        self.down2 = nn.Conv2d(c, c, 5, **down)
        self.drop = nn.Dropout(config.dropout)
        self.dense = nn.Linear(49 * c, 1)
        self.labels = nn.Embedding(config.classes, 49 * c, std=0.02) if config.classes else None

    def features(self, x):
        x = self.drop(self.down1(x))  # (N, 14, 14, C)
        x = self.drop(self.down2(x))  # (N, 7, 7, C)
        return x.reshape(len(x), -1)  # (N, 49 C)

    def verdict(self, features, labels=None):
        logits = self.dense(features)  # (N, 1)
        if self.labels is None:
            return logits
        return logits + (self.labels(labels) * features).sum(axis=-1, keepdims=True)  # (N, 49 C) -> (N, 1)

    def forward(self, x, labels=None):
        return self.verdict(self.features(x), labels)  # (N, 1)


class GAN(nn.Module):
    def __init__(self, config):
        self.generator, self.discriminator = Generator(config), Discriminator(config)


class GANTrainer(LabelTrainer):
    """Trains GAN; a batch is (images,), float32 (N, 28, 28, 1) in [-1, 1]; with classes (images, labels)."""

    kind, Config, METRICS, LOSSES = "gan", GANConfig, ("d_loss", "g_loss"), ("generator", "discriminator")
    SHOWN, KEPT = 64, 500
    model: GAN
    pixels = staticmethod(signed_pixels)

    def build(self):
        c = self.config
        check.one_of("GANConfig", "loss", c.loss, KINDS)
        self.model = GAN(c)
        schedule = optim.cosine(c.lr, c.steps, floor=c.floor)
        self.optimizers = {
            name: optim.Adam(part.named_parameters(), schedule, betas=(c.beta1, 0.999))
            for name, part in (("generator", self.model.generator), ("discriminator", self.model.discriminator))
        }
        self.inputs = self.image_inputs()

    def train_step(self, images, labels=None):
        """The discriminator takes its step, then the generator takes one against it: both on images of one noise."""
        noise = random.normal((len(images), self.config.latent))
        fake = self.discriminator_step(images, labels, noise)
        with self.model.discriminator.frozen():
            self.generator_step(images, labels, noise, fake)

    def discriminator_step(self, images, labels, noise):
        """Gives what the generator made, for its own step, or None of several micro-batches: the tensors that going
        back needs would fill the memory, all at once, and the generator makes them again."""
        d, optimizer = self.model.discriminator, self.optimizers["discriminator"]
        optimizer.zero_grad()
        objective = self.objective("discriminator", optimizer.parameters.values())
        again = self.accumulate > 1
        for real, y, z in objective.micro_batches(images, labels, noise):
            with no_grad() if again else contextlib.nullcontext():
                fake = self.model.generator(z, y)
            loss = F.discriminator_loss(d(Tensor(real), y), d(fake.detach(), y), kind=self.config.loss)
            objective.backward(loss)
        self.losses[0] = objective.losses[0]
        optimizer.step(objective.unscale_())
        return None if again else fake

    def generator_step(self, images, labels, noise, fake=None):
        """On `fake`, what the generator made of the noise, or on what it makes again."""
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad()
        objective = self.objective("generator", optimizer.parameters.values())
        for real, y, z in objective.micro_batches(images, labels, noise):
            if self.accumulate > 1:
                with self.model.generator.seen():
                    fake = self.model.generator(z, y)
            loss = self.generator_loss(real, fake, y)
            objective.backward(loss)
        self.losses[1] = objective.losses[0]
        optimizer.step(objective.unscale_())

    def generator_loss(self, real, fake, labels):
        d = self.model.discriminator
        features = d.features(fake)
        loss = F.generator_loss(d.verdict(features, labels), kind=self.config.loss)
        if self.config.feature_matching:
            with no_grad():
                wanted = d.features(Tensor(real)).mean(axis=0)
            loss = loss + self.config.feature_matching * ((features.mean(axis=0) - wanted) ** 2).mean()
        return loss

    def sample(self, n: int, seed: int = 0, labels=None):
        """n generated images, NumPy (n, 28, 28) in [0, 1]; the same seed gives the same noise.

        labels, where there are classes: one class, or one for each image; None takes them in turn."""
        check.count("sample", "n", n)
        with self.evaluating(seed):
            z = random.normal((n, self.config.latent))
            return self._draw(z, self.labels_of("sample", n, self.in_turn(n) if labels is None else labels))

    def traverse(self, seed: int = 0):
        """(images (rows, columns, 28, 28), what they show): noises that turn into others, with classes one for all.

        cos(t) z + sin(t) z' of two independent noises is as much N(0, 1) as they are, all the way from t = 0 to pi / 2.
        """
        rows, c, columns = self.classes or ROWS, self.config, COLUMNS
        with self.evaluating(seed):
            first, last = random.normal((2, 1 if self.classes else rows, 1, c.latent))
            t = self.xp.linspace(0, np.pi / 2, columns).astype(np.float32)[:, None]
            z = self.xp.cos(t) * first + self.xp.sin(t) * last  # (rows or 1, columns, Z)
            z = self.xp.broadcast_to(z, (rows, columns, c.latent)).reshape(-1, c.latent)
            labels = np.arange(rows).repeat(columns) if self.classes else None
            images = self._draw(z, self.labels_of("traverse", len(z), labels)).reshape(rows, columns, 28, 28)
        what = f"classes 0 to {rows - 1}, from one noise to another" if self.classes else "from one noise to another"
        return images, f"{rows} rows: {what}"

    def _draw(self, z, labels):
        return (self.model.generator(z, labels).numpy()[..., 0] + 1) / 2

    def evaluate(self) -> dict:
        """Figures of 200 samples: see models/evaluation/measures.py."""
        return label_figures(self.sample(200), self.in_turn(200), self.data)

"""A variational autoencoder for 28x28 images (Kingma & Welling 2014), convolutional.

The encoder gives a Gaussian over latents for each image, the decoder a Bernoulli logit for each pixel, and training
maximises a lower bound of log p(x):

    ELBO = E_q(z|x)[log p(x|z)] - KL(q(z|x) || N(0, 1)),      z = mu + exp(logvar / 2) noise

Grey values in [0, 1] stand for the probability that a pixel is on. N batch, Z latent.
# next: core/reference/losses.py
"""

from dataclasses import dataclass

import numpy as np

import core.functional as F
from core import Tensor, check, nn, optim, random
from models.config import Config
from models.families import ImageTrainer, check_images
from models.measures import image_figures


@dataclass(frozen=True)
class VAEConfig(Config):
    latent: int = 20
    dropout: float = 0.3
    slope: float = 0.3
    beta: float = 1.0  # weight of the KL term (Higgins et al. 2017); 1 is the true bound
    lr: float = 2e-3  # falls to 0 along half a cosine
    batch: int = 64
    steps: int = 500

    MODEL = ("latent", "slope")
    PRESETS = {"demo": {}, "paper": {"lr": 1e-3, "batch": 128, "steps": 23_400}}  # 50 epochs of 60,000 images


class Encoder(nn.Module):
    """Images (N, 28, 28, 1) -> mu and log variance, each (N, Z)."""

    def __init__(self, config):
        down = {"stride": 2, "padding": 1, "act": "leaky_relu", "negative_slope": config.slope}
        self.convs = [nn.Conv2d(i, o, 3, **down) for i, o in ((1, 32), (32, 64), (64, 64))]
        self.drop = nn.Dropout(config.dropout)
        self.mu = nn.Linear(1024, config.latent)
        self.logvar = nn.Linear(1024, config.latent)

    def forward(self, x):
        for conv in self.convs:
            x = self.drop(conv(x))  # (N, 14, 14, 32), (N, 7, 7, 64), (N, 4, 4, 64)
        x = x.reshape(len(x), -1)  # (N, 1024)
        return self.mu(x), self.logvar(x)


class Decoder(nn.Module):
    """Latents (N, Z) -> Bernoulli logits (N, 28, 28, 1)."""

    def __init__(self, config):
        leaky = {"act": "leaky_relu", "negative_slope": config.slope}
        self.slope = config.slope
        self.dense = nn.Linear(config.latent, 3136)
        self.up1 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, **leaky)
        self.up2 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, **leaky)
        self.up3 = nn.ConvTranspose2d(64, 32, 3, stride=1, padding=1, **leaky)
        self.out = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, z):
        x = F.leaky_relu(self.dense(z), self.slope).reshape(-1, 7, 7, 64)  # (N, 7, 7, 64)
        x = self.up1(x)  # (N, 14, 14, 64)
        x = self.up2(x)  # (N, 28, 28, 64)
        x = self.up3(x)  # (N, 28, 28, 32)
        return self.out(x)  # (N, 28, 28, 1)


class VAE(nn.Module):
    def __init__(self, config):
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, x, noise=None):
        """x (N, 28, 28, 1) -> (logits, mu, logvar)."""
        mu, logvar = self.encoder(x)
        return self.decoder(F.reparameterize(mu, logvar, noise=noise)), mu, logvar


class VAETrainer(ImageTrainer):
    """Trains VAE; a batch is (images,), float32 (N, 28, 28, 1) in [0, 1]. Losses are nats an image."""

    kind, Config, METRICS = "vae", VAEConfig, ("loss", "reconstruction", "kl")
    model: VAE

    @staticmethod
    def pixels(images):
        """Bytes (N, 28, 28) -> float32 (N, 28, 28, 1) in [0, 1]."""
        return images[..., None].astype(np.float32) / np.float32(255)

    def build(self):
        c = self.config
        self.model = VAE(c)
        self.beta = self.xp.asarray(c.beta, np.float32)
        self.optimizers = {"vae": optim.Adam(self.model.named_parameters(), optim.cosine(c.lr, c.steps))}
        self.inputs = self.image_inputs()

    def part_loss(self, start, stop):
        """Of images start to stop of the batch: ((-ELBO, reconstruction, KL), their share of the batch)."""
        x = Tensor(self.inputs["images"][start:stop])
        logits, mu, logvar = self.model(x)
        return F.elbo(logits, x, mu, logvar, beta=self.beta, parts=True), (stop - start) / self.config.batch

    def train_step(self):
        optimizer = self.optimizers["vae"]
        optimizer.zero_grad()
        losses = self.backward(self.part_loss, optimizer.parameters.values(), count=self.at_once())
        for i, loss in enumerate(losses):
            self.losses[i] = loss
        optimizer.step(self.unscale_("loss", optimizer.parameters.values()))

    def sample(self, n: int, seed: int = 0):
        """n images decoded from the prior, NumPy (n, 28, 28) in [0, 1]: the probability of each pixel."""
        check.count("sample", "n", n)
        with self.apart(seed):
            return self._decode(random.normal((n, self.config.latent)))

    def reconstruct(self, images):
        """Images (n, 28, 28) bytes -> their reconstructions from mu, NumPy (n, 28, 28) in [0, 1]."""
        check_images("reconstruct", images)
        with self.apart():
            mu, _ = self.model.encoder(self.xp.asarray(self.pixels(images)))
            return self._decode(mu)

    def interpolate(self, first, last, n: int = 8):
        """From images `first` to `last`, each (m, 28, 28) bytes, in n >= 2 steps between their mu: (m, n, 28, 28)."""
        check.count("interpolate", "n", n, 2)
        for images in (first, last):
            check_images("interpolate", images)
        check.matches("interpolate", "last", last.shape, first.shape)
        with self.apart():
            a, b = (self.model.encoder(self.xp.asarray(self.pixels(x)))[0] for x in (first, last))
            rows = [self._decode(a + (b - a) * (i / (n - 1))) for i in range(n)]
        return np.stack(rows, axis=1)

    def _decode(self, z):
        return F.sigmoid(self.model.decoder(z)).numpy()[..., 0]

    def evaluate(self) -> dict:
        """-ELBO in nats over the whole test set, one draw an image, dropout off; and the figures of 200 samples."""
        sums, n = np.zeros(3), 0
        with self.apart():
            for (x,) in self.batches("test"):
                x = self.xp.asarray(x)
                logits, mu, logvar = self.model(x)
                sums += [len(x) * p.item() for p in F.elbo(logits, x, mu, logvar, parts=True)]
                n += len(x)
        nats = dict(zip(("neg_elbo", "reconstruction", "kl"), (sums / n).tolist()))
        return {**nats, **image_figures(self.sample(200), self.data)}

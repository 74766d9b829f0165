"""The GAN and the VAE in PyTorch; with classes their inputs are (images, labels), as ours are."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.torch_models.base import Counterpart, Dropout, channels_last, cosine, schedule


def flat(x):
    """(N, C, H, W) -> (N, H W C): the order of our dense layers' weights."""
    return channels_last(x).flatten(1)


def image(x, side, channels):
    """(N, H W C) -> (N, C, H, W)."""
    return x.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2)


def table(classes, width):
    """A row for each class, where there are classes."""
    return nn.Embedding(classes, width) if classes else None


def add_row(x, rows, labels):
    return x if rows is None else x + rows(labels)


class Generator(nn.Module):
    def __init__(self, c, latent, slope, classes):
        super().__init__()
        self.channels, self.slope = c, slope
        self.dense = nn.Linear(latent, 49 * c, bias=False)
        self.norm0 = nn.BatchNorm1d(49 * c)
        self.up1 = nn.ConvTranspose2d(c, c, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(c)
        self.up2 = nn.ConvTranspose2d(c, c, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c)
        self.up3 = nn.ConvTranspose2d(c, c, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(c)
        self.out = nn.Conv2d(c, 1, 5, padding=2, bias=False)
        self.labels = table(classes, 49 * c)

    def forward(self, z, labels=None):
        leaky = lambda x: F.leaky_relu(x, self.slope)
        x = image(leaky(self.norm0(add_row(self.dense(z), self.labels, labels))), 7, self.channels)
        for up, norm in ((self.up1, self.norm1), (self.up2, self.norm2), (self.up3, self.norm3)):
            x = leaky(norm(up(x)))
        return torch.tanh(self.out(x))


class Discriminator(nn.Module):
    def __init__(self, c, slope, dropout, classes):
        super().__init__()
        self.down1 = nn.Conv2d(1, c, 5, stride=2, padding=2)
        self.down2 = nn.Conv2d(c, c, 5, stride=2, padding=2)
        self.drop, self.slope = Dropout(dropout), slope
        self.dense = nn.Linear(49 * c, 1)
        self.labels = table(classes, 49 * c)

    def features(self, x):
        for down in (self.down1, self.down2):
            x = self.drop(F.leaky_relu(down(x), self.slope))
        return flat(x)

    def verdict(self, features, labels=None):
        logits = self.dense(features)
        return logits if self.labels is None else logits + (self.labels(labels) * features).sum(1, keepdim=True)

    def forward(self, x, labels=None):
        return self.verdict(self.features(x), labels)


class GAN(nn.Module):
    generator: Generator
    discriminator: Discriminator

    def __init__(self, c):
        super().__init__()
        self.generator = Generator(c.channels, c.latent, c.slope, c.classes)
        self.discriminator = Discriminator(c.channels, c.slope, c.dropout, c.classes)


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


class GANCounterpart(Counterpart):
    METRICS, PARTS = ("d_loss", "g_loss"), ("generate", "d_loss", "g_loss")
    model: GAN

    def build(self, trainer):
        return GAN(trainer.config)

    def optimisation(self):
        c, parts = self.config, {"generator": self.model.generator, "discriminator": self.model.discriminator}
        optimizers = {
            name: torch.optim.Adam(part.parameters(), self.rate(c.lr), betas=(c.beta1, 0.999), **self.adam)
            for name, part in parts.items()
        }
        return optimizers, {k: schedule(o, cosine(c.lr, c.steps, floor=c.floor)) for k, o in optimizers.items()}

    def train_step(self, real, labels=None):
        with self.autocast():
            fake = self.generate(len(real), labels)
            d_loss = self.d_loss(real, fake.detach(), labels)
        d_loss = self.descend("discriminator", d_loss)
        self.model.discriminator.requires_grad_(False)
        with self.autocast():
            g_loss = self.g_loss(real, fake, labels)
        g_loss = self.descend("generator", g_loss)
        self.model.discriminator.requires_grad_(True)
        self.scaler.update()
        return d_loss, g_loss

    def generate(self, n, labels=None):
        return self.model.generator(self.normal(n, self.config.latent), labels)

    def images(self, z):
        """z (N, Z) -> images (N, 28, 28) in [0, 1]."""
        return (self.model.generator(z)[:, 0] + 1) / 2

    def d_loss(self, real, fake, labels=None):
        d = self.model.discriminator
        on_real, on_fake = d(real, labels), d(fake, labels)
        if self.config.loss == "hinge":
            return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        return bce(on_real, 1.0) + bce(on_fake, 0.0)

    def g_loss(self, real, fake, labels=None):
        d = self.model.discriminator
        features = d.features(fake)
        logits = d.verdict(features, labels)
        kinds = {"hinge": lambda: -logits.mean(), "minimax": lambda: -bce(logits, 0.0)}
        loss = kinds.get(self.config.loss, lambda: bce(logits, 1.0))()
        if self.config.feature_matching:
            wanted = d.features(real).mean(0)
            loss = loss + self.config.feature_matching * F.mse_loss(features.mean(0), wanted)
        return loss


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        sizes = ((1, 32), (32, 64), (64, 64))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in sizes)
        self.drop, self.slope = Dropout(c.dropout), c.slope
        self.mu, self.logvar = nn.Linear(1024, c.latent), nn.Linear(1024, c.latent)
        self.labels = table(c.classes, 1024)

    def forward(self, x, labels=None):
        for conv in self.convs:
            x = self.drop(F.leaky_relu(conv(x), self.slope))
        x = add_row(flat(x), self.labels, labels)
        return self.mu(x), self.logvar(x)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.slope = c.slope
        self.dense = nn.Linear(c.latent, 3136)
        self.up1 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.up3 = nn.ConvTranspose2d(64, 32, 3, padding=1)
        self.out = nn.Conv2d(32, 1, 3, padding=1)
        self.labels = table(c.classes, 3136)

    def forward(self, z, labels=None):
        x = image(F.leaky_relu(add_row(self.dense(z), self.labels, labels), self.slope), 7, 64)
        for up in (self.up1, self.up2, self.up3):
            x = F.leaky_relu(up(x), self.slope)
        return self.out(x)


class VAE(nn.Module):
    encoder: Encoder
    decoder: Decoder

    def __init__(self, c):
        super().__init__()
        self.encoder, self.decoder = Encoder(c), Decoder(c)


class VAECounterpart(Counterpart):
    METRICS, PARTS = ("loss", "reconstruction", "kl"), ("losses",)
    model: VAE

    def build(self, trainer):
        return VAE(trainer.config)

    def optimisation(self):
        c = self.config
        optimizer = torch.optim.Adam(self.model.parameters(), self.rate(c.lr), **self.adam)
        return {"vae": optimizer}, {"vae": schedule(optimizer, cosine(c.lr, c.steps))}

    def train_step(self, x, labels=None):
        with self.autocast():
            losses = self.losses(x, labels)
        self.descend("vae", losses[0])
        self.scaler.update()
        return tuple(loss.detach() for loss in losses)

    def images(self, z):
        """z (N, Z) -> the probability of each pixel (N, 28, 28)."""
        return torch.sigmoid(self.model.decoder(z)[:, 0])

    def losses(self, x, labels=None):
        mu, logvar = self.model.encoder(x, labels)
        logits = self.model.decoder(mu + torch.exp(0.5 * logvar) * self.normal(*mu.shape), labels)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)
        return reconstruction + self.config.beta * kl, reconstruction, kl

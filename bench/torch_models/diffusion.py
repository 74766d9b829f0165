"""The diffusion model in PyTorch: the U-Net from torch.nn, and schedules, training step and sampling written anew."""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from bench.torch_models import text
from bench.torch_models.base import Counterpart, Dropout, cosine, host, schedule

GROUP, NO_CLASS = 4, 10


class ResBlock(nn.Module):
    def __init__(self, c_in, c_out, width, dropout):
        super().__init__()
        self.norm1 = nn.GroupNorm(c_in // GROUP, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.told = nn.Linear(width, c_out)
        self.norm2, self.drop = nn.GroupNorm(c_out // GROUP, c_out), Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x, vector):
        h = self.conv1(F.silu(self.norm1(x))) + self.told(vector)[:, :, None, None]
        return self.conv2(self.drop(F.silu(self.norm2(h)))) + self.skip(x)


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.norm, self.attn = nn.GroupNorm(channels // GROUP, channels), text.Attention(channels, heads)

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)
        return x + self.attn(tokens).transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, width = config.channels, 4 * config.channels
        block = lambda c_in, c_out: ResBlock(c_in, c_out, width, config.dropout)
        self.channels = c
        self.time1, self.time2 = nn.Linear(c, width), nn.Linear(width, width)
        self.label = nn.Embedding(NO_CLASS + 1, width)
        self.conv_in, self.conv_out = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, 1, 3, padding=1)
        self.block28, self.down14 = block(c, c), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.block14, self.down7 = block(2 * c, 2 * c), nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1)
        self.block7, self.block7_up = block(2 * c, 2 * c), block(2 * c, 2 * c)
        self.attention = Attention(2 * c, config.heads)
        self.up14, self.block14_up = nn.ConvTranspose2d(2 * c, 2 * c, 4, stride=2, padding=1), block(4 * c, 2 * c)
        self.up28, self.block28_up = nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1), block(2 * c, c)
        self.norm_out = nn.GroupNorm(c // GROUP, c)

    def waves(self, t):
        """Cosines, then sines, of t (N,): (N, C)."""
        half = self.channels // 2
        frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / half))
        angles = t[:, None] * frequencies.to(self.conv_in.weight.dtype)
        return torch.cat([torch.cos(angles), torch.sin(angles)], 1)

    def forward(self, x, t, labels):
        v = F.silu(self.time2(F.silu(self.time1(self.waves(t)))) + self.label(labels))
        x28 = self.block28(self.conv_in(x), v)
        x14 = self.block14(self.down14(x28), v)
        x = self.block7_up(self.attention(self.block7(self.down7(x14), v)), v)
        x = self.block14_up(torch.cat([self.up14(x), x14], 1), v)
        x = self.block28_up(torch.cat([self.up28(x), x28], 1), v)
        return self.conv_out(F.silu(self.norm_out(x)))


class Diffusion(nn.Module):
    net: UNet
    average: UNet

    def __init__(self, config):
        super().__init__()
        self.net = UNet(config)
        self.average = copy.deepcopy(self.net).requires_grad_(False)


def alpha_bar(kind, timesteps):
    """(T + 1,) in float64."""
    if kind == "linear":
        beta = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64) * 1000 / timesteps
    else:
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
        beta = 1 - f[1:] / f[:-1]
    return F.pad(torch.cumprod(1 - beta.clamp(max=0.999), 0), (1, 0), value=1.0)


class DiffusionCounterpart(Counterpart):
    METRICS, PARTS = ("loss", "grad_norm"), ("loss",)
    model: Diffusion

    def build(self, trainer):
        c = trainer.config
        alpha = alpha_bar(c.schedule, c.timesteps).to(self.device)
        self.signal, self.noise = alpha.sqrt().to(self.dtype), (1 - alpha).sqrt().to(self.dtype)
        return Diffusion(c)

    def optimisation(self):
        c = self.config
        optimizer = torch.optim.Adam(self.model.net.parameters(), self.rate(c.lr), **self.adam)
        return {"net": optimizer}, {"net": schedule(optimizer, cosine(c.lr, c.steps, c.warmup, c.floor))}

    def uniform(self, n):
        """The next draw, or torch's own, in float32 whatever the counterpart's dtype: what follows is a choice."""
        if self.draws is None:
            return torch.rand(n, device=self.device)
        return torch.as_tensor(host(next(self.draws))).to(self.device)

    def train_step(self, images, labels):
        with self.autocast():
            loss = self.loss(images, labels)
        self.backward("net", loss)
        self.scaler.unscale_(self.optimizers["net"])
        norm = nn.utils.clip_grad_norm_(self.model.net.parameters(), self.config.clip)
        self.scaler.step(self.optimizers["net"])
        self.scaler.update()
        with torch.no_grad():
            averages, parameters = ([*part.parameters()] for part in (self.model.average, self.model.net))
            torch._foreach_lerp_(averages, parameters, 1 - self.config.average)  # type: ignore[arg-type]
        return loss.detach(), norm

    def loss(self, images, labels):
        c, n = self.config, len(images)
        labels = torch.where(self.uniform(n) < c.unlabelled, NO_CLASS, labels)
        t = 1 + (self.uniform(n) * c.timesteps).long()
        noise = self.normal(*images.shape)
        a, s = (table[t][:, None, None, None] for table in (self.signal, self.noise))
        target = noise if c.predict == "eps" else a * noise - s * images
        return F.mse_loss(self.model.net(a * images + s * noise, t, labels), target)

    def images(self, z):
        """z (N, 1, 28, 28) -> digits 0 to 9 in turn (N, 28, 28) in [0, 1]: DDIM, its noise never renewed."""
        c, x = self.config, z
        labels = torch.arange(len(z), device=z.device) % 10
        times = torch.linspace(c.timesteps, 0, c.sampler_steps + 1).round().long()
        for t, s in itertools.pairwise(times):
            told, untold = (self.model.average(x, t.expand(len(x)), k) for k in (labels, labels * 0 + NO_CLASS))
            said = untold + c.guidance * (told - untold)
            a, n = self.signal[t], self.noise[t]
            x0 = ((x - n * said) / a if c.predict == "eps" else a * x - n * said).clamp(-1, 1)
            x = self.signal[s] * x0 + self.noise[s] * (x - a * x0) / n
        return (x[:, 0] + 1) / 2

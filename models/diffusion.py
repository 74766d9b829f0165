"""A denoising diffusion model for 28x28 images (Ho et al. 2020), told the class of each.

Noise is added to an image in T steps until nothing else is left; a network learns to tell, at any of these steps, the
noise from the image, and images are made by walking back from noise. What is trained is one regression,

    loss = mean (net(x_t, t, class) - target)^2,      x_t = a_t x_0 + s_t noise,    t drawn evenly from 1..T

where the target is the noise or "v" (models/layers/schedules.py). One time in ten the network is not told the class, so
that it knows both answers, and sampling can go further in the direction in which they differ: classifier-free guidance
(Ho & Salimans 2022). Samples are made with a moving average of the weights. Images lie in [-1, 1]. N batch.

# next: models/layers/unet.py, the network; docs/diffusion.md
"""

import copy
from dataclasses import dataclass

import numpy as np

from core import Tensor, check, nn, optim, random
from core.runtime import threads
from models.evaluation.measures import label_figures
from models.layers.schedules import PREDICTIONS, SCHEDULES, Schedule, target, x0_of
from models.layers.unet import CLASSES, NO_CLASS, UNet
from models.training.config import Config
from models.training.families import LabelTrainer, signed_pixels
from models.training.progress import progress

SAMPLERS = ("ddim", "ddpm")
CHUNK = 64  # images that go through the network at once when sampling
PATIENCE = 2.0  # seconds of sampling before a progress bar appears


@dataclass(frozen=True)
class DiffusionConfig(Config):
    channels: int = 32
    heads: int = 4
    timesteps: int = 1000
    schedule: str = "cosine"
    predict: str = "v"
    dropout: float = 0.0
    unlabelled: float = 0.1  # the share of training images whose class is not told
    average: float = 0.995  # how much of the average of the weights each step keeps
    lr: float = 2e-3
    floor: float = 0.0  # what the learning rate falls to, along half a cosine
    warmup: int = 100
    clip: float = 1.0
    batch: int = 64
    steps: int = 1500
    sampler_steps: int = 50
    guidance: float = 2.0  # 1 is the model that is told the class, 0 the one that is not; beyond 1 exaggerates

    MODEL = ("channels", "heads", "timesteps", "schedule", "predict")
    MOST = {**Config.MOST, "timesteps": 1 << 16, "sampler_steps": 1 << 16}
    RANGES = {**Config.RANGES, "unlabelled": (0, 1, False), "average": (0, 1, True)}
    PRESETS = {
        "demo": {},
        "paper": {  # Ho et al. 2020, appendix B: what they train on CIFAR-10 with
            "channels": 128,
            "schedule": "linear",
            "predict": "eps",
            "dropout": 0.1,
            "average": 0.9999,
            "lr": 2e-4,
            "floor": 2e-4,
            "warmup": 5000,
            "batch": 128,
            "steps": 800_000,
        },
    }


def averaged(module: nn.Module) -> nn.Module:
    """A copy of `module` with buffers for parameters: they are saved with it, and no optimiser finds them."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name, value in vars(part).items():
            if isinstance(value, nn.Parameter):
                setattr(part, name, Tensor(value.data))
    return copied


class Diffusion(nn.Module):
    """The network that is trained, and the moving average of its weights, which samples."""

    def __init__(self, config):
        self.net = UNet(config.channels, config.heads, config.dropout)
        self.average = averaged(self.net)


class DiffusionTrainer(LabelTrainer):
    """Trains Diffusion; a batch is (images, labels), float32 (N, 28, 28, 1) in [-1, 1] and int64 (N,) from 0 to 9."""

    kind, Config, METRICS, SHOWN = "diffusion", DiffusionConfig, ("loss", "grad_norm"), 100
    model: Diffusion
    classes = CLASSES  # type: ignore[assignment]  # whatever the configuration: guidance needs them
    pixels = staticmethod(signed_pixels)

    def build(self):
        c = self.config
        check.one_of("DiffusionConfig", "predict", c.predict, PREDICTIONS)
        check.one_of("DiffusionConfig", "schedule", c.schedule, SCHEDULES)
        check.count("DiffusionConfig", "sampler_steps", c.sampler_steps, 1, c.timesteps)
        self.schedule = Schedule(c.schedule, c.timesteps, self.xp)
        self.model = Diffusion(c)
        schedule = optim.cosine(c.lr, c.steps, c.warmup, c.floor)
        self.optimizers = {"net": optim.Adam(self.model.net.named_parameters(), schedule)}
        self.averages = [t for _, t in self.model.average.named_tensors()]
        self.inputs = self.image_inputs()

    def loss(self, images, labels):
        """The mean of these images; some of them are not told their class."""
        told = random.uniform((len(images),)) >= self.config.unlabelled
        return self.regression(self.model.net, images, self.xp.where(told, labels, NO_CLASS))

    def regression(self, net, x0, labels):
        """The mean squared error of `net` at a time and with a noise drawn for each image."""
        t = 1 + (random.uniform((len(x0),)) * np.float32(self.config.timesteps)).astype(np.int64)
        noise = random.normal(x0.shape)
        a, s = self.schedule.at(t)
        said = net(Tensor(a * x0 + s * noise), t, labels)
        return ((said - target(self.config.predict, x0, noise, a, s)) ** 2).mean()

    def train_step(self, images, labels):
        optimizer, parameters = self.optimizers["net"], self.model.net.parameters()
        optimizer.zero_grad()
        objective = self.objective("loss", parameters)
        for batch in objective.micro_batches(images, labels):
            losses = objective.on_threads(self.loss, *batch)
            objective.backward(*losses)
        taken = objective.unscale_()
        self.losses[0], self.losses[1] = objective.losses[0], optim.clip_grad_norm_(parameters, self.config.clip)
        optimizer.step(taken)
        optim.ema_(self.averages, parameters, self.config.average, taken)

    # Sampling.
    def sample(
        self, n: int, seed: int = 0, *, labels=None, sampler="ddim", steps=None, guidance=None, eta: float = 0.0
    ):
        """n images, NumPy (n, 28, 28) in [0, 1]; the same seed gives the same noise.

        labels: one class, or one for each image; None takes 0 to 9 in turn. sampler: "ddim" in `steps` steps (default
        config.sampler_steps; `eta` from 0, no noise on the way, to 1) or "ddpm" (default all T). guidance: default
        config.guidance.
        """
        check.count("sample", "n", n)
        check.one_of("sample", "sampler", sampler, SAMPLERS)
        guidance = self._guidance() if guidance is None else guidance
        check.number("sample", "guidance", guidance, 0)
        check.probability("sample", "eta", eta)
        default = self.config.sampler_steps if sampler == "ddim" else self.config.timesteps
        times = self.schedule.times(default if steps is None else steps)
        labels = self.labels_of("sample", n, self.in_turn(n) if labels is None else labels)
        with self.evaluating(seed):
            x = random.normal((n, 28, 28, 1))
            for t, s in progress(times, "sampling", unit="step", leave=False, delay=PATIENCE):
                x0 = self.denoised(x, t, labels, guidance)
                if sampler == "ddpm":
                    x = self.schedule.ddpm(x, x0, t, s, random.normal(x.shape))
                else:
                    x = self.schedule.ddim(x, x0, t, s, eta, random.normal(x.shape) if eta else None)
        x = x if self.xp is np else x.get()
        return (x[..., 0] + 1) / 2

    def _guidance(self) -> float:
        """The configuration's, unless the network has learnt one of its two answers alone."""
        c = self.config
        return c.guidance if 0 < c.unlabelled < 1 else 1.0 - c.unlabelled

    def denoised(self, x, t: int, labels, guidance: float):
        """What the averaged network holds x_0 to be, given x at time t: (N, 28, 28, 1) in [-1, 1].

        said(nothing) + guidance (said(class) - said(nothing)): 1 + w of Ho & Salimans 2022 is `guidance`."""
        said = self._said(x, t, labels) if guidance else 0.0
        if guidance != 1:
            without = self._said(x, t, self.xp.full_like(labels, NO_CLASS))
            said = without + guidance * (said - without)
        x0 = x0_of(self.config.predict, said, x, *self.schedule.signal_and_noise(t))
        return self.xp.clip(x0, -1, 1)  # where images lie; an error would grow from step to step

    def _said(self, x, t, labels):
        """The averaged network's answer, in chunks; on a CPU its cores share the images."""
        times = self.xp.full(len(x), t, np.int64)

        def part(start, stop):
            chunks = [slice(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]
            return [self.model.average(Tensor(x[c]), times[c], labels[c]).data for c in chunks]

        parts = threads.share(part, len(x)) if self.xp is np else [part(0, len(x))]
        return self.xp.concatenate([y for chunks in parts for y in chunks])

    def evaluate(self) -> dict:
        """The loss over the test set, one draw an image, and figures of 200 samples (models/evaluation/measures.py)."""
        total, xp = 0.0, self.xp
        with self.evaluating():
            for x, labels in self.batches("test"):
                total += len(x) * self.regression(self.model.average, xp.asarray(x), xp.asarray(labels)).item()
        return {"loss": total / len(self.data.x_test), **label_figures(self.sample(200), self.in_turn(200), self.data)}

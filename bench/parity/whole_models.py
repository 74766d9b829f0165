"""A model of ours beside its counterparts in PyTorch, from one state_dict, on the same batches, noise and masks.

`compared_steps` trains some small models, each from its own seed, and gives the comparisons of outputs, losses,
gradients, parameters and running statistics; the same array of every seed is one array to the accuracy test.
"""

import contextlib
import itertools
from collections import defaultdict

import numpy as np
import torch

import core.functional as F
from bench.parity import small_models
from bench.parity.comparing import Comparison
from bench.parity.rule import Draw, assess, rms, typical
from bench.parity.torch_runs import torch_runs
from bench.torch_models import COUNTERPARTS
from bench.torch_models.base import channels_last
from core import no_grad, random

SEEDS = 8
KINK = 8 * np.finfo(np.float32).eps  # the largest error that the accuracy test allows a single operation
NEGLIGIBLE = 1e-6  # of the model's rms gradient: below it a gradient is rounding noise, which Adam would blow up

# What is tested: model, changes to its small configuration, number of steps.
SETTINGS = {
    "gan": ("gan", {}, (1, 10)),
    "gan hinge, feature matching": ("gan", {"loss": "hinge", "feature_matching": 1.0}, (1,)),
    "gan minimax": ("gan", {"loss": "minimax"}, (1,)),
    "gan conditional": ("gan", {"classes": 10}, (1,)),
    "vae": ("vae", {}, (1, 10)),
    "vae beta 4": ("vae", {"beta": 4.0}, (1,)),
    "vae conditional": ("vae", {"classes": 10}, (1,)),
    "gpt": ("gpt", {}, (1, 10)),
    "seq2seq": ("seq2seq", {}, (1, 10)),
    "diffusion": ("diffusion", {}, (1, 10)),
    "diffusion, linear schedule, noise predicted": ("diffusion", {"schedule": "linear", "predict": "eps"}, (1,)),
    "seq2seq sinusoidal": ("seq2seq", {"positions": "sinusoidal"}, (1,)),
}


class Together:
    """Ours, torch in float64 (the oracle) and the float32 runs of torch, one step after the other."""

    def __init__(self, trainer, parts=1):
        self.trainer, self.oracle = trainer, COUNTERPARTS[trainer.kind](trainer, torch.float64)
        self.runs = torch_runs(trainer, parts)
        self.batches = trainer.batches("train")

    def step(self) -> tuple:
        """The losses of one step: (ours, the oracle's, [each run's])."""
        batch = tuple(np.array(a) for a in next(self.batches))
        with random.record() as draws:
            ours = self.trainer.step(batch)
        return ours, self.oracle.step(batch, draws), [run.step(batch, draws) for run in self.runs]

    def outputs(self) -> tuple:
        """What the models make of the next batch, by name: (ours, the oracle's, [each run's])."""
        t, noise = self.trainer, np.random.default_rng(self.trainer.seed).standard_normal((8, 100), np.float32)
        batch = tuple(np.array(a) for a in next(self.batches))
        apart = [
            forward_counterpart(t.kind, counterpart, batch, noise)
            for counterpart in (self.oracle, *(run.counterpart for run in self.runs))
        ]
        return forward_ours(t.kind, t.model, batch, noise), apart[0], apart[1:]

    def gradients(self) -> tuple:
        """The gradients of the last step, by name: (ours, the oracle's, [each run's])."""
        ours = {name: p.grad for name, p in self.trainer.model.named_parameters().items() if p.grad is not None}
        return ours, self.oracle.gradients(), [run.counterpart.gradients() for run in self.runs]

    def states(self) -> tuple:
        """Parameters and running statistics, by name: (ours, the oracle's, [each run's])."""
        return self.trainer.model.state_dict(), self.oracle.state(), [run.counterpart.state() for run in self.runs]


def forward_ours(kind, model, batch, noise) -> dict:
    """What our model makes of a batch, without dropout; images channels last."""
    model.eval()
    with no_grad():
        if kind == "gan":
            images = model.generator(noise, *batch[1:])
            outputs = {"images": images, "logits": model.discriminator(images, *batch[1:])}
        elif kind == "vae":
            mu, logvar = model.encoder(*batch)
            outputs = {"mu": mu, "logvar": logvar, "pixels": model.decoder(mu, *batch[1:])}
        elif kind == "diffusion":
            images, labels = batch
            outputs = {name: net(images, 1 + 5 * labels, labels) for name, net in nets(model)}
        elif kind == "gpt":
            outputs = {"logits": F.linear(model(batch[0]), model.wte.weight)}
        else:
            h = model.decode(batch[1], *model.encode(batch[0]))
            outputs = {"logits": F.linear(h, model.table.weight)}
    model.train()
    return {name: y.numpy() for name, y in outputs.items()}


def nets(model):
    """A diffusion model's two networks, by what they make."""
    return ("prediction", model.net), ("prediction of the average", model.average)


def forward_counterpart(kind, counterpart, batch, noise) -> dict:
    """The same by a counterpart."""
    model, labels = counterpart.model.eval(), [counterpart.tensor(a) for a in batch[1:]]
    with torch.no_grad():
        if kind == "gan":
            images = model.generator(counterpart.tensor(noise), *labels)
            outputs = {"images": images, "logits": model.discriminator(images, *labels)}
        elif kind == "vae":
            mu, logvar = model.encoder(counterpart.tensor(batch[0]), *labels)
            outputs = {"mu": mu, "logvar": logvar, "pixels": model.decoder(mu, *labels)}
        elif kind == "diffusion":
            images, (labels,) = counterpart.tensor(batch[0]), labels
            outputs = {name: net(images, 1 + 5 * labels, labels) for name, net in nets(model)}
        else:
            outputs = {"logits": model(*(counterpart.tensor(a) for a in batch[:-1]))}
    model.train()
    return {name: channels_last(y).numpy() for name, y in outputs.items()}


def negligible(kind, changes) -> list:
    """Parameters whose gradient in the oracle's first step is missing or below NEGLIGIBLE of the model's rms."""
    both = Together(small_models.trainer(kind, **changes))
    both.step()
    grads = both.oracle.gradients()
    every = rms(np.concatenate([g.ravel() for g in grads.values()]))
    named = both.trainer.model.named_parameters()
    return [name for name in named if name not in grads or rms(grads[name]) < NEGLIGIBLE * every]


def compared_steps(label) -> list[Comparison]:
    """All comparisons of one of SETTINGS."""
    kind, changes, counts = SETTINGS[label]
    found: dict = defaultdict(list)
    for both, outputs, first in itertools.islice(off_kinks(kind, changes), SEEDS):
        collect(found, assess, "output ", *outputs)
        for step in range(1, counts[-1] + 1):
            losses = as_arrays(first if step == 1 else both.step())
            if step in counts:
                rule = assess if step == 1 else typical  # the first step's gradients come before any optimiser
                collect(found, rule, f"step {step}: ", *losses)
                collect(found, rule, f"step {step}: gradient of ", *both.gradients())
                collect(found, typical, f"step {step}: ", *both.states())
    rows = ((what, rule(draws, np.float32)) for (what, rule), draws in found.items())
    return [Comparison(f"model/{label}", what, "model", verdict) for what, verdict in rows]


def off_kinks(kind, changes, parts=1):
    """(both sides, their outputs, the losses of their first step) of one seed after the other, but for those whose
    oracle has an activation's argument within KINK of zero: on which side of it float32 comes to lie is chance."""
    for seed in range(4 * SEEDS):
        both = Together(small_models.trainer(kind, seed=seed, **changes), parts)
        outputs = both.outputs()
        with kinks() as nearest:
            losses = both.step()
        if min(nearest, default=1.0) > KINK:
            yield both, outputs, losses


@contextlib.contextmanager
def kinks():
    """`with kinks() as nearest:` the smallest argument of each leaky_relu in float64, over the layer's rms."""
    nearest: list = []
    leaky_relu = torch.nn.functional.leaky_relu

    def watched(x, *slope):
        if x.dtype == torch.float64:
            nearest.append(float(x.detach().abs().min() / x.detach().square().mean().sqrt()))
        return leaky_relu(x, *slope)

    torch.nn.functional.leaky_relu = watched
    try:
        yield nearest
    finally:
        torch.nn.functional.leaky_relu = leaky_relu


def as_arrays(losses):
    ours, oracle, theirs = losses
    narrow = lambda part: {name: np.array(x, np.float32) for name, x in part.items()}
    return narrow(ours), {name: np.array(x) for name, x in oracle.items()}, [narrow(part) for part in theirs]


def collect(found, rule, prefix, ours, oracle, theirs):
    """One Draw for every name, added to what other seeds have found under (name, rule)."""
    assert ours.keys() == oracle.keys(), f"{prefix}: ours are {sorted(ours)}, torch's {sorted(oracle)}"
    size = rms(np.concatenate([np.ravel(a) for a in oracle.values()]))
    for name, a in ours.items():
        runs = tuple(np.array(part[name], np.float32) for part in theirs)
        found[prefix + name, rule].append(Draw(np.array(a), np.array(oracle[name], np.float64), runs, size))

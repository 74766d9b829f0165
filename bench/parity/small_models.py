"""Trainers small enough for a test, and the comparison "the same bits"."""

import dataclasses

import numpy as np

import models
from models.datasets import Images, Pairs, Text, load_images, load_pairs, load_text

# What differs from the preset "demo", for tests that look at mechanics and not at quality.
SMALL: dict[str, dict] = {
    "gan": {"channels": 4, "dropout": 0.3, "batch": 8, "steps": 40},
    "vae": {"batch": 4, "steps": 40},
    "gpt": {"layers": 2, "d_model": 16, "heads": 2, "context": 12, "batch": 4, "steps": 40, "dropout": 0.1},
    "seq2seq": {"vocab": 320, "layers": 1, "d_model": 16, "heads": 2, "length": 60, "batch": 4, "steps": 40},
    "diffusion": {
        "channels": 8,
        "heads": 2,
        "timesteps": 50,
        "sampler_steps": 2,
        "batch": 4,
        "steps": 40,
        "warmup": 2,
    },
}

_loaded: dict = {}


def dataset(kind):
    """A small part of the carried data, read once."""
    if kind not in _loaded:
        if kind in ("gan", "vae", "diffusion"):
            d = load_images()
            _loaded[kind] = Images(d.x_train[:150], d.y_train[:150], d.x_test[:210], d.y_test[:210], d.source)
        elif kind == "gpt":
            t = load_text()
            _loaded[kind] = Text(t.train[:1800], t.test[:600], t.source)
        else:
            p = load_pairs()
            _loaded[kind] = Pairs(p.train[:150], p.test[:12], p.source)
    return _loaded[kind]


def trainer(kind, seed=0, device="cpu", graph=True, **changes):
    """A new trainer of this kind, small."""
    t = models.MODELS[kind]
    apart = ("group", "accumulate", "sync_batch_norm", "precision")
    options = {name: changes.pop(name) for name in apart if name in changes}
    config = t.Config.preset("demo", **{**SMALL[kind], **changes})
    return t(config, seed=seed, device=device, data=dataset(kind), graph=graph, **options)


def run(t, steps):
    """Take some steps; the metrics of each."""
    batches = t.batches("train")
    return [t.step(next(batches)) for _ in range(steps)]


def snapshot(t) -> dict:
    return {name: array.copy() for name, array in t.state().items()}


def different(a: dict, b: dict) -> list:
    """Names of the arrays that are not the same, bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if a[name].tobytes() != b[name].tobytes() or a[name].dtype != b[name].dtype]


def settings(t) -> dict:
    return dataclasses.asdict(t.config)


def generator(seed):
    return np.random.default_rng(seed)

"""Configurations: frozen dataclasses whose fields are checked, so that a typing error or a stranger's file meets one
line and not the end of the memory.

# next: models/training/trainer.py, which takes one
"""

import dataclasses

import numpy as np

from core import check
from core.arrays import is_cupy

COUNTS = 1 << 32  # steps, epochs: the random numbers' counter has 32 bits for them


class Config:
    """Base of the frozen configurations; PRESETS hold what differs from the defaults, the demo's."""

    PRESETS: dict = {}  # without an annotation in subclasses, where it would become a field
    DATA: dict = {}  # of presets that are for other data than the model's usual: its name in models/datasets.py
    MODEL: tuple = ()  # the fields that say what the model is; the others say how it is trained
    ZERO: tuple = ("warmup", "classes")  # integers that may be 0
    MOST: dict = {  # of integers, far above any preset
        "batch": 1 << 20,
        "channels": 1 << 12,
        "latent": 1 << 16,
        "classes": 10,  # as many as the labels of images may have
        "vocab": 1 << 20,
        "layers": 1 << 10,
        "d_model": 1 << 15,
        "heads": 1 << 10,
        "context": 1 << 17,
        "length": 1 << 15,
    }
    RANGES: dict = {  # of numbers, where they are not any of at least 0: from, to, whether without that end
        **dict.fromkeys(("dropout", "label_smoothing"), (0, 1, False)),
        **dict.fromkeys(("beta1", "beta2"), (0, 1, True)),
    }

    @classmethod
    def preset(cls, name: str, **changes):
        if name not in cls.PRESETS:
            raise ValueError(f"preset is {name!r}, should be one of {', '.join(cls.PRESETS)}")
        return cls(**{**cls.PRESETS[name], **changes})

    def __post_init__(self):
        """Refuse values that no model or recipe can have; what two of them must have in common, models check."""
        own = type(self).__name__
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if field.type in ("int", int):
                least, most = 0 if field.name in self.ZERO else 1, self.MOST.get(field.name, COUNTS - 1)
                check.count(own, field.name, value, least, most)
            elif field.type in ("float", float):
                low, high, without = self.RANGES.get(field.name, (0, check.MOST, False))
                check.number(own, field.name, value, low, high, without)
            elif not isinstance(value, str):
                check.fail(own, field.name, check.shown(value), "a text", TypeError)


def impossible(name: str, array, examples: int) -> str | None:
    """What is wrong with the values of this array of a trainer's state, in words; None where they can be."""
    array = array.get() if is_cupy(array) else array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return "has values that are not finite"
        squares = name.endswith("running_var") or (name.startswith("optim.") and name.endswith(".v"))
        return "has values below 0" if squares and (array < 0).any() else None
    most = {"rng.seed": 2**64, "data.position": examples + 1}.get(name, COUNTS) - 1
    if not ((array < 0) | (array > most)).any():
        return None
    return f"is {check.shown(array.tolist())}, should be in [0, {most}]"

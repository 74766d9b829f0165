"""The models once more, in PyTorch alone: what ours are compared with, number by number and second by second.

    counterpart = COUNTERPARTS["gan"](trainer)    the same weights, optimisers and schedule as a trainer of ours has now
    counterpart.step(batch, draws)                one training step; draws of `core.random.record` replace torch's own

Modules carry the names of ours, so that `core.interop` turns one state_dict into the other; images are channels first
inside, as torch wants them, and channels last outside.
"""

from bench.torch_models.diffusion import DiffusionCounterpart
from bench.torch_models.image import GANCounterpart, VAECounterpart
from bench.torch_models.text import GPTCounterpart, Seq2SeqCounterpart

COUNTERPARTS = {
    "gan": GANCounterpart,
    "vae": VAECounterpart,
    "gpt": GPTCounterpart,
    "seq2seq": Seq2SeqCounterpart,
    "diffusion": DiffusionCounterpart,
}

__all__ = [
    "COUNTERPARTS",
    "DiffusionCounterpart",
    "GANCounterpart",
    "GPTCounterpart",
    "Seq2SeqCounterpart",
    "VAECounterpart",
]

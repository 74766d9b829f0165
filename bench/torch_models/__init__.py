"""The models once more, in PyTorch alone: what ours are compared with, number by number and second by second.

    twin = TWINS["gan"](trainer)            the same weights, optimisers and schedule as a trainer of ours has now
    twin.step(batch, draws)                 one training step; draws from `core.random.record` replace torch's own

Modules carry the names of ours, so that `core.interop` turns one state_dict into the other; images are channels first
inside, as torch wants them, and channels last outside.
"""

from bench.torch_models.diffusion import DiffusionTwin
from bench.torch_models.image import GANTwin, VAETwin
from bench.torch_models.text import GPTTwin, Seq2SeqTwin

TWINS = {"gan": GANTwin, "vae": VAETwin, "gpt": GPTTwin, "seq2seq": Seq2SeqTwin, "diffusion": DiffusionTwin}

__all__ = ["TWINS", "DiffusionTwin", "GANTwin", "GPTTwin", "Seq2SeqTwin", "VAETwin"]

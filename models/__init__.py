"""Generative models on the engine of `core`, one file each, with the trainers that fit them.

# next: models/gan.py, models/vae.py, models/diffusion.py, models/layers/transformer.py, models/gpt.py,
# models/seq2seq.py
"""

from models.diffusion import DiffusionTrainer
from models.gan import GANTrainer
from models.gpt import GPTTrainer
from models.seq2seq import Seq2SeqTrainer
from models.vae import VAETrainer

MODELS = {trainer.kind: trainer for trainer in (GANTrainer, VAETrainer, GPTTrainer, Seq2SeqTrainer, DiffusionTrainer)}

__all__ = ["MODELS", "DiffusionTrainer", "GANTrainer", "GPTTrainer", "Seq2SeqTrainer", "VAETrainer"]

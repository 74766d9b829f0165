"""What trainers of one family share: image models take batches of pixels, text models batches of token ids.

Image models may be told classes: with `config.classes` above 0 a label comes with every image. A conditional GAN or VAE
learns p(image | label) (Mirza & Osindero 2014; Sohn et al. 2015): its networks get the label beside what they had, and
samples can be asked for by class. With `classes` 0 there are no labels anywhere.

# next: models/training/trainer.py, what all trainers share; models/gan.py and models/gpt.py, one of each family.
"""

from collections.abc import Callable

import numpy as np

from core import check, optim
from models import datasets, tokenizers
from models.datasets import check_labels, dataset
from models.training.trainer import Trainer


class ImageTrainer(Trainer):
    """A batch is (images,), float32 (N, 28, 28, 1), as `pixels` makes it from bytes (N, 28, 28)."""

    @staticmethod
    def pixels(images):
        """Bytes (N, 28, 28) -> float32 (N, 28, 28, 1) in the range that the model works in."""
        raise TypeError("this family member does not say how it scales its pixels")

    def read_data(self, source):
        return dataset(source, datasets.Images, datasets.load_images)

    def image_inputs(self):
        return {"images": self.xp.zeros((self.local, 28, 28, 1), np.float32)}

    def example(self, index):
        return (self.pixels(self.data.x_train[index]),)

    def test_batches(self):
        for i in range(0, len(self.data.x_test), self.config.batch):
            yield (self.pixels(self.data.x_test[i : i + self.config.batch]),)


def unit_pixels(images):
    """Bytes (N, 28, 28) -> float32 (N, 28, 28, 1) in [0, 1]."""
    return images[..., None].astype(np.float32) / np.float32(255)


def signed_pixels(images):
    """Bytes (N, 28, 28) -> float32 (N, 28, 28, 1) in [-1, 1]."""
    return images[..., None].astype(np.float32) / np.float32(127.5) - 1


def check_images(op, images):
    """Bytes (n, 28, 28), one image or more."""
    shape: tuple = getattr(images, "shape", ())
    dtype = getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[1:] != (28, 28) or not shape[0]:
        check.fail(op, "images", f"{dtype} of shape {shape}", "uint8 (n, 28, 28)")


class LabelTrainer(ImageTrainer):
    """A batch is (images,), or (images, labels) where there are classes: labels int64 (N,), below config.classes."""

    def read_data(self, source):
        images = super().read_data(source)
        if self.classes:
            check_labels(images.source, "train", images.y_train, len(images.x_train), self.classes)
            check_labels(images.source, "test", images.y_test, len(images.x_test), self.classes)
        return images

    def image_inputs(self):
        labels = {"labels": self.xp.zeros(self.local, np.int64)} if self.classes else {}
        return {**super().image_inputs(), **labels}

    def example(self, index):
        labels = (self.data.y_train[index].astype(np.int64),) if self.classes else ()
        return *super().example(index), *labels

    def test_batches(self):
        start = 0
        for (images,) in super().test_batches():
            labels = self.data.y_test[start : start + len(images)].astype(np.int64)
            start += len(images)
            yield (images, labels) if self.classes else (images,)

    def check_batch(self, batch):
        if self.classes:
            check.ids("feed", "labels", batch[1], self.classes)

    def labels_of(self, op, n: int, labels):
        """`labels`, one class or one for each of n images, as int64 (n,) on the device; None where there are none."""
        if not self.classes:
            if labels is not None:
                check.fail(op, "labels", check.shown(labels), "None: this model knows no classes")
            return None
        asked = np.asarray(labels)
        if asked.dtype.kind not in "iu" or asked.shape not in ((), (n,)):
            check.fail(op, "labels", check.shown(labels), f"one class, or one for each of {n} image(s)")
        check.ids(op, "labels", asked, self.classes)
        return self.xp.asarray(np.broadcast_to(asked, (n,)).astype(np.int64))

    def in_turn(self, n: int):
        """The labels that n samples have unless others are asked for: the classes, one after the other."""
        return np.arange(n) % self.classes if self.classes else None


class TokenTrainer(Trainer):
    """Batches are int64 ids (B, T) below `vocab`; AdamW with clipped gradients; the tokenizer goes into checkpoints."""

    METRICS = ("loss", "grad_norm")
    load_data: Callable  # reads the texts in a file
    vocab: int  # rows of the token table
    tokenizer: tokenizers.Characters | tokenizers.BPE

    def token_inputs(self, names, length):
        return {name: self.xp.zeros((self.local, length), np.int64) for name in names}

    def token_optimizers(self, schedule):
        """Weight decay shrinks matrices; vectors (biases, norms) it must leave alone."""
        c, named = self.config, self.model.named_parameters()
        groups = {"matrices": (2, c.weight_decay), "vectors": (1, 0.0)}
        return {
            group: optim.AdamW(
                {name: p for name, p in named.items() if min(p.ndim, 2) == ndim},
                schedule,
                (0.9, c.beta2),
                weight_decay=decay,
            )
            for group, (ndim, decay) in groups.items()
        }

    def check_vocab(self):
        if self.vocab < self.tokenizer.size:
            check.fail(self.Config.__name__, "vocab", self.vocab, f"at least the tokenizer's {self.tokenizer.size}")

    def check_batch(self, batch):
        """Refuse ids outside [0, vocab) while they are still on the host."""
        for name, ids in zip(self.inputs, batch):
            if ids.min() < 0 or ids.max() >= self.vocab:
                raise ValueError(
                    f"feed: {name} has ids from {ids.min()} to {ids.max()}, should be in [0, {self.vocab})"
                )

    def metadata(self):
        return {**super().metadata(), "tokenizer": self.tokenizer.to_json()}

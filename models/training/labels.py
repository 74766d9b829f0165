"""Image models that may be told classes: with `config.classes` above 0 a label comes with every image.

A conditional GAN or VAE learns p(image | label) (Mirza & Osindero 2014; Sohn et al. 2015): its networks get the label
beside what they had, and samples can be asked for by class. With `classes` 0 there are no labels anywhere.
"""

import numpy as np

from core import check
from models.datasets import check_labels
from models.training.families import ImageTrainer


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

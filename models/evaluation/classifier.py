"""A small classifier of 28x28 images: the eye that evaluation looks at samples with.

    python -m models.evaluation.classifier                   trains on the carried MNIST excerpt, writes it to
    models/data python -m models.evaluation.classifier --data D --out F  trains on other images

Distances between pixels see shifts and strokes' widths; the 128 features before the classes see what a digit is. The
place that an Inception network has for photographs (Heusel et al. 2017) has here a network trained on such images.
Figures in one classifier's features cannot be compared with figures in another's.
# next: models/evaluation/frechet.py
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import core.functional as F
from core import Generator, check, checkpoint, nn, no_grad, optim
from core.checkpoint import CheckpointError
from models import datasets
from models.training.commands import Parser
from models.training.config import Config
from models.training.families import ImageTrainer, unit_pixels
from models.training.progress import progress
from models.training.train import ERRORS, exit_code, in_words

CARRIED = "classifier.safetensors"
FEATURES, CLASSES = 128, 10
BLOCK = 250  # images looked at together


@dataclass(frozen=True)
class ClassifierConfig(Config):
    dropout: float = 0.5
    lr: float = 2e-3  # falls to 0 along half a cosine
    batch: int = 64
    steps: int = 3000

    PRESETS = {"demo": {}}


class Classifier(nn.Module):
    """Images (N, 28, 28, 1) in [0, 1] -> logits (N, 10)."""

    def __init__(self, dropout=0.0):
        down = {"stride": 2, "padding": 2, "act": "relu"}
        self.conv1 = nn.Conv2d(1, 32, 5, **down)
        self.conv2 = nn.Conv2d(32, 64, 5, **down)
        self.dense = nn.Linear(3136, FEATURES, act="relu")
        self.out = nn.Linear(FEATURES, CLASSES)
        self.drop = nn.Dropout(dropout)

    def features(self, x):
        x = self.conv1(x)  # (N, 14, 14, 32)
        x = self.conv2(x)  # (N, 7, 7, 64)
        return self.dense(self.drop(x.reshape(len(x), -1)))  # (N, 128)

    def forward(self, x):
        return self.out(self.drop(self.features(x)))  # (N, 10)


class ClassifierTrainer(ImageTrainer):
    """Trains Classifier; a batch is (images, labels): float32 (N, 28, 28, 1) in [0, 1] and int64 (N,)."""

    kind, Config, METRICS = "classifier", ClassifierConfig, ("loss",)
    model: Classifier
    pixels = staticmethod(unit_pixels)

    def build(self):
        c = self.config
        self.model = Classifier(c.dropout)
        self.optimizers = {"classifier": optim.Adam(self.model.named_parameters(), optim.cosine(c.lr, c.steps))}
        self.inputs = {**self.image_inputs(), "labels": self.xp.zeros(c.batch, np.int64)}

    def example(self, index):
        """Each image moved by up to 2 pixels either way, in each epoch another of the 25 ways."""
        ways = (index + 7 * int(self.order.epoch)) % 25
        x = [np.roll(self.data.x_train[i], (w // 5 - 2, w % 5 - 2), (0, 1)) for i, w in zip(index, ways)]
        return self.pixels(np.stack(x)), self.data.y_train[index].astype(np.int64)

    def train_step(self, images, labels):
        optimizer = self.optimizers["classifier"]
        optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.losses[0] = loss.data
        optimizer.step()


def train(images, config=None, seed: int = 0) -> Classifier:
    """A classifier of these images (models.datasets.Images), with a progress bar."""
    trainer = ClassifierTrainer(config, seed=seed, data=images)
    batches = trainer.batches("train")
    for _ in progress(range(trainer.config.steps), desc="classifier", unit="step"):
        trainer.step(next(batches), read=False)
    return trainer.model.eval()


def look(model, images) -> tuple:
    """Images (n, 28, 28) in [0, 1] -> (features (n, 128), probabilities (n, 10)), float64.

    Features are scaled to a mean square of 1. What the classifier is unsure of has short ones, which lie near to all
    others: with their lengths kept, digits under heavy noise had a precision above real digits'.
    """
    check.matches("look", "an image", images.shape[1:], (28, 28))
    found = []
    with no_grad():
        for i in range(0, len(images), BLOCK):
            h = model.features(images[i : i + BLOCK, ..., None].astype(np.float32))
            found.append((h.numpy(), F.softmax(model.out(h), -1).numpy()))
    features, probabilities = (np.concatenate(part).astype(np.float64) for part in zip(*found))
    lengths = np.sqrt((features**2).mean(1, keepdims=True))
    return features / np.maximum(lengths, 1e-12), probabilities


def accuracy(model, images, labels) -> float:
    """The share of images, bytes (n, 28, 28), that are given their label."""
    return float((look(model, images / 255.0)[1].argmax(1) == labels).mean())


def save(path, model, about: dict):
    """Write the weights as float16, which halves the file; `about` says what they were trained on."""
    arrays = {name: a.astype(np.float16) for name, a in model.state_dict().items()}
    checkpoint.save(path, arrays, {"kind": "classifier", **about})


def load(path) -> tuple:
    """(classifier, what `save` was told about it); raises CheckpointError where the file is no classifier's."""
    with Generator(0):
        model = Classifier().eval()
    own = model.state_dict()
    arrays, about = checkpoint.load(path, most=sum(a.nbytes for a in own.values()))
    if about.get("kind") != "classifier":
        raise CheckpointError(f"{path}: holds a {check.shown(about.get('kind'))}, should be a 'classifier'")
    checkpoint.restore(own, {name: a.astype(np.float32) for name, a in arrays.items()}, str(path))
    return model, about


def for_images(images, cache) -> Classifier:
    """The carried classifier for the carried images; for others one trained on them, kept in the file `cache`."""
    if images.source == datasets.FOLDER / datasets.CARRIED["gan"]:
        return load(datasets.carried(CARRIED))[0]
    seen = fingerprint(images)
    if Path(cache).exists():
        model, about = load(cache)
        if about.get("images") == seen:
            return model
    model = train(images)
    save(cache, model, {"images": seen, "accuracy": accuracy(model, images.x_test, images.y_test)})
    return load(cache)[0]


def fingerprint(images) -> str:
    """A checksum of the training images and labels."""
    return checkpoint.checksum(
        {"x": np.ascontiguousarray(images.x_train), "y": np.ascontiguousarray(images.y_train)}, ""
    )


def main(arguments=None) -> int:
    parser = Parser(prog="python -m models.evaluation.classifier", description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz or a folder of IDX files; default: the carried MNIST excerpt")
    parser.add_argument(
        "--out", default=datasets.FOLDER / CARRIED, help="file to write; default: models/data/" + CARRIED
    )
    args = parser.parse_args(arguments)
    try:
        images = datasets.load_images(args.data)
        model = train(images)
        save(args.out, model, {"images": fingerprint(images)})
        model = load(args.out)[0]  # as it is on disk, rounded
        print(f"{args.out}: accuracy {accuracy(model, images.x_test, images.y_test):.4f} on the test images")
    except KeyboardInterrupt as interrupt:
        return exit_code(interrupt)
    except ERRORS as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

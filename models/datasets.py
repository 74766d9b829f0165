"""Data sets: the files that the project carries, and readers for a user's own.

    images   the carried excerpt of MNIST, or of Fashion-MNIST under the name "fashion"; an .npz with x_train, y_train,
             x_test, y_test; or a folder with the four IDX files of MNIST or Fashion-MNIST, plain or gzipped
    text     the carried plays, or the carried poems under the name "poems", of which every tenth is held out; or one
             UTF-8 file, split 90 % / 10 %
    pairs    the carried verses; or a TSV whose last two columns are source and target

A file that is called like one of the names is ./fashion or ./poems.
Whatever is wrong with a file gives a DataError of one line that names the file.
"""

import gzip
import hashlib
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import random
from core.arrays import one_line

CARRIED = {
    "gan": "mnist_small.npz",
    "vae": "mnist_small.npz",
    "diffusion": "mnist_small.npz",
    "gpt": "shakespeare_small.txt",
    "seq2seq": "bible_en_es_short.tsv",
}
NAMED = {"fashion": "fashion_small.npz", "poems": "chinese_poems.tsv"}  # carried too, for those who name it
FOLDER = Path(__file__).parent / "data"
SIDE = 28  # pixels; the models' shapes follow from it
MOST_BYTES = 1 << 32  # no file or array larger than this is read into memory


class DataError(ValueError):
    """A data file that is missing, damaged or not what it should be."""


def checksum(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def carried(name: str) -> Path:
    """The path of a file that the project carries, its checksum verified."""
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    sums = {file: digest for digest, file in map(str.split, lines)}
    path = FOLDER / name
    if not path.exists() or checksum(path) != sums[name]:
        raise DataError(f"{path}: missing or changed since it was published (see SHA256SUMS)")
    return path


def located(path, kind: str) -> Path:
    """The file that `path` stands for: what is carried for a kind of model (None), or under a name, or itself."""
    if path is None or (isinstance(path, str) and path in NAMED):
        return carried(CARRIED[kind] if path is None else NAMED[path])
    return Path(path)


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as f:
            content = f.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read ({reason})") from None
    if len(content) > MOST_BYTES:
        raise DataError(f"{path}: holds more than {MOST_BYTES >> 30} GiB")
    return content


# --- images ----------------------------------------


@dataclass(frozen=True)
class Images:
    """Images (N, 28, 28) uint8 and labels (N,) in 0..9, for training and testing; where they came from."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: Path


def read_idx(path: Path) -> np.ndarray:
    """One array of unsigned bytes in the IDX format of MNIST: magic 0 0 8 ndim, lengths (big-endian), the bytes."""
    content = read_bytes(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    ndim = content[3]
    if len(content) < 4 + 4 * ndim:
        raise DataError(f"{path}: ends within its header")
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    size, present = int(np.prod(shape, dtype=object)), len(content) - 4 - 4 * ndim
    if size != present:
        raise DataError(f"{path}: its header promises {size} bytes, it holds {present}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _read_idx_folder(folder: Path):
    for name in IDX_FILES:
        found = [p for p in (folder / name, folder / f"{name}.gz") if p.exists()]
        if not found:
            raise DataError(f"{folder}: has no {name} or {name}.gz")
        yield read_idx(found[0])


def _read_npz(path: Path):
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            large = [i.filename for i in archive.zip.infolist() if i.file_size > MOST_BYTES]
            missing = [n for n in names if n not in archive]
            if large or missing:
                raise DataError(f"{path}: {'has no ' + missing[0] if missing else large[0] + ' is too large'}")
            return [archive[n] for n in names]
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's parser of headers raise a dozen kinds on a damaged file
        raise DataError(f"{path}: not an .npz of images ({one_line(error) or type(error).__name__})") from None


def load_images(path=None) -> Images:
    """Images from `path` (an .npz, or a folder of IDX files), or "fashion"; the carried MNIST excerpt without one."""
    path = located(path, "gan")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    x_train, y_train, x_test, y_test = _read_idx_folder(path) if path.is_dir() else _read_npz(path)
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE) or not len(x):
            raise DataError(f"{path}: {name} images are {x.dtype} {x.shape}, should be uint8 (N, {SIDE}, {SIDE})")
        check_labels(path, name, y, len(x))
    return Images(x_train, y_train, x_test, y_test, path)


def check_labels(source, name, y, n, classes=10):
    integers = getattr(y, "shape", None) == (n,) and y.dtype.kind in "iu"
    if not integers or y.min() < 0 or y.max() >= classes:
        raise DataError(f"{source}: {name} labels should be {n} integers from 0 to {classes - 1}")


# --- text ----------------------------------------


def _decode(path: Path) -> str:
    try:
        text = read_bytes(path).decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


@dataclass(frozen=True)
class Text:
    """The first 90 % of a text for training, the last 10 % held out."""

    train: str
    test: str
    source: Path
    tokenizer: object = None  # one that a run was started with; None: make one


@dataclass(frozen=True)
class Poems(Text):
    """Poems one after the other: title and author in a line, then a sentence a line, then an empty line."""


def load_text(path=None) -> Text:
    """The text in `path`, or "poems"; the carried plays without one."""
    name, path = path, located(path, "gpt")
    text = _decode(path)
    if name == "poems":
        poems = [_poem(*line.split("\t")) for line in text.splitlines()]
        train = [poem for i, poem in enumerate(poems) if i % 10 != 9]
        return Poems("".join(train), "".join(poems[9::10]), path)
    cut = int(len(text) * 0.9)
    return Text(text[:cut], text[cut:], path)


def _poem(collection, title, author, body) -> str:
    sentences = re.findall("[^。？！]+[。？！]", body)
    return "\n".join([f"{title} {author}", *sentences]) + "\n\n"


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs (source, target); every tenth is held out, and no sentence stands on both sides of the split."""

    train: list
    test: list
    source: Path
    tokenizer: object = None  # one that a run was started with; None: make one


def load_pairs(path=None) -> Pairs:
    """Pairs from a TSV; a pair of which either sentence was seen before is left out, so the split leaks nothing."""
    path = carried(CARRIED["seq2seq"]) if path is None else Path(path)
    pairs: list = []
    seen: set = set()
    for number, line in enumerate(_decode(path).split("\n"), 1):
        if not line.strip():
            continue
        columns = [c.strip() for c in line.split("\t")]
        if len(columns) < 2 or not columns[-1] or not columns[-2]:
            raise DataError(f"{path}: line {number} should have a source and a target, separated by a tab")
        pair = (columns[-2], columns[-1])
        if not seen.intersection((("source", pair[0]), ("target", pair[1]))):
            pairs.append(pair)
        seen.update((("source", pair[0]), ("target", pair[1])))
    if len(pairs) < 10:
        raise DataError(f"{path}: has {len(pairs)} different pairs, should have at least 10")
    return Pairs([p for i, p in enumerate(pairs) if i % 10 != 9], pairs[9::10], path)


# --- order ----------------------------------------


class Order:
    """Endless batches of indices: a new shuffle of range(n) for each epoch, a pure function of (seed, epoch).

    Of each batch only the examples of `share`, (first, last), are given: other ranks have the others. Where it stands
    is two 0-dimensional arrays, `epoch` and `position`, which checkpoints keep, and which are those of all ranks."""

    def __init__(self, n: int, batch: int, seed: int, share: tuple | None = None):
        if n < batch:
            raise DataError(f"the training set has {n} examples, should have at least a batch of {batch}")
        self.n, self.batch, self.seed, self.share = n, batch, seed, share or (0, batch)
        self.epoch, self.position = np.zeros((), np.int64), np.zeros((), np.int64)
        self._shuffled: tuple = (None, None)  # (seed, epoch) and its permutation

    def next(self) -> np.ndarray:
        """The next batch of indices; the incomplete rest of an epoch is left out."""
        if self.position + self.batch > self.n:
            self.epoch += 1
            self.position[...] = 0
        epoch, start = int(self.epoch), int(self.position)
        if self._shuffled[0] != (self.seed, epoch):
            self._shuffled = (self.seed, epoch), random.permutation(self.n, self.seed, epoch)
        self.position += self.batch
        first, last = self.share
        return self._shuffled[1][start + first : start + last]


def dataset(data, kind, load):
    """`data` itself where it is loaded already, else what `load` reads from that path."""
    if isinstance(data, kind):
        return data
    if data is not None and not isinstance(data, str) and not hasattr(data, "__fspath__"):
        raise DataError(f"data is a {type(data).__name__}, should be a path, None or {kind.__name__}")
    return load(data)

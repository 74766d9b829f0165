"""Files that are almost right: small valid ones of every kind that is read, and what may happen to their bytes.

A damaged file is a valid one that was cut, had bytes inserted, removed, doubled or overwritten, most often where its
header is, or whose numbers were made absurd; or it never was one.
"""

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np

from core import checkpoint
from models import MODELS, datasets, tokenizers
from models.training.runs import Run, RunError

IMAGES = np.arange(3 * 784, dtype=np.uint64).reshape(3, 28, 28).astype(np.uint8)
LABELS = np.array([0, 9, 4], np.uint8)
LINES = "\n".join(f"word {i}\tpalabra {i} é" for i in range(12))


def idx() -> bytes:
    return bytes([0, 0, 8, 3]) + struct.pack(">3I", *IMAGES.shape) + IMAGES.tobytes()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2])
    return file.getvalue()


def saved(folder: Path) -> bytes:
    arrays = {"a": np.ones((2, 3), np.float32), "step": np.array(3), "none": np.zeros((0, 2))}
    checkpoint.save(folder / "valid", arrays, {"kind": "gan", "config": {"batch": 4}})
    return (folder / "valid").read_bytes()


def settings(folder: Path) -> bytes:
    run = Run.create(folder / "run", "gan", "demo", MODELS["gan"].Config(), 0, None)
    return json.dumps(run.settings, indent=1).encode()


def read_settings(path: Path):
    path.replace(path.parent / "config.json")
    return Run.open(path.parent)


def read_tokenizer(path: Path):
    return tokenizers.from_json(path.read_text(encoding="utf-8"))


def kinds(folder: Path) -> dict:
    """{kind: (valid content, reader, the errors it documents)}"""
    characters, pairs = tokenizers.Characters.of("abc é\n").to_json(), tokenizers.BPE.of([LINES], 300).to_json()
    return {
        "idx": (idx(), datasets.read_idx, datasets.DataError),
        "idx.gz": (gzip.compress(idx()), datasets.read_idx, datasets.DataError),
        "npz": (npz(), datasets.load_images, datasets.DataError),
        "text": (LINES.encode(), datasets.load_text, datasets.DataError),
        "pairs": (LINES.encode(), datasets.load_pairs, datasets.DataError),
        "characters": (characters.encode(), read_tokenizer, ValueError),
        "bpe": (pairs.encode(), read_tokenizer, ValueError),
        "checkpoint": (saved(folder), checkpoint.load, checkpoint.CheckpointError),
        "settings": (settings(folder), read_settings, RunError),
    }


ABSURD = [struct.pack(f, v) for f in (">I", "<I", ">Q", "<Q") for v in (0, 1, 2**31, 2**32 - 1)]
ABSURD += [struct.pack(f, v) for f in (">Q", "<Q") for v in (2**60, 2**63, 2**64 - 1)]
NUMBERS = [b"-1", b"0", b"99999999999999999999", b"1e999", b"NaN", b"1152921504606846976", b"null", b"[]", b'"x"']
WORDS = [
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\t",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"(",
    b"\\u",
    b"\x1f\x8b",
]


def damaged(content: bytes, rng) -> bytes:
    """The content after one to three accidents; sometimes bytes that never were a file of this kind."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.choice((0, 1, 7, 64, 500)))
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(ACCIDENTS)(content, _place(content, rng), rng)
    return content


def _place(content, rng):
    """Where: half the time in the first bytes, where a header is, or in the last, where a zip's directory is."""
    n = len(content)
    return rng.choice(
        (rng.randint(0, min(n, 80)), rng.randint(0, n), rng.randint(0, n), max(0, n - rng.randint(0, 120)))
    )


def _overwritten(content, i, rng):
    new = rng.choice((rng.choice(ABSURD), rng.randbytes(rng.randint(1, 4))))
    return content[:i] + new + content[i + len(new) :]


def _numbered(content, i, rng):
    """The next number in the content is another one."""
    while i < len(content) and not content[i : i + 1].isdigit():
        i += 1
    end = i
    while end < len(content) and content[end : end + 1].isdigit():
        end += 1
    return content[:i] + rng.choice(NUMBERS) + content[end:]


ACCIDENTS = [
    lambda c, i, rng: c[:i],
    lambda c, i, rng: c[:i] + rng.choice(WORDS) + c[i:],
    lambda c, i, rng: c[:i] + c[i + rng.randint(1, 40) :],
    lambda c, i, rng: c[:i] + c[i : i + rng.randint(1, 40)] * 2 + c[i:],
    lambda c, i, rng: c[:i] + bytes([(c[i] if i < len(c) else 0) ^ 1 << rng.randint(0, 7)]) + c[i + 1 :],
    _overwritten,
    _numbered,
]

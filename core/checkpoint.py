"""Checkpoints: named arrays in a safetensors file, written so that a crash at any moment loses nothing.

A file is written under a temporary name, forced to disk, and renamed; the one it replaces becomes `previous`. So at
every moment at least one complete checkpoint exists, and `load` never sees half a file. A checksum over everything in
it shows what a disk or a transfer has altered; it is no signature. Nothing in a file is ever executed: safetensors is
numbers and JSON.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save as to_bytes

from core.arrays import array_module, is_cupy
from core.check import shown

FORMAT = "2"  # "1" had no checksum and is still read; a later one would translate older names where `load` looks at it
MOST_HEADER = 100_000_000  # bytes; safetensors itself takes no longer one
NOT_OURS = (ValueError, TypeError, AttributeError, RecursionError)  # raised by foreign dtypes, shapes and JSON


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message is one clear line."""


class UnreadableError(CheckpointError):
    """A checkpoint that is missing or damaged, so that an older one may help."""


def write_atomically(path, content: bytes, keep=None):
    """Replace `path` by `content`, all or nothing; the old file moves to `keep` where that is given."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: a crash leaves at most one, and the next write takes it
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder):
    """Force the renames themselves to disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(path, arrays: dict, metadata: dict | None = None, keep=None):
    """Write {name: array} to `path` atomically; metadata is anything JSON can hold."""
    host = {name: np.ascontiguousarray(a.get() if is_cupy(a) else a).reshape(a.shape) for name, a in arrays.items()}
    text = {"format": FORMAT, "metadata": json.dumps(metadata or {})}
    text["crc32"] = checksum(host, text["metadata"])
    write_atomically(path, to_bytes(host, text), keep)


def checksum(arrays: dict, metadata: str) -> str:
    """CRC-32 over the metadata and, by name, every array's name, dtype, shape and bytes (0.15 s a GB)."""
    total = zlib.crc32(metadata.encode())
    for name, a in sorted(arrays.items()):
        total = zlib.crc32(a, zlib.crc32(f"{name} {a.dtype} {a.shape}".encode(), total))
    return f"{total:08x}"


def load(path, most: int | None = None) -> tuple[dict, dict]:
    """({name: NumPy array}, metadata). Raises UnreadableError where the file is missing or damaged, CheckpointError
    where it is none of ours, or has more than `most` bytes of arrays: those are not read."""
    path = Path(path)
    if not path.is_file():
        raise UnreadableError(f"{path}: no such checkpoint")
    if most is not None and path.stat().st_size > most + MOST_HEADER:
        raise CheckpointError(f"{path}: has {path.stat().st_size:,} bytes, should have about {most:,}")
    try:
        with safetensors.safe_open(path, framework="np") as f:
            text = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dictionary)
        metadata = json.loads(text.get("metadata", "{}"))
    except (safetensors.SafetensorError, FileNotFoundError, *NOT_OURS) as error:
        raise UnreadableError(f"{path}: not a readable checkpoint ({shown(error)})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({shown(error)})") from None
    _check_text(path, text, metadata, arrays)
    return arrays, metadata


def _check_text(path, text, metadata, arrays):
    """Refuse another format, metadata that is not an object, and content that is not what was written."""
    if text.get("format") not in ("1", FORMAT):
        raise CheckpointError(f"{path}: format is {shown(text.get('format'))}, this version reads '1' and '{FORMAT}'")
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its metadata is {shown(metadata)}, should be an object")
    if text["format"] == FORMAT and text.get("crc32") != checksum(arrays, text.get("metadata", "{}")):
        raise UnreadableError(f"{path}: damaged (its content is not what was written, by the checksum)")


def restore(own: dict, arrays: dict, source="checkpoint"):
    """Write `arrays` into the live arrays `own`. Nothing is written unless names, shapes and dtypes all fit."""
    missing, extra = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(
            f"{source}: missing {shown(missing[:3] or 'nothing')}, unexpected {shown(extra[:3] or 'nothing')}"
        )
    for name, a in own.items():
        b = arrays[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise CheckpointError(f"{source}: {name} is {b.dtype} of shape {b.shape}, should be {a.dtype} {a.shape}")
    for name, a in own.items():
        a[...] = array_module(a).asarray(arrays[name])

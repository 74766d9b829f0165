"""Checkpoints: named arrays in a safetensors file, written so that a crash at any moment loses nothing.

A file is written under a temporary name, forced to disk, and renamed; the one it replaces becomes `previous`. So at
every moment at least one complete checkpoint exists, and `load` never sees half a file.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save as to_bytes

from core.arrays import array_module, is_cupy

FORMAT = "1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message is one clear line."""


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
    finally:
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
    write_atomically(path, to_bytes(host, text), keep)


def load(path) -> tuple[dict, dict]:
    """({name: NumPy array}, metadata). Raises CheckpointError where the file is missing, damaged or no checkpoint."""
    try:
        with safetensors.safe_open(path, framework="np") as f:
            text = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dictionary)
        metadata = json.loads(text.get("metadata", "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from None
    if text.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {text.get('format')!r}, this version reads {FORMAT!r}")
    return arrays, metadata


def restore(own: dict, arrays: dict, source="checkpoint"):
    """Write `arrays` into the live arrays `own`. Nothing is written unless names, shapes and dtypes all fit."""
    missing, extra = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(f"{source}: missing {missing[:3] or 'nothing'}, unexpected {extra[:3] or 'nothing'}")
    for name, a in own.items():
        b = arrays[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise CheckpointError(f"{source}: {name} is {b.dtype} of shape {b.shape}, should be {a.dtype} {a.shape}")
    for name, a in own.items():
        a[...] = array_module(a).asarray(arrays[name])

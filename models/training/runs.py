"""Run folders: what a training run leaves on disk, in an order that survives a crash at any moment.

    config.json              written first: model, preset, config, seed, data, versions, threads, device
    tokenizer.json           text models
    checkpoint.safetensors   the last complete checkpoint;  previous.safetensors  the one before
    metrics.jsonl            one line a step; cut back to the checkpoint's step on resume
    samples/  loss.png       pictures or texts along the way, and the curves

All of these but metrics.jsonl are written under another name first. One process at a time may train in a folder: it
holds a lock that the system releases when it dies. Others may look: what they open is complete.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from core import checkpoint
from core.arrays import module_for
from core.check import shown
from core.checkpoint import UnreadableError
from core.runtime import threads
from models import MODELS, datasets, tokenizers
from models.training.families import TokenTrainer

FORMAT = 1
# What config.json says: the type of each.
SETTINGS = {"format": int, "model": str, "preset": str, "config": dict, "seed": int, "data": dict, "versions": dict}
SETTINGS |= {"threads": int}
MOST_JSON = 1 << 26  # bytes of a file of settings, or of a tokenizer


class RunError(ValueError):
    """A run folder that cannot be used as asked; the message is one clear line."""


class Run:
    """A run folder, `folder`, and the settings in its config.json, `settings`."""

    def __init__(self, folder, settings: dict):
        self.folder, self.settings = Path(folder), settings
        self.checkpoint, self.previous = (self.folder / f"{n}.safetensors" for n in ("checkpoint", "previous"))
        self.metrics, self.samples = self.folder / "metrics.jsonl", self.folder / "samples"
        self._lock: TextIO | None = None  # held while training
        self._damaged = False  # the newest checkpoint could not be read; it must not replace the one before

    @classmethod
    def open(cls, folder) -> "Run":
        """A run that was started before."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise RunError(f"{folder}: not a run folder (it has no config.json)")
        try:
            settings = json.loads(_read(path))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path}: cannot be read ({shown(error)})") from None
        wrong = _unknown(settings)
        if wrong:
            raise RunError(f"{path}: not the settings of a run that this version knows ({wrong})")
        return cls(folder, settings)

    @classmethod
    def create(cls, folder, kind, preset, config, seed, data_path, device="cpu", precision="fp32", **ranks) -> "Run":
        """A new run; refuses a folder that holds a checkpoint. `ranks`: how many there are, and what they are told."""
        settings = {
            "format": FORMAT,
            "model": kind,
            "preset": preset,
            "config": dataclasses.asdict(config),
            "seed": seed,
            "data": describe_data(kind, data_path),
            "versions": versions(),
            "threads": threads.COUNT,  # part of what makes two runs bit for bit the same
            "device": describe_device(device),  # so is this
            "precision": precision,
            **ranks,
        }
        run = cls(folder, settings)
        run.refuse_if_saved()
        run.samples.mkdir(parents=True, exist_ok=True)
        return run

    def refuse_if_saved(self):
        if self.saved():
            raise RunError(
                f"{self.folder}: already holds a run; continue it with --resume {self.folder}, or name another folder"
            )

    def clear(self):
        """Remove what a run that never reached its first checkpoint left here."""
        self.refuse_if_saved()
        for path in (self.folder / "tokenizer.json", self.folder / "loss.png", self.metrics, *self.samples.iterdir()):
            path.unlink(missing_ok=True)

    def write_settings(self):
        self._write("config.json", json.dumps(self.settings, indent=2))

    def _write(self, name, content: str):
        checkpoint.write_atomically(self.folder / name, content.encode("utf-8"))

    def saved(self) -> Path | None:
        """The newest complete checkpoint, or None. Between two renames only `previous` is there."""
        return next((p for p in (self.checkpoint, self.previous) if p.exists()), None)

    @contextlib.contextmanager
    def locked(self):
        """`with run.locked():` refuses if another process writes to this folder."""
        with open(self.folder / ".lock", "w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.folder}: another process is training in this folder") from None
            self._lock = f
            try:
                self.check_lock()
                yield self
            finally:
                self._lock = None

    def check_lock(self):
        """Refuse to write where the folder has gone, or where another has taken its place, perhaps with a run in it."""
        try:
            same = self._lock and os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.folder / ".lock"))
        except OSError:
            same = False
        if not same:
            raise RunError(f"{self.folder}: was removed or replaced while this process was training in it")

    def trainer(self, device="cpu", ranks=None, **changes):
        """The trainer these settings describe, at its newest checkpoint; `changes` go to its config, `ranks` (its
        group, accumulate and sync_batch_norm) to itself: for looking at a run one process will do."""
        kind, described = MODELS[self.settings["model"]], self.settings["data"]
        if describe_data(kind.kind, described["path"])["sha256"] != described["sha256"]:
            raise RunError(f"{described['path'] or 'the carried data'}: changed since {self.folder} was started")
        options = {"seed": self.settings["seed"], "precision": self.settings.get("precision", "fp32")}
        trainer = kind(self.config(**changes), device=device, data=self._data(kind), **options, **(ranks or {}))
        if self.saved():
            self._load(trainer)
        return trainer

    def config(self, **changes):
        """The configuration these settings describe."""
        try:
            return MODELS[self.settings["model"]].Config(**{**self.settings["config"], **changes})
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.folder}/config.json: {shown(error)}") from None

    def _load(self, trainer):
        """Bring `trainer` to the newest checkpoint; to the one before, with a note, where that cannot be read."""
        try:
            trainer.load(self.checkpoint)
        except UnreadableError as error:
            self._damaged = self.checkpoint.exists()
            if not self.previous.exists():
                raise
            try:
                trainer.load(self.previous)
            except UnreadableError as other:
                raise RunError(f"{error}; {other}") from None
            if self._damaged:
                note(f"{error}; going back to {self.previous}, step {trainer.steps}")

    def _data(self, kind):
        """The data's path, or the text with the tokenizer that the run was started with."""
        path, saved = self.settings["data"]["path"], self.folder / "tokenizer.json"
        if not issubclass(kind, TokenTrainer) or not saved.exists():
            return path
        return dataclasses.replace(kind.load_data(path), tokenizer=_tokenizer(saved))

    def write_tokenizer(self, trainer):
        if hasattr(trainer, "tokenizer"):
            self._write("tokenizer.json", trainer.tokenizer.to_json())

    def save(self, trainer):
        """Write the newest checkpoint; the one it replaces becomes `previous`, unless it was found damaged."""
        self.check_lock()
        trainer.save(self.checkpoint, keep=None if self._damaged else self.previous)
        self._damaged = False

    def cut_metrics(self, steps: int, names):
        """Keep the lines of `names` up to the checkpoint's step: no later ones, and no half one a crash has left."""
        kept, names = [], {"step", "seconds", *names}
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    record = json.loads(line)
                    whole = isinstance(record, dict) and record.keys() == names
                    if whole and all(isinstance(v, int | float) for v in record.values()) and record["step"] <= steps:
                        kept.append(line)
        self._write("metrics.jsonl", "".join(line + "\n" for line in kept))


def _unknown(settings) -> str | None:
    """What in these settings this version does not know, in words."""
    if not isinstance(settings, dict):
        return f"{shown(settings)}, should be an object"
    for name, kind in SETTINGS.items():
        if not isinstance(settings.get(name), kind):
            return f"{name} is {shown(settings.get(name))}, should be of type {kind.__name__}"
    if settings["format"] != FORMAT:
        return f"format is {settings['format']}, should be {FORMAT}"
    if settings["model"] not in MODELS:
        return f"model is {shown(settings['model'])}, should be one of {', '.join(MODELS)}"
    path, digest = settings["data"].get("path"), settings["data"].get("sha256")
    if not isinstance(path, str | None) or not isinstance(digest, str):
        return f"data is {shown(settings['data'])}, should be a path or null, and a sha256"
    return None


def _read(path) -> str:
    """A small file's text."""
    with open(path, "rb") as f:
        content = f.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise ValueError(f"has more than {MOST_JSON >> 20} MiB")
    return content.decode("utf-8")


def _tokenizer(path):
    """The tokenizer in a file; the library raises bare Exceptions at what is none."""
    try:
        return tokenizers.from_json(_read(path))
    except Exception as error:
        raise RunError(f"{path}: not a tokenizer ({type(error).__name__}: {shown(error)})") from None


def note(line):
    print(line, file=sys.stderr)


def describe_data(kind, path) -> dict:
    """{"path", "sha256"} of a file or of a folder's IDX files; path None is the data carried for that kind of model.

    A name of carried data (models/datasets.py) stays a name; pairs have none."""
    if path is None or (path in datasets.NAMED and kind != "seq2seq"):
        return {"path": path, "sha256": datasets.checksum(datasets.located(path, kind))}
    path = Path(path)
    if not (path.is_file() or path.is_dir()):  # a device, say, would be read without end
        raise datasets.DataError(f"{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.removesuffix(".gz") in datasets.IDX_FILES)
    sums = "".join(datasets.checksum(p) for p in files)
    return {"path": str(path.resolve()), "sha256": hashlib.sha256(sums.encode()).hexdigest()}


def describe_device(device) -> str:
    """The processor's or the GPU's name: libraries choose their loops by it."""
    if device != "cpu":
        return module_for(device).cuda.runtime.getDeviceProperties(0)["name"].decode()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as f:
        return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    return platform.machine()


def versions() -> dict:
    found = {"python": platform.python_version()}
    for name in ("numpy", "numba", "scipy", "cupy-cuda13x", "tokenizers", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

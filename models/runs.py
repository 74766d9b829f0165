"""Run folders: what a training run leaves on disk, in an order that survives a crash at any moment.

    config.json              written first: model, preset, config, seed, data, versions, threads, device
    tokenizer.json           text models
    checkpoint.safetensors   the last complete checkpoint;  previous.safetensors  the one before
    metrics.jsonl            one line a step; cut back to the checkpoint's step on resume
    samples/  loss.png       pictures or texts along the way, and the curves

One process at a time may write to a folder: it holds a lock that the system releases when it dies.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import checkpoint, threads
from core.arrays import module_for
from models import MODELS, data, text

FORMAT = 1


class RunError(ValueError):
    """A run folder that cannot be used as asked; the message is one clear line."""


class Run:
    """A run folder, `folder`, and the settings in its config.json, `settings`."""

    def __init__(self, folder, settings: dict):
        self.folder, self.settings = Path(folder), settings
        self.checkpoint, self.previous = (self.folder / f"{n}.safetensors" for n in ("checkpoint", "previous"))
        self.metrics, self.samples = self.folder / "metrics.jsonl", self.folder / "samples"
        self._lock = None

    @classmethod
    def open(cls, folder) -> "Run":
        """A run that was started before."""
        path = Path(folder) / "config.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{folder}: not a run folder (it has no config.json)") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error})") from None
        names = {"format", "model", "preset", "config", "seed", "data", "versions", "threads"}
        known = isinstance(settings, dict) and names <= settings.keys()
        if not known or settings["format"] != FORMAT or settings["model"] not in MODELS:
            raise RunError(f"{path}: not the settings of a run that this version knows")
        return cls(folder, settings)

    @classmethod
    def create(cls, folder, kind, preset, config, seed, data_path, device="cpu") -> "Run":
        """A new run; refuses a folder that holds a checkpoint."""
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
            yield self

    def trainer(self, device="cpu", **changes):
        """The trainer these settings describe, at its newest checkpoint; `changes` go to its config."""
        kind, described = MODELS[self.settings["model"]], self.settings["data"]
        if describe_data(kind.kind, described["path"])["sha256"] != described["sha256"]:
            raise RunError(f"{described['path'] or 'the carried data'}: changed since {self.folder} was started")
        try:
            config = kind.Config(**{**self.settings["config"], **changes})
        except TypeError as error:
            raise RunError(f"{self.folder}/config.json: {error}") from None
        trainer = kind(config, seed=self.settings["seed"], device=device, data=self._data(kind))
        if self.saved():
            trainer.load(self.saved())
        return trainer

    def _data(self, kind):
        """The data's path, or the text with the tokenizer that the run was started with."""
        path, saved = self.settings["data"]["path"], self.folder / "tokenizer.json"
        if kind.kind not in ("gpt", "seq2seq") or not saved.exists():
            return path
        load = data.load_pairs if kind.kind == "seq2seq" else data.load_text
        return dataclasses.replace(load(path), tokenizer=text.from_json(saved.read_text(encoding="utf-8")))

    def write_tokenizer(self, trainer):
        if hasattr(trainer, "tokenizer"):
            self._write("tokenizer.json", trainer.tokenizer.to_json())

    def save(self, trainer):
        trainer.save(self.checkpoint, keep=self.previous)

    def cut_metrics(self, steps: int):
        """Drop the lines of steps that the checkpoint does not know (and half a line, if the machine died writing)."""
        kept = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    if json.loads(line)["step"] <= steps:
                        kept.append(line)
        self._write("metrics.jsonl", "".join(line + "\n" for line in kept))


def describe_data(kind, path) -> dict:
    """{"path", "sha256"} of a file or of a folder's IDX files; path None is the data carried for that kind of model."""
    if path is None:
        return {"path": None, "sha256": data.checksum(data.carried(data.CARRIED[kind]))}
    path = Path(path)
    if not path.exists():
        raise data.DataError(f"{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.removesuffix(".gz") in data.IDX_FILES)
    sums = "".join(data.checksum(p) for p in files)
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

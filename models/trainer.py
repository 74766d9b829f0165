"""What all trainers share: one training step cut into feed, update and metrics, and the state that survives it.

    feed     copies a batch into buffers whose addresses never change: the only copy from host to device
    update   the step itself; reads no device value and branches on none, so that on a GPU it is replayed as a graph
    metrics  reads the losses of the last step

Everything that a step changes (parameters, moments, running statistics, random and data position) is an array that is
allocated once and written in place; `state` lists them by name, `save` and `load` keep them. Subclasses say what the
model is (`build`), what data it takes (`read_data`, `example`) and what a step does (`train_step`).
"""

import contextlib
import dataclasses

import numpy as np

from core import Generator, checkpoint, dispatch, memory, nn, no_grad, optim, random, threads
from core.capture import Captured
from core.upload import Uploads
from models.data import DataError, Order


class Config:
    """Base of the frozen configurations; PRESETS hold what differs from the defaults, the demo's."""

    PRESETS: dict = {}  # without an annotation in subclasses, where it would become a field
    MODEL: tuple = ()  # the fields that say what the model is; the others say how it is trained

    @classmethod
    def preset(cls, name: str, **changes):
        if name not in cls.PRESETS:
            raise ValueError(f"preset is {name!r}, should be one of {', '.join(cls.PRESETS)}")
        return cls(**{**cls.PRESETS[name], **changes})


class Trainer:
    """Trainer(config=None, *, seed=0, device="cpu", data=None, graph=True): None is the preset "demo", or the carried
    data. graph=False launches every kernel of a step singly on a GPU, in the same bits; on the CPU it means nothing."""

    kind: str  # the name on the command line
    Config: type[Config]
    METRICS: tuple  # names of what update writes into self.losses
    model: nn.Module
    optimizers: dict[str, optim.Optimizer]
    inputs: dict  # name -> the fixed buffer that feed fills

    def __init__(self, config=None, *, seed: int = 0, device: str = "cpu", data=None, graph: bool = True):
        threads.one_blas_thread()
        memory.keep_freed()
        self.config = self.Config.preset("demo") if config is None else config
        self.seed = seed
        self.generator = Generator(seed, device)
        self.xp = self.generator.xp
        self.seed_array = np.asarray(seed, np.uint64)  # as checkpoints keep it
        self.data = self.read_data(data)
        self.order = Order(self.examples(), self.config.batch, seed)
        self.losses = self.xp.zeros(len(self.METRICS), np.float32)
        with self.generator:
            self.build()
        self.generator.advance_()  # the initial values were drawn in step 0; training draws from step 1
        self.graph, self.captured = graph, None if self.xp is np else Captured(self._step, self._setting)
        self.uploads = None if self.xp is np else Uploads()

    # What a subclass provides.
    def read_data(self, data):
        """The data set: loaded from a path, the carried one for None, or one already loaded."""
        raise TypeError(f"{type(self).__name__} reads no data")

    def examples(self) -> int:
        """How many training examples there are."""
        return len(self.data.x_train)

    def build(self):
        """Set model, optimizers and inputs."""
        raise TypeError(f"{type(self).__name__} builds no model")

    def train_step(self):
        """Forward, backward and optimiser on self.inputs; write the losses into self.losses."""
        raise TypeError(f"{type(self).__name__} has no step")

    def example(self, index) -> tuple:
        """The batch made of the training examples `index`, one array per input."""
        raise TypeError(f"{type(self).__name__} makes no batches")

    def check_batch(self, batch):
        """Refuse values that a step could not, on the host, where looking is free."""

    # The step.
    def feed(self, batch):
        """Copy `batch`, one array per input, into the fixed input buffers; a GPU may still work on the last one."""
        if len(batch) != len(self.inputs):
            raise ValueError(f"feed: batch has {len(batch)} arrays, should have {len(self.inputs)}")
        for (name, buffer), array in zip(self.inputs.items(), batch):
            if (array.shape, array.dtype) != (buffer.shape, buffer.dtype):
                raise ValueError(
                    f"feed: {name} is {array.dtype} of shape {array.shape}, should be {buffer.dtype} of {buffer.shape}"
                )
        self.check_batch(batch)
        if self.uploads is not None:
            self.uploads.send(batch, list(self.inputs.values()))
            return
        for buffer, array in zip(self.inputs.values(), batch):
            buffer[...] = array

    def update(self):
        """One training step on what was fed."""
        if self.captured is None or not self.graph or dispatch.watched() or random.recording():
            self._step()
            return
        self.captured()
        for _, tensor in self.model.named_tensors():  # a replay runs no Python, so it notes no change
            tensor.bump_()

    def _step(self):
        self.generator.draw = 0  # also after a step that was broken off
        with self.generator:
            self.train_step()
        self.generator.advance_()

    def _setting(self):
        """What a captured step is good for: these buffers, this seed (kernels have it as a number), these modes."""
        buffers = [(a.data.ptr, a.shape, a.dtype) for a in self.inputs.values()]
        return buffers, self.generator.seed, dispatch.modes()

    def metrics(self) -> dict:
        """The losses of the last step, as floats: waits for the device."""
        return dict(zip(self.METRICS, self.losses.tolist()))

    def step(self, batch, read: bool = True):
        """feed, update, metrics; with read=False None, without waiting for the device."""
        self.feed(batch)
        self.update()
        return self.metrics() if read else None

    def batches(self, split: str):
        """ "train": endless, from the saved position; "test": one ordered pass."""
        if split == "test":
            return self.test_batches()
        if split != "train":
            raise ValueError(f"batches: split is {split!r}, should be 'train' or 'test'")
        return self._train_batches()

    def _train_batches(self):
        while True:
            yield self.example(self.order.next())

    def test_batches(self):
        raise TypeError(f"{type(self).__name__} has no test set")

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(next(iter(self.optimizers.values())).steps)

    # State.
    def state(self) -> dict:
        """{key: array}: everything that a step changes, the arrays themselves."""
        arrays = {f"model.{name}": a for name, a in self.model.state_dict().items()}
        for group, optimizer in self.optimizers.items():
            arrays.update({f"optim.{group}.{key}": a for key, a in optimizer.state().items()})
        arrays["rng.seed"], arrays["rng.step"] = self.seed_array, self.generator.step
        arrays["data.epoch"], arrays["data.position"] = self.order.epoch, self.order.position
        return arrays

    def load_state(self, arrays: dict, source="checkpoint"):
        """Write arrays (as `state` names them) into the trainer's own memory, all of them or none."""
        checkpoint.restore(self.state(), arrays, source)
        self.seed = self.order.seed = self.generator.seed = int(self.seed_array)
        self.generator.draw = 0
        for _, tensor in self.model.named_tensors():
            tensor.bump_()

    def metadata(self) -> dict:
        return {"kind": self.kind, "config": dataclasses.asdict(self.config)}

    def save(self, path, keep=None):
        """Write a checkpoint atomically; the one it replaces moves to `keep`."""
        checkpoint.save(path, self.state(), self.metadata(), keep)

    def load(self, path):
        """Read a checkpoint of the same kind of model into this trainer; raises CheckpointError, changing nothing."""
        arrays, metadata = checkpoint.load(path)
        if metadata.get("kind") != self.kind:
            raise checkpoint.CheckpointError(f"{path}: holds a {metadata.get('kind')!r} model, should be {self.kind!r}")
        own, saved = self.metadata(), metadata.get("config", {})
        for name in self.Config.MODEL:
            if saved.get(name) != own["config"][name]:
                raise checkpoint.CheckpointError(
                    f"{path}: its {name} is {saved.get(name)}, should be {own['config'][name]}"
                )
        if metadata.get("tokenizer") != own.get("tokenizer"):
            raise checkpoint.CheckpointError(f"{path}: was trained with another tokenizer")
        self.load_state(arrays, str(path))

    # Looking at the model.
    @contextlib.contextmanager
    def apart(self, seed: int = 0, number: int = 0):
        """`with trainer.apart():` evaluation mode, no graph, and random draws that leave training's alone.

        `seed` and `number` choose the draws; the key is spread over 64 bits, so that no two seeds meet.
        """
        generator = Generator((self.seed * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 + 1) % 2**64, self.device)
        generator.step += number
        was_training = self.model.training
        self.model.eval()
        try:
            with generator, no_grad():
                yield
        finally:
            self.model.train(was_training)

    @property
    def device(self) -> str:
        return "cpu" if self.xp is np else "cuda"


def dataset(data, kind, load):
    """`data` itself where it is loaded already, else what `load` reads from that path."""
    if isinstance(data, kind):
        return data
    if data is not None and not isinstance(data, str) and not hasattr(data, "__fspath__"):
        raise DataError(f"data is a {type(data).__name__}, should be a path, None or {kind.__name__}")
    return load(data)

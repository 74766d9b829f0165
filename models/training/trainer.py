"""What all trainers share: one training step cut into feed, update and metrics, and the state that survives it.

    feed     copies a batch into buffers whose addresses never change: the only copy from host to device
    update   the step itself; reads no device value and branches on none, so that on a GPU it is replayed as a graph
    metrics  reads the losses of the last step

Everything that a step changes (parameters, moments, running statistics, random and data position) is an array that is
allocated once and written in place; `state` lists them by name, `save` and `load` keep them. Subclasses say what the
model is (`build`), what data it takes (`read_data`, `example`) and what a step does (`train_step`). Trainers in several
threads do not disturb each other; one trainer serves one thread at a time.
"""

import contextlib
import dataclasses

import numpy as np

from core import Generator, check, checkpoint, dispatch, nn, no_grad, observe, optim, random, use
from core.check import shown
from core.checkpoint import CheckpointError
from core.runtime import memory, threads
from core.runtime.buckets import Buckets, mean_
from core.runtime.capture import Captured
from core.runtime.distributed import ALONE, a_process_group
from core.runtime.sync_batch_norm import SyncBatchNorm, convert
from core.runtime.upload import Uploads
from models.datasets import Order
from models.training.config import Config, impossible
from models.training.objective import Objective

PRECISIONS: dict[str, dict] = {  # of a step: what core.use is told; float16 has as few digits as TF32, in less range
    "fp32": {},
    "tf32": {"tf32": True},
    "fp16": {"tf32": True, "half": True},
}

AGREED = ("kind", "config", "precision", "tokenizer", "data")  # what has to be the same on all ranks

LATER = {"classes": 0}  # what a checkpoint that is older than a setting means


class Trainer:
    """Trainer(config=None, *, seed=0, device="cpu", data=None, precision="fp32", graph=True, group=ALONE, accumulate=1,
    sync_batch_norm=False).

    config None is the preset "demo", data None the carried data. With precision "fp16" products take float16 copies of
    float32 parameters, and each loss is scaled so that small gradients survive (optim.LossScale); "tf32" lets a GPU's
    products take one TF32 pass, and is nothing on a CPU. graph=False launches every kernel of a step singly on a GPU,
    in the same bits; on a CPU it means nothing.

    `group`: the ranks that share a batch (core/runtime/distributed.py), each of which has a Trainer of the same
    arguments; config.batch is that of all. A step takes a rank's examples in `accumulate` parts, one after the other.
    What is computed across a batch, batch norm's statistics, is of a part; with sync_batch_norm it is of all ranks'
    parts.
    """

    kind: str  # the name on the command line
    Config: type[Config]
    METRICS: tuple  # names of what update writes into self.losses
    LOSSES: tuple = ("loss",)  # names of what is minimised: each has a scale of its own
    SHOWN: int  # samples shown at each checkpoint
    KEPT: int = 0  # samples kept at each checkpoint, where losses say nothing of quality; evaluation looks at them
    model: nn.Module
    optimizers: dict[str, optim.Optimizer]
    inputs: dict  # name -> the fixed buffer that feed fills

    def __init__(
        self,
        config=None,
        *,
        seed: int = 0,
        device: str = "cpu",
        data=None,
        precision: str = "fp32",
        graph: bool = True,
        group=ALONE,
        accumulate: int = 1,
        sync_batch_norm: bool = False,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, should be one of {', '.join(PRECISIONS)}")
        check.count("Trainer", "accumulate", accumulate)
        check.flag("Trainer", "sync_batch_norm", sync_batch_norm)
        a_process_group("Trainer", group)
        threads.one_blas_thread()
        memory.keep_freed()
        self.config = self.Config.preset("demo") if config is None else config
        self.seed, self.precision = seed, precision
        self.generator = Generator(seed, device)
        self.xp = self.generator.xp
        self.seed_array = np.asarray(seed, np.uint64)  # as checkpoints keep it
        self.data = self.read_data(data)
        self.group, self.accumulate = group, accumulate
        self.buckets: dict[str, Buckets] = {}  # one for each loss
        self.share = group.share(self.config.batch, accumulate)
        self.local = self.share[1] - self.share[0]  # examples of a batch that are this rank's
        self.order = Order(self.examples(), self.config.batch, seed, self.share)
        self.losses = self.xp.zeros(len(self.METRICS), np.float32)
        self.scales = {name: optim.LossScale(device) for name in self.LOSSES if precision == "fp16"}
        with self.generator:
            self.build()
        if sync_batch_norm and group.size > 1:
            convert(self.model, group)
        self.norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm)]
        self.generator.advance_()  # the initial values were drawn in step 0; training draws from step 1
        self.graph, self.captured = graph, None if self.xp is np else Captured(self._step, self._setting)
        self.uploads = None if self.xp is np else Uploads()

    # What a subclass provides.
    def read_data(self, data):
        """The data set: loaded from a path, the carried one for None, or one already loaded."""
        raise TypeError(f"{type(self).__name__} reads no data")

    @property
    def classes(self) -> int:
        """How many classes samples can be asked of; 0: the model knows none."""
        return getattr(self.config, "classes", 0)

    def examples(self) -> int:
        """How many training examples there are."""
        return len(self.data.x_train)

    def build(self):
        """Set model, optimizers and inputs."""
        raise TypeError(f"{type(self).__name__} builds no model")

    def train_step(self, *batch):
        """Forward, backward and optimiser on the arrays of self.inputs; write the losses into self.losses."""
        raise TypeError(f"{type(self).__name__} has no step")

    def example(self, index) -> tuple:
        """The batch made of the training examples `index`, one array per input, of `local` examples."""
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
        if self.captured is None or not self.graph or observe.observed() or random.recording():
            self._step()
            return
        self.captured()
        for _, tensor in self.model.named_tensors():  # a replay runs no Python, so it notes no change
            tensor.bump_()

    def _step(self):
        self.generator.draw = 0  # this and the next also after a step that was broken off
        self.generator.share = self.share if self.share[0] else None
        with self.generator, use(**PRECISIONS[self.precision]):
            self.train_step(*self.inputs.values())
            if self.group.size > 1:
                self._share_statistics()
        self.generator.advance_()

    def objective(self, loss: str, parameters) -> Objective:
        """What brings the gradient of one of LOSSES, of the whole batch, to `parameters` in this step."""
        if self.group.size > 1 and loss not in self.buckets:
            self.buckets[loss] = Buckets(self.group, parameters)
        return Objective(parameters, self.config.batch, self.accumulate, self.scales.get(loss), self.buckets.get(loss))

    def _share_statistics(self):
        """Running statistics, which each rank moves by what it has seen, become the ranks' mean."""
        own = [norm for norm in self.norms if not isinstance(norm, SyncBatchNorm)]
        mean_(self.group, [t.data for norm in own for t in (norm.running_mean, norm.running_var)])

    def synchronise(self, data: str = ""):
        """Make this trainer's state that of rank 0; all ranks do it before the first step. `data`: a checksum of it."""
        if self.group.size > 1:
            known = {**self.metadata(), "data": data}
            self.group.agree({name: known.get(name) for name in AGREED})
            self.group.broadcast_(self.state().values())
            self._loaded()

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
        """Updates so far, with those that an overflow of float16 made nothing of."""
        return int(self.generator.step) - 1

    # State.
    def state(self) -> dict:
        """{key: array}: everything that a step changes, the arrays themselves."""
        arrays = {f"model.{name}": a for name, a in self.model.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            arrays.update({f"optim.{name}.{key}": a for key, a in optimizer.state().items()})
        for loss, scale in self.scales.items():
            arrays.update({f"scale.{loss}.{key}": a for key, a in scale.state().items()})
        arrays["rng.seed"], arrays["rng.step"] = self.seed_array, self.generator.step
        arrays["data.epoch"], arrays["data.position"] = self.order.epoch, self.order.position
        return arrays

    def load_state(self, arrays: dict, source="checkpoint"):
        """Write arrays (as `state` names them) into the trainer's own memory, all of them or none."""
        checkpoint.restore(self.state(), arrays, source)
        self._loaded()

    def _loaded(self):
        """What is known of the state beside its arrays."""
        self.seed = self.order.seed = self.generator.seed = int(self.seed_array)
        self.generator.draw = 0
        for _, tensor in self.model.named_tensors():
            tensor.bump_()

    def metadata(self) -> dict:
        return {"kind": self.kind, "config": dataclasses.asdict(self.config), "precision": self.precision}

    def save(self, path, keep=None):
        """Write a checkpoint atomically; the one it replaces moves to `keep`. What `load` would refuse is not saved."""
        self._check_values(self.state(), f"{path}: not saved")
        checkpoint.save(path, self.state(), self.metadata(), keep)

    def _check_values(self, arrays, source):
        for name, array in arrays.items():
            wrong = impossible(name, array, self.order.n)
            if wrong:
                raise CheckpointError(f"{source}: {name} {wrong}")

    def load(self, path):
        """Read a checkpoint of the same kind of model into this trainer; raises CheckpointError, changing nothing."""
        arrays, metadata = checkpoint.load(path, most=sum(a.nbytes for a in self.state().values()))
        if metadata.get("kind") != self.kind:
            raise CheckpointError(f"{path}: holds a {shown(metadata.get('kind'))} model, should be {self.kind!r}")
        own, saved = self.metadata(), metadata.get("config")
        if not isinstance(saved, dict):
            raise CheckpointError(f"{path}: its config is {shown(saved)}, should be an object")
        saved = {**LATER, **saved}
        for name in self.Config.MODEL:
            if saved.get(name) != own["config"][name]:
                was, should = shown(saved.get(name)), shown(own["config"][name])
                raise CheckpointError(f"{path}: its {name} is {was}, should be {should}")
        trained = metadata.get("precision", "fp32")
        if trained != self.precision:
            raise CheckpointError(f"{path}: was trained in {trained}, should be {self.precision}")
        if metadata.get("tokenizer") != own.get("tokenizer"):
            raise CheckpointError(f"{path}: was trained with another tokenizer")
        self._check_values(arrays, path)
        self.load_state(arrays, str(path))

    # Looking at the model.
    @contextlib.contextmanager
    def evaluating(self, seed: int = 0, number: int = 0):
        """`with trainer.evaluating():` evaluation mode, no graph, and random draws that leave training's alone.

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

"""The GPU that the checks run on, or its stand-in in a dry run, and the precisions in which they run."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
from typing import Any, NamedTuple

import numpy as np

from bench.parity import comparing
from core import Tensor, dispatch


class NotRun(Exception):
    """Why something cannot run here."""


def outcome(f, *arguments) -> dict:
    """What f gives, as a row that passed; or why it did not, in a line."""
    try:
        return {"passed": True, "fault": "", **f(*arguments)}
    except (NotRun, dispatch.KernelLimit) as why:
        return {"passed": False, "fault": f"not run: {why}"}
    except Exception as error:
        return {"passed": False, "fault": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"}


class Precision(NamedTuple):
    """How a row computes: its arrays' dtype, and whether float32 products take one TF32 pass, ours and torch's."""

    name: str
    dtype: str
    tf32: bool = False


PRECISIONS = (
    Precision("float32", "float32"),
    Precision("tf32", "float32", tf32=True),
    Precision("float16", "float16"),
)


class Device:
    """The GPU by CuPy, or its stand-in: NumPy arrays under the interpreter."""

    def __init__(self, dry: bool, fake_gpu=contextlib.nullcontext):
        """fake_gpu: what a dry run of captured steps enters, to have a fake in CuPy's place."""
        self.dry, self.fake_gpu = dry, fake_gpu
        if dry:
            self.xp, self.name, self.torch = np, "dry", "cpu"
            return
        try:
            import cupy
        except ImportError:
            raise NotRun("CuPy is not installed") from None
        try:
            properties = cupy.cuda.runtime.getDeviceProperties(0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise NotRun(f"no GPU: {error}") from None
        self.xp, self.torch = cupy, "cuda"
        self.name = re.sub(r"\W+", "-", properties["name"].decode()).strip("-").lower()

    def precisions(self) -> list:
        """Those to try: without a device tf32 is float32."""
        return [p for p in PRECISIONS if not (self.dry and p.tf32)]

    def host(self, x):
        return x if x is None or self.dry else self.xp.asnumpy(x)

    def tensors(self, case, arrays):
        """The case's inputs on the device: Tensors, and integer or boolean arrays as they are."""
        moved = [self.xp.asarray(a) for a in arrays]
        return [
            Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a
            for a, n in zip(moved, case.needs_input_grad(arrays))
        ]

    @contextlib.contextmanager
    def kernels(self, tf32=False):
        """Inside, operations take our kernels or raise KernelLimit."""
        more: dict[str, Any] = {"tf32": True} if tf32 else {}
        with dispatch.use("kernels", **more), dispatch.on("cuda"):
            yield

    def run(self, case, arrays, dys, tf32=False):
        """(outputs, gradients) of a case by our kernels, on the host again."""
        with self.kernels(tf32):
            tensors = self.tensors(case, arrays)
            outputs = as_tuple(case.ours(*tensors))
            comparing.backward_all(outputs, [None if dy is None else self.xp.asarray(dy) for dy in dys])
        return [self.host(y.data) for y in outputs], [self.host(getattr(t, "grad", None)) for t in tensors]

    def set_torch(self, precision):
        """torch computes like `precision` from now on, and tries out cuDNN's algorithms."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision.tf32
        torch.backends.cudnn.benchmark = True

    def machine(self) -> dict:
        """What a result has to be read with: versions, clocks, power."""
        import torch

        found = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version() or "none"}
        for name in ("numpy", "triton", "cupy-cuda13x", "cupy-cuda12x", "liger_kernel"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        if shutil.which("nvidia-smi"):
            asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit"
            command = ["nvidia-smi", "-i", "0", f"--query-gpu={asked}", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True)
            found.update(zip(asked.split(","), map(str.strip, done.stdout.split(","))))
        return found


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)

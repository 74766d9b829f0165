"""Triton kernels launched on CuPy's arrays, on CuPy's current device and stream, without torch.

A kernel is a function under `@triton.jit`; `launch(kernel, grid, *arguments, **constants)` runs it. Where it runs is
decided by the process:

    on a GPU            CuPy arrays; compiled once for each kind of arguments, then started by a short path
    interpreted         TRITON_INTERPRET=1 before the first import: NumPy arrays, serial Python, for tests without a GPU
    recorded            inside `recording(arch)`: nothing runs, every launch is noted, for the compile check

Block sizes come from the tables in kernels/blocks (`blocks`), but for sums of few parts, whose wrappers name their own.
The GPU's side of this file was written from the source of Triton 3.6 and has not run on a device yet.

# next: bench/tools/check.py, what the compiler made of them
"""

import contextlib
import functools
import json
import os
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.arrays import is_cupy
from core.engine import scoped

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TABLES = Path(__file__).parent / "blocks"
OPTIONS = ("num_warps", "num_stages")  # of the compiler; all other keywords are the kernel's constants
COUNT: Counter = Counter()  # launches of each kernel ("file.name") in this process: the proof that one ran
_recorder: ContextVar[tuple | None] = ContextVar("recorder", default=None)
_instead: ContextVar[dict] = ContextVar("instead", default={})  # noqa: B039 (never written to)


class Launch(NamedTuple):
    """One recorded launch."""

    kernel: Any
    grid: tuple
    arguments: tuple
    constants: dict
    options: dict


class Pointer:
    """What Triton wants an array to be. The methods beyond `data_ptr` serve its interpreter, which copies tensors to
    the host and back: NumPy's are there already."""

    __slots__ = ("array", "dtype")

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def data_ptr(self):
        return self.array.data.ptr if is_cupy(self.array) else self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, *shape, **options):
        return Pointer(self.array)

    def set_(self, *storage):
        return self

    def copy_(self, other):
        return self

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return self.array.strides


def launch(kernel, grid: tuple, *arguments, **constants):
    """Start `kernel` on a grid of 1 to 3 lengths. Arrays are passed as pointers and must be C-contiguous (bool ones
    as bytes), None as the constant None, numbers as they are; keywords are constexprs, num_warps and num_stages."""
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    arguments = tuple(_argument(kernel, a) for a in arguments)
    grid = (*grid, 1, 1)[:3]
    recorder = _recorder.get()
    if recorder is not None:
        recorder[1].append(Launch(kernel, grid, arguments, constants, options))
        return
    if not all(grid):  # nothing to do, and CUDA refuses an empty grid
        return
    if INTERPRETED:
        wrapped = (Pointer(a) if isinstance(a, np.ndarray) else a for a in arguments)
        kernel[grid](*wrapped, **constants)
    else:
        _launch_on_gpu(kernel, grid, arguments, constants, options)
    COUNT[f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.__name__}"] += 1


def _argument(kernel, a):
    if a is None or isinstance(a, bool | int | float):
        return a
    if isinstance(a, np.generic):
        return a.item()
    if not a.flags.c_contiguous:
        raise ValueError(f"launch: {kernel.__name__} got an array of shape {a.shape} that is not C-contiguous")
    return a.view(np.uint8) if a.dtype == bool else a


# --- block sizes ----------------------------------------


@functools.cache
def _table(family: str) -> dict:
    return json.loads((TABLES / f"{family}.json").read_text())


def blocks(family: str, kernel: str, dtype, size: int = 0) -> dict:
    """Block sizes and compiler options of a kernel, from kernels/blocks/<family>.json:

        {kernel: {architecture: {dtype: [[largest size, {"BLOCK": 1024, "num_warps": 4}], ...]}}}

    The architecture is "interpret", or the newest one not above the device's ("80", "90", "100"): sm_86, say, takes
    80's, and where that wants more shared memory than it has, Triton raises OutOfResources. dtype may be "any"; the
    first line whose largest size is not below `size` holds (null: no limit).
    """
    chosen = _instead.get().get((family, kernel))
    if chosen is not None:
        return dict(chosen)
    architectures = _table(family)[kernel]
    lines = architectures[_architecture(architectures)]
    lines = lines.get(str(dtype)) or lines["any"]
    return dict(next(config for most, config in lines if most is None or size <= most))


def instead(family: str, kernel: str, config: dict):
    """`with instead("conv", "gather", {...}):` one kernel takes this configuration, whatever the table says."""
    return scoped((_instead, {**_instead.get(), (family, kernel): config}))


def _architecture(known) -> str:
    if INTERPRETED:
        return "interpret"
    recorder = _recorder.get()
    capability = recorder[0] if recorder is not None else _driver().get_current_target().arch
    below = [k for k in known if k != "interpret" and int(k) <= capability]
    if not below:
        least = min((k for k in known if k != "interpret"), key=int)
        raise RuntimeError(f"GPU kernels: the device is sm_{capability}, should be sm_{least} or newer")
    return max(below, key=int)


# --- recording ----------------------------------------


@contextlib.contextmanager
def recording(arch: int):
    """`with recording(90) as launches:` notes launches instead of running them; results are left as allocated."""
    launches: list[Launch] = []
    with scoped((_recorder, (arch, launches))):
        yield launches


# --- on a GPU ----------------------------------------

_compiled: dict = {}  # kind of arguments -> (compiled kernel, position of each array among its arguments)


def _launch_on_gpu(kernel, grid, arguments, constants, options):
    """The first launch of a kind goes through Triton's own path, which compiles; later ones go straight to the driver.

    A kind is what Triton specialises on: dtypes, whether pointers and integers are multiples of 16, integers equal to
    1, and all constants. The short path checks none of it again, so the key must hold it all.
    """
    import cupy

    driver = _driver()
    device = cupy.cuda.runtime.getDevice()
    key = (kernel, device, *map(_kind, arguments), *constants.items(), *options.items())
    found = _compiled.get(key)
    if found is None:
        wrapped = (Pointer(a) if is_cupy(a) else a for a in arguments)
        compiled = kernel[grid](*wrapped, **constants, **options)
        _compiled[key] = compiled, [constants[name] for name in kernel.arg_names[len(arguments) :]]
        return
    compiled, rest = found
    values = (a.data.ptr if is_cupy(a) else a for a in arguments)
    stream = driver.get_current_stream(device)
    compiled.run(*grid, stream, compiled.function, compiled.packed_metadata, None, None, None, *values, *rest)


def _kind(a):
    if is_cupy(a):
        return a.dtype.char, a.data.ptr % 16 == 0
    if isinstance(a, int) and not isinstance(a, bool):
        return a if a == 1 else (a % 16 == 0, -(2**31) <= a < 2**31)
    return None if a is None else type(a)


@functools.cache
def _driver():
    """A driver for Triton that asks CuPy for device and stream; Triton 3.6's own asks torch."""
    try:
        import cupy
    except ImportError:
        raise RuntimeError("GPU kernels need CuPy (pip install cupy-cuda13x), which is not installed") from None
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.backends.nvidia.driver import CudaLauncher, CudaUtils, ty_to_cpp
    from triton.runtime import driver

    class CupyDriver(DriverBase):
        def __init__(self):
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
            super().__init__()

        @classmethod
        def is_active(cls):
            return True

        def get_current_device(self):
            return cupy.cuda.runtime.getDevice()

        def set_current_device(self, device):
            cupy.cuda.runtime.setDevice(device)

        def get_current_stream(self, device):
            return cupy.cuda.get_current_stream(device).ptr

        def get_current_target(self):
            return GPUTarget("cuda", int(cupy.cuda.Device().compute_capability), 32)

        def map_python_to_cpp_type(self, ty):
            return ty_to_cpp(ty)

        def get_active_torch_device(self):
            raise RuntimeError("this driver knows no torch device")

        def get_benchmarker(self):
            raise RuntimeError("kernels are timed by bench/, not by Triton")

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"GPU kernels need an NVIDIA GPU with a working driver: {error}") from None
    ours = CupyDriver()
    driver.set_active(ours)
    return ours

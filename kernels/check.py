"""Compile every Triton kernel without a GPU, and look at what came out: `python -m kernels check`.

The launches are recorded, not invented: the operations run on the models' own shapes (and on the tests', where no
model has one) with a launcher that notes arguments instead of starting anything. Each different kernel and kind of
arguments is compiled for a GPU that is not there, and read:

    registers, spills      from ptxas; a spill sends registers through memory, in the loop that matters
    shared memory          against what one program may have on that architecture
    tensor cores           mma.sync (80), wgmma (90), tcgen05 (100): a kernel with tl.dot and none of these is slow
    asynchronous copies    cp.async, or TMA's bulk copies
    wide loads             ld.global.v4 and v2, of all global loads

This proves that code is generated. What the code does is proved by the interpreter, and on a device only.
"""

import contextlib
import hashlib
import importlib
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import triton
from triton.backends.compiler import GPUTarget

import core.functional as F
from core import Tensor, dispatch, random
from kernels.launch import Launch, recording

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
REGISTERS = 65536  # of one multiprocessor
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
TYPES = {"float32": "fp32", "float16": "fp16", "float64": "fp64", "int64": "i64", "int32": "i32", "uint8": "u8"}


class Spec(NamedTuple):
    """What Triton compiles: one kernel for one kind of arguments."""

    module: str
    kernel: str
    signature: tuple  # (argument, type)
    constants: tuple  # (argument, value)
    aligned: tuple  # positions of arguments that are multiples of 16
    options: tuple


class Function(NamedTuple):
    """A function of Triton's as a constant: by name, because processes cannot hand each other the function."""

    module: str
    name: str

    def __call__(self):
        return getattr(importlib.import_module(self.module), self.name)


class Result(NamedTuple):
    kernel: str
    arch: int
    kind: str  # what distinguishes this compilation, in short
    registers: int
    spills: int  # bytes
    shared: int  # bytes
    occupancy: int  # programs that fit on a multiprocessor, by registers and shared memory
    tensor: int  # tensor-core instructions
    dots: bool  # whether tl.dot is left in it for these constants
    copies: int  # asynchronous copies
    wide: str  # wide loads of all loads
    fault: str


def spec(launch: Launch) -> Spec:
    """The kind of a recorded launch, as the just-in-time compiler would see it on a GPU."""
    fn = launch.kernel
    signature, constants, aligned = [], list(launch.constants.items()), []
    for i, (name, a) in enumerate(zip(fn.arg_names, launch.arguments)):
        plain = i in {p.num for p in fn.params if p.do_not_specialize}
        if a is None or (isinstance(a, int) and a == 1 and not plain):
            constants.append((name, a))
            signature.append((name, "constexpr"))
            continue
        signature.append((name, _type(a)))
        if isinstance(a, np.ndarray) or (isinstance(a, int) and a % 16 == 0 and not plain):
            aligned.append(i)
    signature += [(name, "constexpr") for name in launch.constants]
    constants = [(name, Function(v.fn.__module__, v.__name__) if _jit(v) else v) for name, v in constants]
    options = tuple(sorted(launch.options.items()))
    return Spec(fn.fn.__module__, fn.__name__, tuple(signature), tuple(constants), tuple(aligned), options)


def _jit(v) -> bool:
    return isinstance(v, triton.runtime.JITFunction)


def _type(a):
    if isinstance(a, np.ndarray):
        return "*" + TYPES[str(a.dtype)]
    if isinstance(a, float):
        return "fp32"
    if isinstance(a, bool):
        return "u1"
    return "i32" if -(2**31) <= a < 2**31 else "i64"


def collect(cases, arch, dtypes=("float32", "float16")) -> list[Spec]:
    """Every different kind that these cases launch, forward and backward."""
    from tests.comparing import backward_all, random_dys  # torch is the tests', and this command is one of them
    from tests.specs import run

    def everything(dtype):
        for case in cases:
            with contextlib.suppress(dispatch.KernelLimit):
                outputs, _ = run(case, case.arrays(dtype))
                backward_all(outputs, random_dys(case, outputs, dtype))
        if any("dropped" in case.name or case.op in ("dropout", "reparameterize") for case in cases):
            drawn(dtype)

    found: dict = {}
    for dtype in dtypes:
        with recording(arch) as launches, dispatch.on("cuda"), dispatch.use("kernels"):
            everything(dtype)
        found.update(dict.fromkeys(map(spec, launches)))
    return list(found)


def drawn(dtype):
    """What no case has: masks and noise that the kernels draw themselves, since torch's would be others."""
    x, w = Tensor(np.ones((4096, 256), dtype), requires_grad=True), np.ones(256, dtype)
    F.dropout(x, 0.1).backward(x.data)
    F.add_layer_norm(x, x.data, w, w, dropout_p=0.1)[0].backward(x.data)
    F.batch_norm(x, None, None, w, w, True, act="leaky_relu", dropout_p=0.3).backward(x.data)
    F.reparameterize(x, x).backward(x.data)
    random.normal(x.shape, dtype)
    random.uniform(x.shape, dtype)


def compiled(job) -> Result:
    """Compile one Spec for one architecture and read what came out."""
    s, arch = job
    fn = Function(s.module, s.kernel)()
    attrs = {(i,): [["tt.divisibility", 16]] for i in s.aligned}
    names = {name: i for i, name in enumerate(fn.arg_names)}
    constants = {(names[name],): value() if isinstance(value, Function) else value for name, value in s.constants}
    source = triton.compiler.ASTSource(fn=fn, signature=dict(s.signature), constexprs=constants, attrs=attrs)
    kind = _short(s)
    try:
        k = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(s.options))
    except Exception as error:
        line = str(error).strip().split("\n")[-1]
        return Result(s.kernel, arch, kind, 0, 0, 0, 0, 0, False, 0, "", f"{type(error).__name__}: {line}")
    return _read(s, arch, kind, k)


def _read(s, arch, kind, k) -> Result:
    ptx, dots = k.asm["ptx"], "tt.dot" in k.asm["ttir"]
    registers, spills = _ptxas(ptx, arch)
    shared, threads = k.metadata.shared, 32 * k.metadata.num_warps
    fits = [REGISTERS // max(registers * threads, 1), 2048 // threads]
    fits += [(SHARED_LIMIT[arch] + 1024) // (shared + 1024)] if shared else []
    tensor = ptx.count(TENSOR_CORES[arch]) + (ptx.count("mma.sync") if arch != 80 else 0)
    loads = len(re.findall(r"ld\.global", ptx))
    wide = len(re.findall(r"ld\.global[.\w:]*\.v[248]", ptx))
    copies = len(re.findall(r"cp\.async(?:\.c[ag]|\.bulk)", ptx))
    faults = []
    if spills:
        faults.append(f"{spills} bytes spilled")
    if shared > SHARED_LIMIT[arch]:
        faults.append(f"{shared} bytes of shared memory, {SHARED_LIMIT[arch]} are there")
    if dots and not tensor:
        faults.append("no tensor-core instruction")
    if getattr(k.metadata, "tmem_size", 0) > 512:
        faults.append("more than 512 columns of tensor memory: the body is empty")
    hazard = len(re.findall(r"wgmma\.mma_async[^;]*?\}, *\{", ptx))
    note = f"{hazard} wgmma with a register operand" if hazard else ""
    return Result(
        *(s.kernel, arch, kind, registers, spills, shared, min(fits), tensor, dots, copies),
        f"{wide}/{loads}",
        "; ".join(faults) or (f"({note})" if note else ""),
    )


def _short(s: Spec) -> str:
    """Dtypes of the first two pointers, then the block sizes."""
    pointers = [t[1:] for _, t in s.signature if t.startswith("*")][:2]
    sizes = [f"{v}" for name, v in s.constants if name.startswith("BLOCK")]
    options = [f"{name[4]}{v}" for name, v in s.options]
    digest = hashlib.sha1(repr(s).encode()).hexdigest()[:4]
    return " ".join(["/".join(pointers), "x".join(sizes), *options, digest])


def _ptxas(ptx, arch) -> tuple[int, int]:
    """(registers, bytes spilled), by running ptxas over the PTX once more: Triton does not keep what it said."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = folder / ("ptxas-blackwell" if arch >= 100 else "ptxas")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as f:
        f.write(ptx)
        f.flush()
        gpu = f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"
        said = subprocess.run([tool, "-v", gpu, f.name, "-o", "/dev/null"], capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores", said)
    return int(registers.group(1)) if registers else 0, int(spills.group(1)) if spills else 0


def check(cases, archs=(90,), workers=1, dtypes=("float32", "float16")) -> list[Result]:
    """Compile what these cases launch, for each architecture."""
    jobs = [(s, arch) for arch in archs for s in collect(cases, arch, dtypes)]
    if workers == 1:
        return [compiled(job) for job in jobs]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(compiled, jobs, chunksize=4))


def table(results) -> str:
    """Markdown, one line a compilation; what is in brackets is a remark, no fault."""
    lines = [
        "| kernel | sm | kind | registers | spills | shared | programs/SM | tensor-core | async | wide loads | |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.kernel} | {r.arch} | {r.kind} | {r.registers} | {r.spills} | {r.shared} | {r.occupancy} | "
            f"{r.tensor if r.dots else '-'} | {r.copies} | {r.wide} | {r.fault} |"
        )
    return "\n".join(lines)

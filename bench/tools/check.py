"""Compile every Triton kernel without a GPU, and look at what came out: `assay kernels check`.

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

import functools
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
from core import Tensor, dispatch, nn, optim, random
from core.dispatch import run_
from core.table import TABLE, Kernel
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
    kernel: str  # "file.function"
    case: str  # the first that launched it
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


def collect(cases, arch, dtypes=("float32", "float16"), rest=False) -> dict[Spec, str]:
    """Every different kind that these cases launch, forward and backward, and the first case that does; with `rest`
    those that no case of a model's size launches, too. Arguments that a kernel refuses end it: nothing goes unseen."""
    from bench.parity.cases import run
    from bench.parity.comparing import backward_all, random_dys  # torch is the tests', and this command is one of them

    found: dict = {}

    def note(name, launching, *arguments):
        with recording(arch) as launches, dispatch.on("cuda"), dispatch.use("kernels"):
            launching(*arguments)
        for launch in launches:
            found.setdefault(spec(launch), name)

    def both(case, dtype):
        outputs, _ = run(case, case.arrays(dtype))
        backward_all(outputs, random_dys(case, outputs, dtype))

    for dtype in dtypes:
        for case in (c for c in cases if isinstance(TABLE[c.op].kernels["cuda"], Kernel)):
            note(case.name, both, case, dtype)
        if any("dropped" in case.name or case.op in ("dropout", "reparameterize") for case in cases):
            note("masks drawn by kernels", drawn, dtype)
        for what, launching in others(dtype).items() if rest else ():
            note(what, launching)
    return found


def drawn(dtype):
    """What no case has: masks and noise that the kernels draw themselves, since torch's would be others."""
    x, w = Tensor(np.ones((4096, 256), dtype), requires_grad=True), np.ones(256, dtype)
    F.dropout(x, 0.1).backward(x.data)
    F.add_layer_norm(x, x.data, w, w, dropout_p=0.1)[0].backward(x.data)
    F.batch_norm(x, None, None, w, w, True, act="leaky_relu", dropout_p=0.3).backward(x.data)
    F.reparameterize(x, x).backward(x.data)
    random.normal(x.shape, dtype)
    random.uniform(x.shape, dtype)
    with random.Generator().part(1, 4097):
        random.dropout_draw(x.shape, 0.1)


def others(dtype) -> dict:
    """{what it is: a function to call} of what no case of a model's size launches: state operations on parameters of a
    small GPT's size (float32 like all state), decoding with a full cache, attention with a bias that wants a gradient.
    """
    w, b, step, one = np.ones((1024, 256), dtype), np.ones(1000, dtype), np.array(1), np.ones((), np.float32)
    ones = lambda *shape: Tensor(np.ones(shape, dtype), requires_grad=True)

    def stepped(make, taken=None):
        parameters = {"w": nn.Parameter(w), "b": nn.Parameter(b)}
        for p in parameters.values():
            p.grad = p.data
        make(parameters, 1e-3, weight_decay=0.1).step(taken)

    def biased():
        q = ones(2, 4, 128, 64)
        F.attention(q, q, q, bias=ones(4, 128, 128)).backward(q.data)

    made = {
        "cache": lambda: run_("cache_", np.ones((8, 4, 256, 32), dtype), np.ones((8, 4, 1, 32), dtype), 5),
        "decoding": lambda: F.attention(ones(1, 12, 1, 64), ones(1, 12, 1024, 64), ones(1, 12, 1024, 64)),
        "attention with a bias": biased,
    }
    state = {
        "Adam": lambda: stepped(optim.Adam),
        "AdamW": lambda: stepped(optim.AdamW),
        "SGD": lambda: stepped(functools.partial(optim.SGD, momentum=0.9)),
        "Adam, if taken": lambda: stepped(optim.Adam, one),
        "average": lambda: run_("ema_", [w, b], [w, b], one, decay=0.9),
        "loss scale": lambda: run_("unscale_", [w, b], one, step, one, growth=2.0, backoff=0.5, interval=2000),
        "clipping": lambda: run_("clip_grad_norm_", [w, b], max_norm=1.0),
        "step": lambda: run_("advance_", step),
    }
    return {**made, **(state if dtype == "float32" else {})}


def compiled(job) -> Result:
    """Compile one Spec, launched by some case, for one architecture and read what came out."""
    s, case, arch = job
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
        return Result(_name(s), case, arch, kind, 0, 0, 0, 0, 0, False, 0, "", f"{type(error).__name__}: {line}")
    return _read(s, case, arch, kind, k)


def _name(s: Spec) -> str:
    return f"{s.module.rpartition('.')[2]}.{s.kernel}"


def _read(s, case, arch, kind, k) -> Result:
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
        *(_name(s), case, arch, kind, registers, spills, shared, min(fits), tensor, dots, copies),
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


def check(cases, archs=(90,), workers=1, dtypes=("float32", "float16"), rest=False) -> list[Result]:
    """Compile what these cases launch, for each architecture."""
    jobs = [(s, case, arch) for arch in archs for s, case in collect(cases, arch, dtypes, rest).items()]
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
    return "\n".join([*lines, *(f"| {r.kernel} | {r.arch} | {r.kind} | {_numbers(r)} | {r.fault} |" for r in results)])


def _numbers(r: Result) -> str:
    tensor = r.tensor if r.dots else "-"
    return f"{r.registers} | {r.spills} | {r.shared} | {r.occupancy} | {tensor} | {r.copies} | {r.wide}"


PAGE = """# What the compiler made of the kernels

Made by `assay kernels check --arch {archs} --out docs/kernels/compiled.md` with Triton {version}, without a
GPU: it proves that code is generated, not what the code does, and not how fast. Of each kernel and dtype the
compilation that uses most registers stands here; {count} were made, for the models' own shapes in float32 and float16,
and {bad} of them have faults: a spill, too much shared memory, or `tl.dot` without a tensor-core instruction.

`of` is how many compilations the line stands for; registers and spilled bytes are ptxas's, a thread; shared memory is
in bytes; programs/SM is how many fit on a multiprocessor by registers, threads and shared memory; then instructions in
the code: of tensor cores (- where there is no product), asynchronous copies, and loads of 8 bytes or more of all global
loads. Tensor cores are {tensor}.
"""


def page(results) -> str:
    """docs/kernels/compiled.md: a table for each architecture."""
    archs = sorted({r.arch for r in results})
    tensor = ", ".join(f"`{TENSOR_CORES[a]}` on sm_{a}" for a in archs)
    bad = sum(bool(r.fault) and not r.fault.startswith("(") for r in results)
    names = {"archs": ",".join(map(str, archs)), "version": triton.__version__, "count": len(results), "bad": bad}
    parts = [PAGE.format(tensor=tensor, **names)]
    for arch in archs:
        parts += [
            "",
            f"## sm_{arch}",
            "",
            "| kernel | dtypes, blocks, options | case | of | registers | spills | shared |",
        ]
        parts[-1] += " programs/SM | tensor-core | async | wide loads |"
        parts.append("|---|---|---|" + "---:|" * 8)
        groups: dict = {}
        for r in (r for r in results if r.arch == arch):
            groups.setdefault((r.kernel, r.kind.partition(" ")[0]), []).append(r)
        for (kernel, _), some in sorted(groups.items()):
            worst = max(some, key=lambda r: (r.spills, r.registers))
            parts.append(f"| {kernel} | {worst.kind[:-5]} | {worst.case} | {len(some)} | {_numbers(worst)} |")
    return "\n".join(parts) + "\n"

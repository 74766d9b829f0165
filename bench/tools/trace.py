"""What every program of a Triton kernel reads and writes: recorded under the interpreter, for trace_page.py to draw.

    recorded(op, case)    runs a case of trace_cases.py, forward and backward, in a process of its own that interprets
                          (TRITON_INTERPRET=1, NumPy arrays), and returns what each launch did, as plain lists and dicts

Loads and stores reach the interpreter's builder as addresses with a mask, and the arrays of a launch lie at addresses
that are known: so an access is an array's name and elements. Masked-off lanes touch nothing. An element counts once
for each load that asks for it, however many lanes do. Sets of elements are written as runs, [first, how many]. Atomic
operations would pass unseen: these kernels have none.

The running values of a loop (WALKS) and a program's own numbers are read from the kernel's frame by a trace function,
so no kernel knows that it is watched.
"""

import ast
import contextlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from bench.tools.trace_cases import CASES, arrays_of, chosen
from core import Tensor, dispatch
from kernels.launch import Pointer
from models.training.progress import progress

ROOT = Path(__file__).parents[2]


class Walk(NamedTuple):
    """A kernel's first loop, over blocks of queries or keys, whose variable is `start`."""

    what: str
    block: str  # the constant with a block's length
    length: str  # the argument with the length of all
    values: dict  # what runs along: a name -> the local variable, one number a row


WALKS = {
    "attention._forward": Walk("keys", "BLOCK_N", "Tk", {"m": "m", "l": "total"}),
    "attention_backward._queries": Walk("keys", "BLOCK_N", "Tk", {}),
    "attention_backward._keys_and_values": Walk("queries", "BLOCK_M", "Tq", {}),
}


def recorded(op: str, name: str | None = None) -> dict:
    """{"op", "case", "what", "launches"} of a run in a process of its own, whose progress goes to standard error."""
    name, case = chosen(op, name)
    command, environment = (
        [sys.executable, "-m", "bench.tools.trace", op, name],
        {**os.environ, "TRITON_INTERPRET": "1"},
    )
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"trace: {op}, case {name}: the run ended with code {done.returncode}, see above")
    return {"op": op, "case": name, "what": case.what, "launches": json.loads(done.stdout)}


def runs(elements) -> list:
    """Sorted integers as [first, how many]."""
    pieces = np.split(elements, np.flatnonzero(np.diff(elements) != 1) + 1)
    return [[int(piece[0]), len(piece)] for piece in pieces if len(piece)]


# --- in the process that interprets ----------------------------------------


class Recorder:
    """Everything that happens after `watch`, launch by launch; `known` are arrays that no launch names, by name."""

    def __init__(self, known: dict):
        self.known = known
        self.launches: list[dict] = []
        self.bar = progress(total=0, unit=" programs")

    def watch(self):
        """Stand between the interpreter and its memory, in this process, from now on."""
        builder, call = interpreter.InterpreterBuilder, interpreter.GridExecutor.__call__
        load, store, program = builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx

        def launched(executor, *arguments, **constants):
            self._begin(executor, dict(zip(executor.arg_names, arguments)), constants)
            with self._following():
                call(executor, *arguments, **constants)

        def loaded(builder, pointers, mask, *rest):
            self._access("reads", pointers.data, mask.data)
            return load(builder, pointers, mask, *rest)

        def stored(builder, pointers, value, mask, *rest):
            self._access("writes", pointers.data, mask.data)
            return store(builder, pointers, value, mask, *rest)

        def placed(builder, *at):
            self._program(at)
            program(builder, *at)

        interpreter.GridExecutor.__call__ = launched
        builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx = loaded, stored, placed

    def _begin(self, executor, arguments, constants):
        """A launch, as yet without programs; self.arrays are those that it may touch."""
        self.code = executor.fn.__code__
        source, first = inspect.getsourcelines(executor.fn)
        file = Path(self.code.co_filename)
        kernel = f"{file.stem}.{executor.fn.__name__}"
        given = {n.removesuffix("_ptr"): a.array for n, a in arguments.items() if isinstance(a, Pointer)}
        addresses = {a.ctypes.data for a in given.values()}
        unnamed = {n: a for n, a in self.known.items() if n not in given and a.ctypes.data not in addresses}
        self.arrays = {**given, **unnamed}
        self.counts = {n: {"reads": np.zeros(a.size, int), "writes": np.zeros(a.size, int)} for n, a in self._sized()}
        self.walk, self.loop = WALKS.get(kernel), _first_loop(source, first)
        self.programs: list[dict] = []
        self.lines: dict[int, set] = {}
        numbers = {n: a for n, a in arguments.items() if not isinstance(a, Pointer)}
        self.launch = {"kernel": kernel, "file": str(file.relative_to(ROOT)), "first": first, "source": source}
        self.launch |= {"grid": executor.grid, "numbers": _words(numbers), "constants": _words(constants)}
        if self.walk:
            length, block = numbers[self.walk.length], constants[self.walk.block]
            self.launch["walk"] = {"what": self.walk.what, "block": block, "length": length}
        self.bar.set_description(kernel)
        self.bar.total += int(np.prod(executor.grid))

    def _sized(self):
        return [(name, a) for name, a in self.arrays.items() if a.size]

    @contextlib.contextmanager
    def _following(self):
        before = sys.gettrace()
        sys.settrace(lambda frame, event, _: self._follow if frame.f_code is self.code else None)
        try:
            yield
        finally:
            sys.settrace(before)
        self._end()

    def _program(self, at):
        self.programs.append({"at": at, "reads": {}, "writes": {}, "iterations": [], "numbers": {}})
        self.bar.update()

    def _access(self, kind, addresses, mask):
        """Note the elements at these addresses, under the array's name and the kernel's line."""
        addresses = np.unique(addresses[mask])
        frame = sys._getframe(2)
        while frame.f_code is not self.code:
            frame = frame.f_back  # type: ignore[assignment]
        for name, a in self._sized():
            first = a.ctypes.data
            inside = (addresses >= first) & (addresses < first + a.nbytes)
            if inside.any():
                elements = (addresses[inside].astype(np.int64) - first) // a.itemsize
                self.counts[name][kind][elements] += 1
                self.programs[-1][kind].setdefault(name, []).append(elements)
                self.lines.setdefault(frame.f_lineno, set()).add((kind, name))
                addresses = addresses[~inside]
        if addresses.size:
            raise ValueError(f"{self.launch['kernel']}: {kind} {addresses.size} elements of no array that it was given")

    def _follow(self, frame, event, _):
        """Called at every line of the kernel and at its end."""
        if event == "line" and self.walk and frame.f_lineno == self.loop and "start" in frame.f_locals:
            values = {name: _rows(frame.f_locals[local]) for name, local in self.walk.values.items()}
            self.programs[-1]["iterations"].append({"start": int(frame.f_locals["start"]), **values})
        elif event == "return":
            own = {n: v for n, v in frame.f_locals.items() if n not in self.code.co_varnames[: self.code.co_argcount]}
            self.programs[-1]["numbers"] = {n: int(v.handle.data.item()) for n, v in own.items() if _is_whole(v)}
        return self._follow

    def _end(self):
        """The launch as plain lists; arrays that it did not touch are left out."""
        touched = [n for n, c in self.counts.items() if c["reads"].any() or c["writes"].any()]
        self.launch["arrays"] = [self._described(n, self.arrays[n]) for n in touched]
        for program in self.programs:
            for kind in ("reads", "writes"):
                program[kind] = {n: runs(np.unique(np.concatenate(parts))) for n, parts in program[kind].items()}
        lines = {line: sorted(f"{kind} {name}" for kind, name in found) for line, found in self.lines.items()}
        self.launches.append({**self.launch, "programs": self.programs, "lines": lines})

    def _described(self, name, a) -> dict:
        times = {kind: counts.tolist() for kind, counts in self.counts[name].items()}
        return {"name": name, "shape": a.shape, "dtype": str(a.dtype), "bytes": a.nbytes, **times}


def _first_loop(source, first) -> int | None:
    """The line of a kernel's first loop."""
    tree = ast.parse(textwrap.dedent("".join(source)))
    return min((node.lineno + first - 1 for node in ast.walk(tree) if isinstance(node, ast.For)), default=None)


def _words(arguments) -> dict:
    return {name: str(value) for name, value in arguments.items()}


def _rows(value) -> list:
    return [float(number) for number in value.handle.data]


def _is_whole(value: Any) -> bool:
    return isinstance(value, tl.tensor) and not value.type.is_block() and value.dtype.is_int()


def main(op: str, name: str):
    """Run a case by its kernels, gradients too, and print what happened."""
    case = CASES[op][name]
    arrays = arrays_of(case)
    recorder = Recorder(arrays)
    recorder.watch()
    drawn = {n: Tensor(a, requires_grad=True) if isinstance(case.arrays[n], tuple) else a for n, a in arrays.items()}
    with dispatch.on("cuda"), dispatch.use("kernels"):
        y = case.run(**drawn)
        if y is not None:
            y.backward(np.ones(y.shape, np.float32))
    recorder.bar.close()
    print(json.dumps(recorder.launches))


if __name__ == "__main__":
    main(*sys.argv[1:])

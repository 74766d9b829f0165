"""How far the kernels went under the interpreter: iterations of every loop, programs on every axis of the grid.

A loop that ran once proves nothing about its second iteration: attention without its rescale passed at 13 keys, and at
50 keys with blocks of 64. So `watch` counts, and tests/kernels/test_interpreter.py asks every loop in the source for
three iterations with a partial last one, every axis of a grid for two programs, and what DEMANDS names for what one
number hides: splits, shares, phases, tiles of a flat grid."""

import ast
import builtins
import functools
import importlib
import sys
from pathlib import Path

from triton.runtime import interpreter

from tests.kernels.test_kernel_sources import FILES, calls, kernels

# Loops whose bound is rounded up to whole blocks: what the length itself leaves over.
PARTIAL = {
    "layer_norm._layer_norm_forward": lambda a: a["D"] % a["BLOCK"],
    "layer_norm._layer_norm_backward": lambda a: a["rows"] % a["ROWS"] and a["D"] % a["BLOCK"],
    "matmul._columns": lambda a: a["rows"] % a["BLOCK_M"],
    **dict.fromkeys(
        ("group_norm._group_norm_forward", "group_norm._group_norm_backward"), lambda a: a["P"] % a["BLOCK_P"]
    ),
}


def _phases(stride):
    return lambda a: int(a["TRANSPOSE"] and a["ROWS"].stride == a["COLS"].stride == stride)


def _tiles(length, block):
    return lambda a: -(-a[length] // a[block])


def _wraps(a):
    """1 where grouped programs come to a second group, of fewer rows of tiles than the first, in several columns."""
    rows, columns = _tiles("M", "BLOCK_M")(a), _tiles("N", "BLOCK_N")(a)
    return int(rows > a["GROUP"] and rows % a["GROUP"] > 0 and columns > 1)


def _pixels(a):
    """Tiles of pixels of one phase."""
    strides = (a["ROWS"].stride, a["COLS"].stride) if a["TRANSPOSE"] else (1, 1)
    pixels = a["images"] * -(-a["OH"] // strides[0]) * -(-a["OW"] // strides[1])
    return -(-pixels // a["BLOCK_M"])


def _weight_tiles(a):
    return -(-a["ROWS"].taps * a["COLS"].taps * a["A"] // a["BLOCK_A"])


GROUPS = {  # of group norm, forward and backward
    "groups side by side": (lambda a: a["GROUPS"], 3),
    "partial groups": (lambda a: int(a["GROUPS"] > 1 and a["G"] > a["GROUPS"] and a["G"] % a["GROUPS"] > 0), 1),
    "partial width": (lambda a: a["BLOCK_W"] - a["WIDTH"], 1),
}

# kernel -> {what some launch must reach: (a number computed from the launch's arguments, its least value)}
DEMANDS = {
    "matmul._gemm": {
        "splits": (lambda a: a["splits"], 3),
        "partial split": (lambda a: int(a["splits"] >= 3 and a["K"] % a["chunk"] > 0), 1),
        "tiles of rows": (_tiles("M", "BLOCK_M"), 3),
        "tiles of columns": (_tiles("N", "BLOCK_N"), 3),
        "groups that wrap": (_wraps, 1),
    },
    "matmul._sum": {"parts": (lambda a: a["parts"], 3), "tiles": (_tiles("size", "BLOCK"), 2)},
    "conv._gather": {
        **{f"phases, stride {s}": (_phases(s), 1) for s in (1, 2, 3)},
        "tiles of pixels": (_pixels, 3),
        "tiles of channels": (_tiles("CO", "BLOCK_N"), 2),
    },
    "conv_weight._weights": {
        "shares": (_tiles("pixels", "share"), 3),
        "partial share": (lambda a: a["pixels"] % a["share"] % a["BLOCK_Q"], 1),
        "tiles of rows": (_weight_tiles, 3),
        "tiles of columns": (_tiles("B", "BLOCK_B"), 2),
    },
    "attention._forward": {
        "splits": (lambda a: a["splits"], 3),
        "partial split": (lambda a: int(a["splits"] >= 3 and a["Tk"] % a["length"] > 0), 1),
        "tiles of queries": (_tiles("Tq", "BLOCK_M"), 3),
    },
    "attention._combine": {"splits": (lambda a: a["splits"], 3)},
    "attention_backward._keys_and_values": {"tiles of keys": (_tiles("Tk", "BLOCK_N"), 3)},
    "attention_backward._queries": {"tiles of queries": (_tiles("Tq", "BLOCK_M"), 3)},
    "attention_backward._bias": {
        f"iterations, bias with {name}": (lambda a, own=own: a["iterations"] if a["OWN"] == own else 0, least)
        for name, own, least in (
            ("all axes", (True, True, True, True), 1),
            ("keys", (True, False, False, True), 3),
            ("pairs", (False, False, True, True), 3),
            ("none", (False, False, False, False), 3),
        )
    },
    "layer_norm._layer_norm_forward": {"programs": (_tiles("rows", "ROWS"), 3)},
    "group_norm._group_norm_forward": GROUPS,
    "group_norm._group_norm_backward": GROUPS,
    "batch_norm._join_strips": {"strips": (lambda a: a["strips"], 3)},
    "normalise._sum_parts": {"programs": (lambda a: a["programs"], 3)},
    "reductions._reduce": {
        "shares": (_tiles("n", "SHARE"), 3),
        "tiles of outer": (_tiles("outer", "BLOCK_O"), 2),
        "tiles of inner": (_tiles("inner", "BLOCK_K"), 2),
    },
}

ITERATIONS: dict = {}  # (file, line) -> [most iterations, most iterations of a run whose last one was partial]
GRIDS: dict = {}  # kernel -> most programs on each axis
REACHED: dict = {}  # kernel -> {what DEMANDS names: its largest value}
_running: dict = {}  # the launch that runs: its kernel's name and arguments


@functools.cache
def loops():
    """{"file.kernel:n": (file, line, step)} of every loop in the kernels' source that is not unrolled."""
    found = {}
    for path in FILES:
        for name, tree in kernels(path):
            ranges = [node.iter for node in ast.walk(tree) if isinstance(node, ast.For)]
            ranges = [c for c in ranges if ast.unparse(c.func) in ("range", "tl.range")]
            for i, call in enumerate(sorted(ranges, key=lambda c: c.lineno), 1):
                step = ast.unparse(call.args[2]) if len(call.args) > 2 else "1"
                found[f"{path.stem}.{name}:{i}"] = (str(path), call.lineno, step)
    return found


@functools.cache
def axes():
    """{"file.kernel": the axes of the grid on which it, or a function that it calls, asks for its place}."""
    found = {}
    for path in FILES:
        trees = dict(kernels(path))
        names = {name: {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} for name, tree in trees.items()}
        for name in trees.keys() - {n for one in names.values() for n in one}:
            parts = [trees[part] for part in (name, *names[name] & trees.keys())]
            used = {c.args[0].value for tree in parts for c in calls(tree, "program_id")}
            found.update({f"{path.stem}.{name}": sorted(used)} if used else {})
    return found


def watch():
    """Count from now on, in this process."""
    for path in FILES:
        vars(importlib.import_module(f"kernels.gpu.{path.stem}"))["range"] = _counted
    vars(interpreter)["range"] = _counted  # what tl.range becomes
    plain = interpreter.GridExecutor.__call__

    def noted(self, *arguments, **constants):
        _begin(self, {**dict(zip(self.arg_names, arguments)), **constants})
        return plain(self, *arguments, **constants)

    interpreter.GridExecutor.__call__ = noted


def _begin(executor, arguments):
    name = f"{Path(executor.fn.__code__.co_filename).stem}.{executor.fn.__name__}"
    _running.update(name=name, arguments=arguments)
    GRIDS[name] = [max(pair) for pair in zip(GRIDS.get(name, (0, 0, 0)), executor.grid)]
    best = REACHED.setdefault(name, {})
    for what, (number, _) in DEMANDS.get(name, {}).items():
        best[what] = max(best.get(what, 0), int(number(arguments)))


def _counted(*bounds):
    """The range, noted under the line that asked for it."""
    found, frame = builtins.range(*bounds), sys._getframe(1)
    if frame.f_code.co_name == "_new_range":  # the interpreter's tl.range
        frame = frame.f_back
    most = ITERATIONS.setdefault((frame.f_code.co_filename, frame.f_lineno), [0, 0])
    partial = PARTIAL.get(_running.get("name"))
    left = partial(_running["arguments"]) if partial else (found.stop - found.start) % found.step
    most[0] = max(most[0], len(found))
    most[1] = max(most[1], len(found) if left else 0)
    return found


def report() -> dict:
    """What was counted, by the names of kernels and the numbers of their loops."""
    iterations = {
        name: ITERATIONS[file, line] for name, (file, line, _) in loops().items() if (file, line) in ITERATIONS
    }
    return {"iterations": iterations, "grids": GRIDS, "reached": REACHED}


def merged(reports) -> dict:
    """Several reports as one: the largest of every number."""
    total: dict = {"iterations": {}, "grids": {}, "reached": {}}
    for one in reports:
        for part in ("iterations", "grids"):
            for name, numbers in one.get(part, {}).items():
                total[part][name] = [max(pair) for pair in zip(total[part].get(name, [0] * len(numbers)), numbers)]
        for name, reached in one.get("reached", {}).items():
            best = total["reached"].setdefault(name, {})
            best.update({what: max(best.get(what, 0), number) for what, number in reached.items()})
    return total


def missing(total) -> list:
    """What no launch reached, in words."""
    lacks = []
    for name, (_, _, step) in loops().items():
        most, partial = total["iterations"].get(name, (0, 0))
        if (most if step == "1" else partial) < 3:  # single steps leave nothing over
            lacks.append(f"{name}: {most} iterations at most, {partial} where the last is partial")
    for name, used in axes().items():
        for axis in used:
            programs = total["grids"].get(name, (0, 0, 0))[axis]
            if programs < 2:
                lacks.append(f"{name}: {programs} programs on axis {axis}")
    for name, demands in DEMANDS.items():
        for what, (_, least) in demands.items():
            found = total["reached"].get(name, {}).get(what, 0)
            if found < least:
                lacks.append(f"{name}: {what}: {found}, should be {least}")
    return lacks

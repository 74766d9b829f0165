"""Rules that every GPU kernel keeps, read from its source: what a reviewer would look for, looked for each time.

Masked loads say what stands beyond the mask, dots name their precision, nothing is atomic, nothing reads the device
from the host, and no kernel writes where it also reads unless it is a state operation or works on a buffer of its own.
"""

import ast

import pytest

from tests import ROOT

FILES = sorted((ROOT / "kernels" / "gpu").glob("*.py"))
LONGEST = 80  # lines of a kernel
HOST_READS = {"item", "get", "tolist", "asnumpy", "numpy"}  # methods that wait for the device
# Kernels that write where they read, and why they may.
IN_PLACE = {
    "matmul._store": {"y_ptr"},  # gemm's accumulate adds to the caller's own buffer
    "batch_norm._running_stats": {"running_mean_ptr", "running_var_ptr"},  # a state operation
    "random._advance": {"step_ptr"},  # a state operation
    "optim._next_scale": {"scale_ptr", "good_ptr"},  # a state operation
}


def kernels(path):
    """(name, syntax tree) of every function under @triton.jit."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            yield node.name, node


def wrappers(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            yield node.name, node


def calls(tree, name):
    """Calls of tl.<name> in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"tl.{name}":
            yield node


KERNELS = [pytest.param(path, tree, id=f"{path.stem}.{name}") for path in FILES for name, tree in kernels(path)]
WRAPPERS = [pytest.param(tree, id=f"{path.stem}.{name}") for path in FILES for name, tree in wrappers(path)]


def keywords(call):
    return {k.arg for k in call.keywords}


@pytest.mark.parametrize(("path", "tree"), KERNELS)
def test_masked_loads_say_what_lies_beyond(path, tree):
    bad = [ast.unparse(c) for c in calls(tree, "load") if "mask" in keywords(c) and "other" not in keywords(c)]
    assert not bad, bad


@pytest.mark.parametrize(("path", "tree"), KERNELS)
def test_dots_name_their_precision(path, tree):
    """By the constant that follows `use(tf32=...)`, none by a word of its own."""
    named = [{k.arg: ast.unparse(k.value) for k in call.keywords} for call in calls(tree, "dot")]
    assert all(given.get("input_precision") == "PRECISION" for given in named), named


@pytest.mark.parametrize(("path", "tree"), KERNELS)
def test_nothing_is_atomic_or_waits_for_another_program(path, tree):
    names = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not [n for n in names if "atomic" in n or "barrier" in n]


@pytest.mark.parametrize(("path", "tree"), KERNELS)
def test_kernels_are_short(path, tree):
    assert tree.end_lineno - tree.lineno < LONGEST


def pointers_of(tree, operation):
    """The pointer parameters that tl.load or tl.store goes through, as far as names show."""
    parameters = {a.arg for a in tree.args.args if a.arg.endswith("_ptr")}
    origin = {name: {name} for name in parameters}
    for node in ast.walk(tree):  # p = x_ptr + offsets makes p stand for x_ptr
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
            if "load" not in ast.unparse(node.value):
                origin.setdefault(node.targets[0].id, set()).update(*(origin.get(u, set()) for u in used))
    found = set()
    for call in calls(tree, operation):
        for n in ast.walk(call.args[0]):
            if isinstance(n, ast.Name):
                found |= origin.get(n.id, set()) & parameters
    return found


@pytest.mark.parametrize(("path", "tree"), KERNELS)
def test_what_is_read_is_not_written(path, tree):
    both = pointers_of(tree, "load") & pointers_of(tree, "store")
    assert both <= set(IN_PLACE.get(f"{path.stem}.{tree.name}", ())), f"reads and writes through {sorted(both)}"


@pytest.mark.parametrize("tree", WRAPPERS)
def test_no_function_reads_the_device_from_the_host(tree):
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    assert not [ast.unparse(n) for n in attributes if n.func.attr in HOST_READS and not n.args]


def test_the_rules_see_a_breach():
    """Each rule on a kernel that breaks it."""
    source = """
@triton.jit
def bad(x_ptr, y_ptr):
    p = x_ptr + 1
    x = tl.load(p, mask=True)
    z = tl.dot(x, x)
    tl.atomic_add(y_ptr, z)
    tl.store(x_ptr, z)
"""
    tree = ast.parse(source).body[0]
    for rule in (
        test_masked_loads_say_what_lies_beyond,
        test_dots_name_their_precision,
        test_nothing_is_atomic_or_waits_for_another_program,
        test_what_is_read_is_not_written,
    ):
        with pytest.raises(AssertionError):
            rule(FILES[0], tree)
    with pytest.raises(AssertionError):
        test_no_function_reads_the_device_from_the_host(ast.parse("def f(x):\n    return x.item()").body[0])

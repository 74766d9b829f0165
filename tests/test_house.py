"""Rules about the source itself: which frameworks it may import, how long a file gets, where the next thing to read is.

Which of its own files a file may import is in test_arrows.py.
"""

import ast
import re
import subprocess
import sys

import pytest

from tests import ROOT

FILES = sorted(p for folder in ("core", "kernels", "models", "bench", "tests") for p in (ROOT / folder).rglob("*.py"))
LONGEST = 320  # lines in a file ...
ENGINE = 360  # ... but for the engine, which is read as one


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("folder", ["core", "models"])
def test_forbidden_imports(folder):
    forbidden = {"torch", "triton", "numba"}
    found = {(p.name, name) for p in (ROOT / folder).rglob("*.py") for name in imports(p) if name in forbidden}
    assert not found


def test_training_loads_no_framework():
    """Importing every model brings in no torch, triton, numba or cupy, not even by way of another package."""
    code = "import sys, models; print([m for m in ('torch', 'triton', 'numba', 'cupy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_is_short_and_says_what_it_is(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= (ENGINE if path == ROOT / "core" / "engine.py" else LONGEST)
    assert ast.get_docstring(ast.parse(source)), "a file opens with what lives in it, and why"


def told(path, what):
    """The files that a header names after `# what:`, in order."""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition(f"# {what}:")[2]
    return [ROOT / name for name in re.findall(r"[\w-]+(?:/[\w-]+)+\.(?:py|md)", line.partition("\n# ")[0])]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_to_read_next_and_why_is_there(path):
    missing = [name for what in ("next", "why") for name in told(path, what) if not name.exists()]
    assert not missing


@pytest.mark.parametrize(
    ("first", "last", "on_the_way"),
    [
        ("core/engine.py", "core/functional/__init__.py", "core/reference/conv.py"),
        ("kernels/cpu/common.py", "kernels/gpu/common.py", "kernels/cpu/*.py"),
        ("kernels/gpu/common.py", "bench/tools/check.py", "kernels/gpu/*.py"),
    ],
)
def test_the_chain_of_next_files_leaves_none_out(first, last, on_the_way):
    seen, path = [], ROOT / first
    while path != ROOT / last:
        assert path not in seen, f"{path} comes twice"
        seen.append(path)
        path = told(path, "next")[0]
    assert {p for p in ROOT.glob(on_the_way) if p.name != "__init__.py"} <= set(seen)


def test_public_functions_have_docstrings_or_are_plain_names():
    """Functions of core.functional that take options say what shapes they take."""
    for path in (ROOT / "core" / "functional").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.args.kwonlyargs:
                assert ast.get_docstring(node), f"{path.name}: {node.name}"

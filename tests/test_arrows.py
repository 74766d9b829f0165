"""Who may import whom: the arrows between folders, the order within `core`, and no circle of modules anywhere.

    core <- kernels    core <- models    core, kernels, models <- bench    all of them <- tests

Every file is parsed, so that an import inside a function counts as one at its top: neither reads alone. Importing
a.b.c also runs the `__init__` files of a and a.b, which is not counted: who asks for a module does not ask for what its
folder gathers.
"""

import ast
import functools
import itertools

import pytest

from tests import ROOT

MAY = {  # folder: the folders that it may import
    "core": {"core"},
    "kernels": {"core", "kernels"},
    "models": {"core", "models"},
    "bench": {"core", "kernels", "models", "bench"},
    "tests": {"core", "kernels", "models", "bench", "tests"},
}
# Within core a module imports what stands on its own line or an earlier one.
STOREYS = (
    ("core.arrays", "core.check"),
    ("core.engine",),
    ("core.observe", "core.reference"),
    ("core.table",),
    ("core.dispatch",),
    ("core.operators", "core.random"),
    ("core.functional",),
    ("core.module", "core.nn", "core.optim", "core.checkpoint", "core.interop"),
    ("core.runtime",),
)


@functools.cache
def parse():
    """{module: (path relative to the root, syntax tree)} of everything that arrows run between."""
    paths = sorted(path for folder in MAY for path in (ROOT / folder).rglob("*.py"))
    found = {}
    for path in paths:
        place = path.relative_to(ROOT)
        parts = place.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (place, ast.parse(path.read_text(encoding="utf-8")))
    return found


def imported(node, modules, package):
    """The project's modules that an import statement asks for; `package` is where it stands."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in modules]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    source = ".".join([*above, *([node.module] if node.module else [])])
    wanted = (f"{source}.{alias.name}" for alias in node.names)
    return [name for name in (w if w in modules else source for w in wanted) if name in modules]


def imports(name, place, tree):
    """{(importer, imported): "file:line: imports module"} of one module, the first place of each."""
    found: dict = {}
    package = name if place.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        for other in imported(node, parse(), package):
            if other != name:
                found.setdefault((name, other), f"{place}:{node.lineno}: imports {other}")
    return found


@functools.cache
def every_import():
    """The imports of all modules."""
    return {pair: line for name, (place, tree) in parse().items() for pair, line in imports(name, place, tree).items()}


def against_the_arrows(found):
    """The imports from a folder that the importer's folder may not use."""
    folder = lambda name: name.partition(".")[0]
    return [line for (a, b), line in found.items() if folder(b) not in MAY[folder(a)]]


def storey(name):
    matches = [i for i, names in enumerate(STOREYS) for n in names if f"{name}.".startswith(f"{n}.")]
    return matches[0] if matches else None


def against_the_storeys(found):
    """The imports within core of what stands above; core/__init__.py gathers from all."""
    within = [(pair, line) for pair, line in found.items() if all(n.startswith("core.") for n in pair)]
    return [line for (a, b), line in within if storey(b) > storey(a)]


def circles(found):
    """A line for each set of modules that reach each other, with the imports that close it."""
    after: dict = {}
    for a, b in found:
        after.setdefault(a, set()).add(b)
    reach = {name: reached(after, name) for name in after}
    together = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in after if a in reach[a]}
    return [
        "circle: " + "; ".join(line for (a, b), line in found.items() if a in circle and b in circle)
        for circle in sorted(together, key=sorted)
    ]


def reached(after, start):
    """The modules that `start` imports, and what those import, and so on."""
    seen, ahead = set(), [start]
    while ahead:
        new = after.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


def test_imports_follow_the_arrows_between_folders():
    wrong = against_the_arrows(every_import())
    assert not wrong, "\n".join(wrong)


def test_every_file_of_core_has_its_storey():
    assert [name for name in parse() if name.startswith("core.") and storey(name) is None] == []


def test_core_is_built_from_the_ground_up():
    wrong = against_the_storeys(every_import())
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    wrong = circles(every_import())
    assert not wrong, "\n".join(wrong)


FORBIDDEN = [
    ("core.check", "import kernels.launch", "core/check.py:1: imports kernels.launch"),
    ("kernels.launch", "def f():\n    from models import datasets", "kernels/launch.py:2: imports models.datasets"),
    ("models.gan", "from bench.parity import rule", "models/gan.py:1: imports bench.parity.rule"),
    ("bench.roofline", "from tests import ROOT", "bench/roofline.py:1: imports tests"),
    ("kernels.cpu.conv", "from ..gpu import conv\nfrom ...bench import roofline", "conv.py:2: imports bench.roofline"),
    ("core.engine", "def f():\n    from core import dispatch", "core/engine.py:2: imports core.dispatch"),
    ("core.arrays", "from core import optim", "core/arrays.py:1: imports core.optim"),
    ("core.functional.conv", "from core.runtime import threads", "conv.py:1: imports core.runtime.threads"),
    (
        "models.layers.unet",
        "def f():\n    import models.diffusion",
        "models/layers/unet.py:2: imports models.diffusion",
    ),
    ("bench.parity.rule", "from bench.parity.yours import main", "bench/parity/rule.py:1: imports bench.parity.yours"),
]


@pytest.mark.parametrize(("module", "line", "named"), FORBIDDEN, ids=[f"{m}: {n}" for m, _, n in FORBIDDEN])
def test_a_forbidden_import_is_found_and_its_line_is_named(module, line, named):
    place, tree = parse()[module]
    added = imports(module, place, ast.Module([*ast.parse(line).body, *tree.body], type_ignores=[]))
    before, after = complaints(every_import()), complaints({**every_import(), **added})
    assert any(named in complaint for complaint in set(after) - set(before))


def complaints(found):
    return list(itertools.chain(against_the_arrows(found), against_the_storeys(found), circles(found)))

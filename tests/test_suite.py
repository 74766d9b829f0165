"""The suite's own rules: a folder beyond its share fails a whole run, and what passes once is not run again."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import ROOT, suite


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [("tests/core/runtime/test_threads.py::test_a", "core"), ("tests/test_pages.py::test_b[x/y]", "pages")],
)
def test_a_test_belongs_to_its_folder(nodeid, name):
    assert suite.folder(nodeid) == name and name in suite.SHARES


def test_a_folder_beyond_its_share_is_named():
    option = SimpleNamespace(keyword="", markexpr="not full", collectonly=False)
    config = SimpleNamespace(option=option, args=["tests"], getini=lambda name: ["tests"], getoption=lambda name: False)
    one = suite.Suite(config)
    one.seconds.update({"bench": 36, "core": 20, "kernels": 17, "models": 24, "pages": 3})
    assert one.whole() and one.beyond() == []
    one.seconds["core"] = 60
    assert one.beyond() == ["tests/core took 43% of the time, its share is 35% (tests/suite.py)"]
    option.keyword = "something"
    assert not one.whole()


def test_what_passed_on_other_sources_is_run_again(tmp_path, monkeypatch):
    config = SimpleNamespace(getoption=lambda name: True)
    monkeypatch.setattr(suite, "PASSED", tmp_path / "passed")
    (tmp_path / "passed").write_text('"one"\n["tests/test_a.py::test_b", 0.5]\n')
    for state, before in (("one", {"tests/test_a.py::test_b": 0.5}), ("two", {})):
        monkeypatch.setattr(suite, "sources", lambda state=state: state)
        assert suite.Suite(config).before == before
    assert (tmp_path / "passed").read_text() == '"two"\n'


def test_what_has_passed_is_not_run_again(tmp_path):
    """A run with --resume, twice, in a process of its own with a file of its own."""
    code = f"""
import sys, pytest
from pathlib import Path
from tests import suite
suite.PASSED, suite.SUMMARY = Path({str(tmp_path / "passed")!r}), Path({str(tmp_path / "page.md")!r})
suite.sources = lambda: sys.argv[1]
sys.exit(pytest.main(["-p", "no:cacheprovider", "--resume", "tests/models/layers/test_schedules.py"]))
"""
    run = lambda state: subprocess.run([sys.executable, "-c", code, state], cwd=ROOT, capture_output=True, text=True)
    first, again = run("one"), run("one")
    assert first.returncode == 0 and "passed" in first.stdout
    assert again.returncode == 0 and "deselected" in again.stdout and " passed" not in again.stdout
    assert not (tmp_path / "page.md").exists(), "a page about everything was written of a part"

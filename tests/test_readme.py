"""The figures of the README and of docs/results.md are the recorded ones; other pages: tests/test_pages.py."""

import json
import re

from bench.gpu.report import devices
from bench.parity.tables import load_report
from core.table import TABLE, Kernel
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_readme_is_one_page():
    assert README.count("\n") <= 120
    assert "**No kernel has run on a GPU yet**" in README.partition("##")[0] or devices()


def test_its_evidence_is_what_was_recorded():
    _, rows = load_report()
    failed = sum(not row.passed for row in rows)
    assert f"{len(rows):,} comparisons with PyTorch, {failed} failed" in README
    kernels = [name for name, row in TABLE.items() if isinstance(row.kernels.get("cuda"), Kernel)]
    assert f"{len(kernels)} operations have one" in README


def test_quoted_figures_are_the_recorded_ones():
    """The demo's table is that of docs/demo.json, the figures.json of the run that the pictures come from."""
    recorded = json.loads((ROOT / "docs" / "demo.json").read_text())["models"]
    quoted = {
        "classes": recorded["gan"]["figures"]["classes"],
        "variety": round(recorded["gan"]["figures"]["variety"], 2),
        "-ELBO": round(recorded["vae"]["figures"]["neg_elbo"], 1),
        "nats a character": round(recorded["gpt"]["figures"]["nats_per_character"], 3),
    }
    for words, value in quoted.items():
        assert re.search(rf"{words} \*\*{re.escape(str(value))}\*\*", RESULTS), f"should say {words} **{value}**"

"""The README keeps its word: its example prints what it says, its links lead somewhere, its figures are the demo's."""

import json
import re
import subprocess
import sys

from tests.test_house import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_the_readme_says():
    code, printed = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [t for t in targets if not t.startswith("http")]
    assert len(local) >= 7
    assert not [t for t in local if not (ROOT / t).exists()]


def test_paths_in_the_text_exist():
    paths = re.findall(r"`((?:core|models|kernels|bench|tests|docs)/[\w/.]+)`", README)
    assert len(paths) > 10
    assert not [p for p in paths if not (ROOT / p).exists()]


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
        assert re.search(rf"{words} \*\*{re.escape(str(value))}\*\*", README), f"README should say {words} **{value}**"

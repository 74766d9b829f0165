"""The pages keep their word: examples print what the README and docs/kernels say, the README's links lead somewhere,
its figures are the demo's."""

import json
import re
import subprocess
import sys

import pytest

from tests.test_house import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted((ROOT / "docs" / "kernels").glob("*.md")), ROOT / "docs" / "gpu.md"]


def examples(page):
    """(code, what it prints) of every Python block that is followed by its output."""
    block = r"((?:(?!```).)*)```"
    return re.findall(rf"```python\n{block}\n+```text\n{block}", page.read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = [
    pytest.param(*example, id=f"{page.stem}-{i}")
    for page in (ROOT / "README.md", *PAGES)
    for i, example in enumerate(examples(page), 1)
]


def test_every_example_of_a_page_shows_its_output():
    assert examples(ROOT / "README.md")
    for page in PAGES:
        assert len(examples(page)) == page.read_text(encoding="utf-8").count("```python"), page.name


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_examples_print_what_the_pages_say(code, printed):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [t for t in targets if not t.startswith("http")]
    assert len(local) >= 7
    assert not [t for t in local if not (ROOT / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_of_a_kernel_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)$", text, re.MULTILINE)
    assert not [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]


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

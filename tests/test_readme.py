"""The README's figures are the demo's; what else it says is judged with the other pages, in tests/test_pages.py."""

import json
import re

from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


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

"""How much of what a model writes is recited: shares against brute force, and what goes into the figures of poems."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation import memorisation
from models.evaluation.memorisation import grams, lines, share

TEXTS = st.text("ab\n", max_size=40)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_grams_against_brute_force(text, known, n):
    """Every piece of n characters that no line end is in, looked for in the known text as it stands."""
    pieces = [text[i : i + n] for i in range(len(text)) if i + n <= len(text) and "\n" not in text[i : i + n]]
    assert sorted(grams(text, n)) == sorted(pieces)
    found = sum(known.find(piece) >= 0 for piece in pieces)
    assert share(grams(text, n), grams(known, n)) == (found / len(pieces) if pieces else 0)


@given(TEXTS, TEXTS)
def test_lines_against_brute_force(text, known):
    whole = [line for line in text.split("\n") if line]
    found = sum(f"\n{line}\n" in f"\n{known}\n" for line in whole)
    assert share(lines(text), lines(known)) == (found / len(whole) if whole else 0)


POEMS = SimpleNamespace(
    train="title\nabcdef\nghijkl\nmnopqr\n\nsecond\nstuvwx\nyz0123\n\n", test="abcde\nuvwxyz\n45\n\n"
)


class Writer:
    """By itself it recites a line, changes one, and is cut off in a third; after a beginning it says what is `next`."""

    data = POEMS
    next = {"title\nabcdef\n": "ghijkX", "second\nstuvwx\n": "yz0123\nX", "abcde\nuvwxyz\n": "6789"}

    def generate(self, prompt, n, number=0, temperature=0.8):
        if temperature:
            return prompt + ("abcdef\nabcdeX\nghijk" if number == 0 else "")
        return prompt + self.next[prompt]


def test_figures_of_a_writer():
    found = memorisation.figures(Writer())
    assert found.pop("written_5_characters") == pytest.approx(3 / 4), "abcde, bcdef, abcde of 4; none of what was cut"
    assert found.pop("written_lines") == 1 / 2
    assert found.pop("held_out_5_characters") == pytest.approx(1 / 3), "abcde, but not uvwxy and vwxyz"
    assert found.pop("held_out_lines") == 0
    assert found.pop("continued_known_5_characters") == pytest.approx(3 / 4), "ghijk, yz012, z0123, but not hijkX"
    assert found.pop("continued_held_out_5_characters") == 0 and not found

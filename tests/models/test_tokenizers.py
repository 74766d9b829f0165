"""Tokenizers, and choosing tokens: sampling filters against plain definitions, beam search against brute force."""

import itertools

import numpy as np
import pytest

from core import Generator
from models import tokenizers
from models.layers.sampling import beam_search, choose, greedy, probabilities

LINES = ["the cat sat on the mat", "el gato se sentó en la estera", "¿qué? — “sí”", "ΑΒΓ 日本 🙂"]


def test_characters_round_trip():
    t = tokenizers.Characters.of("".join(LINES))
    again = tokenizers.from_json(t.to_json())
    assert all(again.decode(t.encode(line)) == line for line in LINES) and again.size == t.size
    with pytest.raises(ValueError, match="does not know: 'xyz'"):
        t.encode("zyx")


def test_bpe_round_trip():
    t = tokenizers.BPE.of(LINES * 3, 300)
    again = tokenizers.from_json(t.to_json())
    for line in [*LINES, "words it has never seen: Ж\t\n"]:
        assert again.decode(t.encode(line)) == line and again.encode(line) == t.encode(line)
    assert t.size <= 300 and max(t.encode("the the the")) < t.size
    assert [t.tokenizer.token_to_id(s) for s in tokenizers.SPECIAL] == [tokenizers.PAD, tokenizers.BOS, tokenizers.EOS]


def test_probabilities():
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    assert probabilities(logits) == pytest.approx(np.exp(logits))
    hot = probabilities(logits, temperature=2.0)
    assert hot == pytest.approx(np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True))
    assert probabilities(logits, top_k=2)[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(logits, top_k=2)[1] == pytest.approx([0, 0, 3 / 7, 4 / 7])
    assert probabilities(logits, top_p=0.6)[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(logits, top_p=1e-9)[1] == pytest.approx([0, 0, 0, 1])


def test_choose_draws_what_it_should():
    p = np.array([0.5, 0.3, 0.2, 0.0])
    logits = np.log(np.maximum(p, 1e-300))[None].repeat(20_000, 0)
    with Generator(0):
        counts = np.bincount(choose(logits), minlength=4) / 20_000
        assert choose(logits[:5], temperature=0).tolist() == [0] * 5
    assert np.abs(counts - p).max() < 0.015 and counts[3] == 0  # 4 standard errors are 0.014


class Toy:
    """A language of 4 tokens (3 ends a sentence) whose next-token probabilities depend on the whole prefix."""

    def __init__(self, seed):
        self.table = {}
        self.rng = np.random.default_rng(seed)
        self.prefixes = None

    def logp(self, prefix):
        if prefix not in self.table:
            z = self.rng.standard_normal(4) * 2
            self.table[prefix] = z - np.log(np.exp(z).sum())
        return self.table[prefix]

    def step(self, tokens):
        self.prefixes = [(*p, int(t)) for p, t in zip(self.prefixes, tokens[:, 0])]
        return np.stack([self.logp(p) for p in self.prefixes])

    def reorder(self, index):
        self.prefixes = [self.prefixes[i] for i in index]


def best(toy, most, alpha):
    """Every finished sentence of at most `most` tokens, the end mark counted."""
    found = []
    for length in range(most):
        for words in itertools.product(range(3), repeat=length):
            prefix, score = (9,), 0.0
            for w in words:
                score += toy.logp(prefix)[w]
                prefix = (*prefix, w)
            found.append(((score + toy.logp(prefix)[3]) / ((6 + length) / 6) ** alpha, list(words)))
    return max(found, key=lambda f: f[0])[1]


@pytest.mark.parametrize("seed", range(5))
def test_wide_beam_search_finds_the_best_sentence(seed):
    toy = Toy(seed)
    toy.prefixes = [()] * 100
    assert beam_search(toy.step, toy.reorder, 9, 3, 4, 100) == best(toy, 4, 0.6)


@pytest.mark.parametrize("seed", range(20))
def test_narrow_beam_search_gives_a_finished_sentence(seed):
    """Where some beam has ended, the answer is the best ended one, however long a sentence might have been."""
    toy, ended = Toy(seed), []

    def step(tokens):
        logits = toy.step(tokens)
        ended.extend((*p, 3) for p in toy.prefixes)
        return logits

    toy.prefixes = [()] * 4
    words = beam_search(step, toy.reorder, 9, 3, 40, 4)
    assert (9, *words, 3) in ended

    def value(sentence):
        score = sum(toy.logp(sentence[:i])[sentence[i]] for i in range(1, len(sentence)))
        return score / ((5 + len(sentence) - 1) / 6) ** 0.6

    assert value((9, *words, 3)) >= max(value(s) for s in ended if len(s) <= len(words) + 2) - 1e-9


def test_greedy_is_a_beam_of_the_likeliest():
    toy = Toy(11)
    toy.prefixes = [(), ()]
    rows = greedy(toy.step, np.array([9, 9]), 3, 6)
    prefix, words = (9,), []
    while len(words) < 6 and (w := int(toy.logp(prefix).argmax())) != 3:
        words.append(w)
        prefix = (*prefix, w)
    assert rows == [words, words]

"""Figures of a language model: how well it predicts held-out text, and what the text that it writes is made of.

Each piece that it writes continues a stretch of held-out text, and is set beside the piece that really follows there,
as long as itself: what real text of the same kind scores is the second column.
"""

import re

import numpy as np

from models.datasets import DataError
from models.evaluation import plots
from models.evaluation.bootstrap import RESAMPLES, of_mean
from models.evaluation.report import Figure, Report
from models.training.progress import progress

PIECES, LENGTH, PROMPT, LEAST = 20, 500, 64, 16  # pieces, characters of each, of held-out text before it, at least
TEMPERATURE = 0.8
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text) -> list:
    """The words of a piece that may begin and end within one: those two are left out."""
    return WORD.findall(text.lower())[1:-1]


def longest_copied(text, source) -> int:
    """The number of characters of the longest stretch of `text` that stands in `source` as well."""
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start : start + best + 1] in source:
            best += 1
    return best


def held_out_pieces(text, n) -> list:
    """n stretches (what stands before, piece), evenly spaced over `text`, apart from each other."""
    space = len(text) // n
    length = min(LENGTH, space - PROMPT)
    if length < LEAST:
        most = len(text) // (PROMPT + LEAST)
        if not most:
            raise DataError(f"evaluate: the held-out text has {len(text)} characters, should have {PROMPT + LEAST}")
        raise DataError(f"evaluate: -n is {n}, should be at most {most}: the held-out text has {len(text)} characters")
    starts = [i * space + PROMPT for i in range(n)]
    return [(text[s - PROMPT : s], text[s : s + length]) for s in starts]


def written(trainer, pieces):
    """What the model writes in the place of each held-out piece, as long as that."""
    found = []
    for i, (before, piece) in enumerate(progress(pieces, desc="texts", unit="text")):
        text = trainer.generate(before, len(piece), temperature=TEMPERATURE, number=i)
        found.append(text[len(before) :][: len(piece)])
    return found


def losses(trainer, batches) -> tuple:
    """(summed nats, tokens) of each window in batches of (ids, targets)."""
    nats, tokens = [], []
    with trainer.evaluating():
        for ids, targets in batches:
            loss = trainer.model.loss(trainer.xp.asarray(ids), trainer.xp.asarray(targets), reduction="none")
            nats += loss.numpy().astype(np.float64).sum(-1).tolist()
            tokens += [targets.shape[1]] * len(targets)
    return np.array(nats), np.array(tokens)


def bits_per_character(trainer, batches, ids):
    """Of the tokens `ids` in `batches`; each window counts by its tokens, all at the same characters a token."""
    nats, tokens = losses(trainer, batches)
    per_token = len(trainer.tokenizer.decode(ids[1:])) / (len(ids) - 1)
    return of_mean(nats / np.log(2), tokens * per_token)


def training_batches(trainer, tokens):
    """The last windows of the training text, about as many tokens as are held out; and those tokens."""
    t, b = trainer.config.context, trainer.config.batch
    n = max(min(tokens, len(trainer.train_ids) - 1) // t, 1)
    ids = trainer.train_ids[-n * t - 1 :]
    rows = ids[:-1].reshape(n, t), ids[1:].reshape(n, t)
    return [(rows[0][i : i + b], rows[1][i : i + b]) for i in range(0, n, b)], ids


def known_words(texts, vocabulary):
    """The share of words that are in `vocabulary`, resampled by texts."""
    found = [found for text in texts if (found := words(text))]  # a resample of none would have no share
    known = [sum(w in vocabulary for w in piece) for piece in found]
    return of_mean(known, [len(piece) for piece in found]) if found else 0.0


def evaluate(run, trainer, n=None) -> Report:
    corpus, ids = trainer.data, trainer.test_ids
    pieces = held_out_pieces(corpus.test, n or max(min(PIECES, len(corpus.test) // (PROMPT + LEAST)), 1))
    bits = bits_per_character(trainer, trainer.batches("test"), ids)
    seen = bits_per_character(trainer, *training_batches(trainer, len(ids)))
    ours, real = written(trainer, pieces), [piece for _, piece in pieces]
    vocabulary = set(WORD.findall(corpus.train.lower()))
    bar = progress(ours + real, desc="copies", unit="text")
    spans = [longest_copied(text, corpus.train) for text in bar]
    mine, others = spans[: len(ours)], spans[len(ours) :]
    return Report.of(
        run,
        trainer,
        beside="real, held out",
        settings={
            "texts": f"{len(pieces)} of {len(real[0])} characters, each continues {PROMPT} characters of held-out text",
            "sampling": f"temperature {TEMPERATURE}, no top-k, no top-p",
            "loss": f"over all {len(ids) - 1:,} held-out tokens, in windows of {trainer.config.context}",
            "intervals": f"95 %, bootstrap over windows or texts, {RESAMPLES} resamples",
        },
        figures=[
            Figure("bits_per_character", bits, "held-out text; lower is better"),
            Figure("bits_per_character_seen", seen, "the end of the training text; far lower means learnt by heart"),
            Figure(
                "known_words",
                known_words(ours, vocabulary),
                "share of words that the training text has",
                known_words(real, vocabulary),
            ),
            Figure(
                "longest_copied",
                of_mean(mine),
                "longest stretch copied from training, characters, mean",
                of_mean(others),
            ),
            Figure("longest_copied_of_all", max(mine), "the longest of all texts", max(others)),
        ],
        pictures=[plots.spans(mine, others)],
    )

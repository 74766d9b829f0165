"""Figures of a translator: held-out loss, and chrF and BLEU of its translations, by sacrebleu.

Beside them stands what copying the source unchanged scores; the reference itself scores 100 by definition. The
signatures say how sacrebleu counted (Post 2018): only figures with the same signature can be compared.
"""

import math

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from core import check
from models.evaluation import plots
from models.evaluation.bootstrap import RESAMPLES, Interval, of_mean
from models.evaluation.report import Figure, Report
from models.tokenizers import PAD
from models.training.progress import progress

SENTENCES, BEAMS = 200, 4


class InDoubles:
    """sacrebleu resamples in float32, whose mean it cannot take beside a plain 0.0; counts are exact in both."""

    def _compute_score_from_stats(self, stats):
        return super()._compute_score_from_stats([float(s) for s in stats])  # type: ignore[misc]


class DoubleCHRF(InDoubles, CHRF):
    """chrF (Popovic 2015)."""


class DoubleBLEU(InDoubles, BLEU):
    """BLEU (Papineni et al. 2002)."""


METRICS = (
    ("chrF", DoubleCHRF, "character n-grams shared with the reference"),
    ("BLEU", DoubleBLEU, "word n-grams shared with it"),
)


def score(metric, hypotheses, references) -> tuple:
    """(Interval, signature) by sacrebleu and its own bootstrap over sentences, whose mean is the interval's middle."""
    measure = metric(references=[references])
    found = measure.corpus_score(hypotheses, None, n_bootstrap=RESAMPLES)
    low, high = found._mean - found._ci, found._mean + found._ci
    return Interval(found.score, low, high), str(measure.get_signature())


def loss_per_token(trainer):
    """Held-out nats a token, by sentences."""
    source, decoder_input, target = trainer.test_ids
    nats, b = [], trainer.config.batch
    with trainer.evaluating():
        for i in range(0, len(source), b):
            batch = (trainer.xp.asarray(a[i : i + b]) for a in (source, decoder_input, target))
            nats.append(trainer.model.loss(*batch, reduction="none").numpy().astype(np.float64).sum(-1))
    return of_mean(np.concatenate(nats), (target != PAD).sum(-1))


def translated(trainer, sources, beams):
    bar = progress(sources, desc="greedy" if beams == 1 else f"{beams} beams", unit="sentence")
    return [trainer.translate(source, beams) for source in bar]


def evaluate(run, trainer, n=None) -> Report:
    pairs = trainer.data.test
    n = min(SENTENCES, len(pairs)) if n is None else n
    if n > len(pairs):
        check.fail("evaluate", "-n", n, f"at most {len(pairs)}, the held-out sentences")
    sources, references = [s for s, _ in pairs[:n]], [t for _, t in pairs[:n]]
    loss = loss_per_token(trainer)
    found, signatures = [], {}
    for beams, how in ((1, "greedy"), (BEAMS, "beam")):
        ours = translated(trainer, sources, beams)
        for name, metric, meaning in METRICS:
            copied = score(metric, sources, references)[0]
            value, signatures[name] = score(metric, ours, references)
            found.append(Figure(f"{name} {how}", value, meaning, copied))
    return Report.of(
        run,
        trainer,
        beside="source copied",
        settings={
            "sentences": f"the first {n} held-out ones; the reference itself scores 100",
            "search": f"greedy; {BEAMS} beams, length penalty alpha 0.6; at most {trainer.config.length - 1} tokens",
            **{f"{name} signature": signature for name, signature in signatures.items()},
            "intervals": f"95 %; scores: sacrebleu's bootstrap, {RESAMPLES} resamples; loss: bootstrap over sentences",
        },
        figures=[
            Figure("nats_per_token", loss, "held-out loss, no label smoothing; lower is better"),
            Figure("perplexity", Interval(*map(math.exp, loss)), "exp of it"),
            *found,
        ],
        pictures=[plots.scores(found)],
    )

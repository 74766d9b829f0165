"""Choosing tokens: temperature, top-k and top-p sampling, greedy choice, beam search.

Logits are NumPy arrays (B, V); a `step` function feeds tokens (B, T) to a model and returns the logits of the last.
"""

import numpy as np

from core import check, random


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """softmax(logits / temperature), limited to the top_k likeliest tokens (0: all) and to the smallest set of
    likeliest tokens that has probability top_p (Holtzman et al. 2020). (B, V) -> (B, V), float64."""
    check.number("sampling", "temperature", temperature, 0)
    check.count("sampling", "top_k", top_k, 0)
    check.probability("sampling", "top_p", top_p)
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if not value:
            check.fail("sampling", name, value, "above 0")
    logits = logits.astype(np.float64) / temperature
    order = np.argsort(-logits, axis=-1, kind="stable")
    z = np.take_along_axis(logits, order, -1)
    p = np.exp(z - z[:, :1])
    p /= p.sum(-1, keepdims=True)
    keep = np.cumsum(p, -1) - p < top_p  # the likeliest token always stays
    if top_k:
        keep[:, top_k:] = False
    p = np.where(keep, p, 0)
    out = np.empty_like(p)
    np.put_along_axis(out, order, p / p.sum(-1, keepdims=True), -1)
    return out


def choose(logits, temperature=1.0, top_k=0, top_p=1.0):
    """One token per row (B,), drawn by the current generator; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    u = random.uniform((len(logits),), np.float64)
    u = u.get() if hasattr(u, "get") else u
    cumulative = np.cumsum(probabilities(logits, temperature, top_k, top_p), -1)
    return np.minimum((cumulative <= u[:, None] * cumulative[:, -1:]).sum(-1), logits.shape[-1] - 1)


def greedy(step, start, end: int, most: int):
    """Follow the likeliest token from `start` (B,) until every row has said `end`: a list of B lists of ids."""
    check.count("greedy", "most", most, 0)
    rows: list = [[] for _ in start]
    tokens = start
    alive = np.ones(len(start), bool)
    for _ in range(most):
        tokens = step(tokens[:, None]).argmax(-1)
        alive &= tokens != end
        for row, token, going in zip(rows, tokens, alive):
            if going:
                row.append(int(token))
        if not alive.any():
            break
    return rows


def beam_search(step, reorder, start: int, end: int, most: int, beams: int, alpha: float = 0.6):
    """The best sequence found by keeping the `beams` likeliest prefixes at each length.

    `step` takes tokens (beams, 1), `reorder` an index that says which prefix each row continues. Finished sequences
    compete by log probability / ((5 + length) / 6)^alpha (Wu et al. 2016, equation 14).
    """

    check.count("beam_search", "most", most)
    check.count("beam_search", "beams", beams)
    check.number("beam_search", "alpha", alpha, 0)

    def value(score, length):
        return score / ((5 + length) / 6) ** alpha

    tokens, scores = np.full(beams, start), np.full(beams, -np.inf)
    scores[0] = 0  # all beams begin alike: let one of them speak
    rows: list = [[] for _ in range(beams)]
    finished: list = []
    for length in range(1, most + 1):
        logits = step(tokens[:, None]).astype(np.float64)
        top = logits.max(-1, keepdims=True)
        logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        total = (scores[:, None] + logp).reshape(-1)
        best = np.argsort(-total, kind="stable")[: 2 * beams]  # enough, even if half of them end
        best = best[total[best] > -np.inf]
        origins, words = np.divmod(best, logits.shape[-1])
        finished += [(value(total[b], length), rows[o]) for b, o, w in zip(best, origins, words) if w == end]
        going = [(b, o, w) for b, o, w in zip(best, origins, words) if w != end][:beams]
        if not going or (finished and max(finished)[0] >= value(total[going[0][0]], most)):
            break  # a score only falls, so nothing that goes on can end better than this
        scores = np.full(beams, -np.inf)  # fewer prefixes than beams go on at first: the rest stay silent
        scores[: len(going)] = [total[b] for b, _, _ in going]
        going += [going[0]] * (beams - len(going))
        rows, tokens = [[*rows[o], int(w)] for _, o, w in going], np.array([w for _, _, w in going])
        reorder(np.array([o for _, o, _ in going]))
    return max(finished, key=lambda f: f[0])[1] if finished else rows[int(scores.argmax())]

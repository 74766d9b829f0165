"""State operations on the CPU against the reference, bit by bit; and kernels cut into pieces that are tested as whole.

Small arrays are not shared out, since handing over work costs more than it: here they are, over three threads.
"""

import numpy as np
import pytest

from bench.parity.cases import CASES, case_id
from bench.parity.comparing import compare
from core.reference import optim as reference
from core.runtime import threads
from kernels.cpu import batch_norm, embedding, layer_norm, optim, pointwise, random

SHAPES = [(3, 5), (), (100, 1001), (0, 4), (64,), (70_001,)]
PIECES = [c for c in CASES if c.op in ("layer_norm", "add_layer_norm", "batch_norm", "embedding", "dropout", "gelu")]


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 3)
    for module in (batch_norm, embedding, layer_norm, optim, pointwise, random):
        monkeypatch.setattr(module, "GRAIN", 1)


def arrays(rng):
    """Arrays of SHAPES, one of them not in C order."""
    made = [np.asarray(rng.standard_normal(s), np.float32) for s in SHAPES]
    return [*made[:2], np.asfortranarray(made[2]), *made[3:]]


def both(rng, count):
    """`count` lists of arrays, twice: for the kernel and for the reference."""
    lists = [
        [np.asarray(abs(a)) for a in arrays(rng)] if i == 2 else arrays(rng) for i in range(count)
    ]  # second moments
    return lists, [[a.copy(order="K") for a in group] for group in lists]


def same(ours, theirs):
    assert all(np.array_equal(a, b) for left, right in zip(ours, theirs) for a, b in zip(left, right))


TAKEN = (None, np.float32(1), np.float32(0))  # the flags of steps one after the other; None: no flag


@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_has_the_references_bits(decay, decoupled, rng, three_threads):
    (ours, theirs), grads, lr, step = both(rng, 3), arrays(rng), np.array(0.01), np.array(3)
    grads[0] = None
    grads[4].flags.writeable = False
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": decay, "decoupled": decoupled}
    for taken in TAKEN:
        optim.adam_(ours[0], grads, *ours[1:], lr, step, taken, **options)
        reference.adam_(theirs[0], grads, *theirs[1:], lr, step, taken, **options)
        step += 1
    same(ours, theirs)


@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("momentum, nesterov", [(0, False), (0.9, False), (0.9, True)])
def test_sgd_has_the_references_bits(decay, momentum, nesterov, rng, three_threads):
    (ours, theirs), grads = both(rng, 2), arrays(rng)
    options = {"momentum": momentum, "weight_decay": decay, "nesterov": nesterov}
    for taken in TAKEN:
        optim.sgd_(ours[0], grads, ours[1], np.array(0.1), taken, **options)
        reference.sgd_(theirs[0], grads, theirs[1], np.array(0.1), taken, **options)
    same(ours, theirs)


@pytest.mark.parametrize("most", [1.0, 1e9])
def test_clipping_has_the_references_bits(most, rng, three_threads):
    (ours,), (theirs,) = both(rng, 1)
    norm_ = optim.clip_grad_norm_(ours, max_norm=most)
    assert norm_ == pytest.approx(reference.clip_grad_norm_(theirs, max_norm=most), rel=1e-14)
    same([ours], [theirs])


@pytest.mark.parametrize("bad", [None, np.nan, -np.inf])
def test_unscaling_has_the_references_bits(bad, rng, three_threads):
    (ours,), (theirs,) = both(rng, 1)
    if bad is not None:
        ours[5][-1] = theirs[5][-1] = bad
    states = [[np.array(3, "f"), np.array(4), np.array(7, "f")] for _ in range(2)]
    for f, grads, state in ((optim.unscale_, ours, states[0]), (reference.unscale_, theirs, states[1])):
        f(grads, *state, growth=2.0, backoff=0.5, interval=5)
    same([ours, states[0]], [theirs, states[1]])
    assert [float(a) for a in states[0]] == ([6, 0, 1] if bad is None else [1.5, 0, 0])


def test_a_norm_that_is_not_finite_spreads(rng):
    grads = arrays(rng)
    grads[4][3] = np.nan
    assert np.isnan(optim.clip_grad_norm_(grads, max_norm=1.0)) and all(np.isnan(g).all() for g in grads)


@pytest.mark.parametrize("case", PIECES, ids=case_id)
def test_cases_in_pieces(case, three_threads):
    compare(case, np.float32)

"""Attention's CPU kernels where the common cases are too small for them: keys that fill more than one tile, and fewer
heads than threads, so that a head's keys are shared out."""

import numpy as np
import pytest

from bench.parity.cases import case_id
from bench.parity.cases.attention import attention
from bench.parity.cases.inputs import coin, normal
from bench.parity.comparing import compare
from core.dispatch import use
from core.runtime import threads
from kernels.cpu.attention_backward import KEYS

LONG = 2 * KEYS + 37
PAIR = {"q": (1, 2, 45, 8), "k": (1, 2, LONG, 8)}

CASES = [
    attention("tiles", **PAIR),
    attention("tiles-causal", causal=True, causal_offset=LONG - 45, **PAIR),
    attention("tiles-first-keys-only", causal=True, **PAIR),
    attention("tiles-one-key-has-all-weight", scale_of_q=300.0, smooth=False, **PAIR),
    attention("tiles-mask-and-bias", mask=coin(1, 1, 1, LONG), bias=normal(2, 45, LONG), **PAIR),
    attention("tiles-bias-of-keys", bias=normal(LONG), **PAIR),
    attention("one-head", q=(1, 1, 70, 40), width=24),
    attention("one-head-tiles", q=(1, 1, 33, 8), k=(1, 1, LONG, 8), causal=True, causal_offset=LONG - 33),
]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_long_rows_and_few_heads(case, count, monkeypatch):
    monkeypatch.setattr(threads, "COUNT", count)
    with use("kernels"):
        assert {c.backend for c in compare(case, np.float32)} == {"numba"}

"""The accuracy test by itself, on errors of known size: it passes what the rule allows, and fails the rest."""

import numpy as np
import pytest

from bench.parity.rule import Draw, assert_accurate

EPS = float(np.finfo(np.float32).eps)
ORACLE = np.linspace(1, 2, 101)


ONE = np.eye(1, 101, 100)[0]  # the largest entry alone


def arrays(relative, like=ORACLE):
    return (like * (1 + relative)).astype(np.float32)


def once(ours, oracle=ORACLE, theirs=None, tested=np.float32, inputs_rms=1.0):
    assert_accurate("op/case: output 0", [Draw(ours, oracle, theirs, inputs_rms)], tested)


def test_the_rule_passes_what_it_allows():
    once(arrays(0), theirs=arrays(0))
    once(arrays(1.5 * EPS), theirs=arrays(0))  # within 2 eps of rms though torch has none
    once(arrays(19e-6), theirs=arrays(10e-6))  # within twice torch's error
    once(arrays(1.5 * EPS))  # no baseline: 2 eps
    once(ORACLE * (1 + 5e-13), tested=np.float64)


REFUSED = {
    "rms-above-2-eps": (arrays(3 * EPS), ORACLE, arrays(0)),
    "above-twice-torch": (arrays(22e-6), ORACLE, arrays(10e-6)),
    "one-entry-above-8-eps": (arrays(ONE * 10 * EPS), ORACLE, arrays(0)),
    "no-baseline-above-2-eps": (arrays(ONE * 3 * EPS), ORACLE, None),
    "nan": (arrays(np.where(ORACLE == 1, np.nan, 0)), ORACLE, arrays(0)),
    "infinity-for-nan": (np.full(2, np.inf, "f4"), np.full(2, np.nan), np.full(2, np.nan, "f4")),
    "sign-of-infinity": (np.full(2, np.inf, "f4"), np.full(2, -np.inf), np.full(2, -np.inf, "f4")),
    "finite-for-infinity": (np.full(2, 3e38, "f4"), np.full(2, np.inf), np.full(2, np.inf, "f4")),
    "infinity-for-finite": (np.full(2, np.inf, "f4"), np.full(2, 3e38), np.full(2, 3e38, "f4")),
    "shape": (arrays(0)[:, None], ORACLE, arrays(0)),
    "dtype": (ORACLE, ORACLE, arrays(0)),
    "not-an-array": (np.float32(1), np.array(1.0), np.array(1, np.float32)),
    "nothing-where-something": (np.zeros(3, "f4"), np.full(3, 1e-6), np.full(3, 1e-6, "f4")),
    "something-where-nothing": (np.full(3, 1e-6, "f4"), np.zeros(3), np.zeros(3, "f4")),
}


@pytest.mark.parametrize("ours, oracle, theirs", REFUSED.values(), ids=REFUSED.keys())
def test_the_rule_fails_what_it_does_not_allow(ours, oracle, theirs):
    with pytest.raises(AssertionError, match="op/case: output 0 in float32"):
        once(ours, oracle, theirs)


def test_1e_11_fails_in_float64():
    with pytest.raises(AssertionError, match="allowed 1e-12"):
        once(ORACLE * (1 + 1e-11), tested=np.float64)


def test_overflow_in_the_tested_dtype_is_infinity():
    once(np.array([np.inf, 1], np.float16), np.array([1e5, 1.0]), tested=np.float16)
    with pytest.raises(AssertionError, match=r"\+inf"):
        once(np.array([65504, 1], np.float16), np.array([1e5, 1.0]), tested=np.float16)


def test_a_gradient_that_is_truly_zero_is_measured_by_the_size_of_the_inputs():
    once(np.full(3, 1e-7, np.float32), np.full(3, 1e-17), np.zeros(3, np.float32), inputs_rms=1.0)
    with pytest.raises(AssertionError):
        once(np.full(3, 1e-7, np.float32), np.full(3, 1e-17), np.zeros(3, np.float32), inputs_rms=0.01)


def test_the_message_holds_both_errors_the_worst_place_and_the_values():
    ours = arrays(0)
    ours[40] *= 1.5
    with pytest.raises(AssertionError) as caught:
        once(ours, theirs=arrays(EPS))
    text = str(caught.value)
    for piece in (
        "op/case: output 0 in float32",
        "max e 0.458",
        "torch's max e 1.",
        "(40,)",
        "ours np.float32(2.1",
        "oracle",
    ):
        assert piece in text, text

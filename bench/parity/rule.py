"""The accuracy test: parity relative to PyTorch's own error against a float64 oracle, never a hand-picked tolerance.

With inputs already rounded to the dtype under test, the oracle is float64 mathematics on them, never the code under
test, and

    e(a) = |a - oracle| / max(|oracle|, rms(oracle))        over the entries where the rounded oracle is finite.

The rms keeps an entry that is small by cancellation from being measured by its own size. Where rms(oracle) is below
1e-10 of the inputs' rms (a gradient that is truly zero), the inputs' rms takes its place, or 1 if that is 0 too.

    pass:       max e(ours) <= max(2 max e(torch), 8 eps)   and   rms e(ours) <= max(2 rms e(torch), 2 eps)
    float64:    max e(ours) <= 1e-12: it proves algebra, not rounding
    no baseline:    max e(ours) <= 2 eps, where torch has no implementation in this dtype

eps is that of the dtype under test. Entries that are not finite in the oracle, once it is rounded to that dtype, must
be of the same class and sign in ours, and ours must be finite elsewhere. Shape and dtype must be torch's.

The max and the rms of a few entries are luck. So a small array is tested over as many draws of its inputs as give a
thousand entries, 32 at most, all as one array. Luck adds up in a whole model: there e(torch) is the largest among
several runs of torch that differ in nothing but rounding (bench/parity/torch_runs.py). After an optimiser's step some
draws are luck altogether: Adam divides by gradients near zero, and an activation may cross its kink in one run and not
in another. There every draw is tested alone and the lower quartiles over the draws are compared (`typical`): a
systematic error is in all of them.

`assay parity OP FILE:FUNCTION` tests a function of yours by this rule on the same cases (bench/parity/yours.py).
# next: bench/parity/cases/__init__.py, the cases; bench/parity/comparing.py, who computes what
"""

from typing import NamedTuple

import numpy as np

FLOAT64_BOUND = 1e-12


class Draw(NamedTuple):
    """One array as three computed it from the same inputs."""

    ours: np.ndarray
    oracle: np.ndarray  # float64, or what torch makes of float64
    theirs: np.ndarray | tuple | None = None  # torch in the dtype under test, or its runs; None: it has no baseline
    inputs_rms: float = 1.0


class Error(NamedTuple):
    """e of one implementation over all entries: its largest value and its root mean square."""

    max: float
    rms: float


class Verdict(NamedTuple):
    """What the accuracy test found. `fault` is empty where the draws pass."""

    fault: str
    dtype: str
    entries: int = 0
    ours: Error = Error(0.0, 0.0)
    theirs: Error | None = None  # None where torch has no baseline
    allowed: Error = Error(0.0, 0.0)

    @property
    def passes(self) -> bool:
        """Whether the errors are within what is allowed."""
        return self.ours.max <= self.allowed.max and self.ours.rms <= self.allowed.rms

    @property
    def ratio(self) -> float:
        """rms e(ours) / max(rms e(torch), eps / 8): 1 is torch's own accuracy; the floor is what rounding the result
        costs at least, so that a lucky zero of torch's does not make a giant of our last bit."""
        return self.ours.rms / max(self.theirs.rms if self.theirs else 0.0, float(np.finfo(self.dtype).eps) / 8)

    @property
    def ulps(self) -> float:
        """Our largest error in units of eps."""
        return self.ours.max / float(np.finfo(self.dtype).eps)


class Mismatch(AssertionError):
    """Shape, dtype, nan or infinity are not the oracle's: there is no error to speak of."""


def rms(x) -> float:
    """Root mean square of the finite entries."""
    x = np.asarray(x, np.float64)
    x = x[np.isfinite(x)]
    top = float(np.abs(x).max(initial=0.0))
    return top * float(np.sqrt(np.mean((x / top) ** 2))) if top else 0.0  # scaled, so that 1e200 does not overflow


def errors(a, oracle, inputs_rms=1.0):
    """e(a), entry by entry; `oracle` is finite throughout."""
    scale = rms(oracle)
    if scale <= 1e-10 * inputs_rms:
        scale = inputs_rms or 1.0
    return np.abs(np.asarray(a, np.float64) - oracle) / np.maximum(np.abs(oracle), scale)


def assert_accurate(label, draws, tested) -> Verdict:
    """Raise AssertionError, naming `label` and the worst entry, unless these draws pass in the dtype `tested`."""
    verdict = assess(draws, tested)
    assert not verdict.fault, f"{label} in {verdict.dtype}: {verdict.fault}"
    return verdict


def typical(draws, tested) -> Verdict:
    """The verdict on the lower quartiles, over the draws, of max e and rms e."""
    alone = [assess([draw], tested) for draw in draws]
    broken = [v for v in alone if v.fault and not v.entries]
    if broken:
        return broken[0]
    quartile = lambda errors: Error(*np.quantile(errors, 0.25, axis=0).tolist())
    ours, baseline = quartile([v.ours for v in alone]), quartile([v.theirs for v in alone])
    verdict = Verdict("", alone[0].dtype, alone[0].entries, ours, baseline, _allowed(np.dtype(tested), baseline))
    if verdict.passes:
        return verdict
    return verdict._replace(
        fault=f"lower quartiles of {len(draws)} draws: {_in_words(verdict)}; first: {alone[0].fault}"
    )


def assess(draws, tested) -> Verdict:
    """The verdict on one array, given several draws of it; `tested` is the dtype under test."""
    tested = np.dtype(tested)
    try:
        finite = [_comparable(draw, tested) for draw in draws]
    except Mismatch as mismatch:
        return Verdict(str(mismatch), str(tested))
    oracle = _joined([draw.oracle for draw in draws], finite)
    inputs_rms = rms([draw.inputs_rms for draw in draws])
    e = errors(_joined([draw.ours for draw in draws], finite), oracle, inputs_rms)
    runs = [_joined(run, finite) for run in zip(*map(_runs, draws))]
    baselines = [_error(_baseline(run, oracle, inputs_rms)) for run in runs]
    baseline = Error(*map(max, zip(*baselines))) if baselines else None
    verdict = Verdict("", str(tested), e.size, _error(e), baseline, _allowed(tested, baseline))
    if verdict.passes:
        return verdict
    return verdict._replace(fault=f"{_in_words(verdict)}; {_worst(draws, finite, int(e.argmax()))}")


def _error(e) -> Error:
    return Error(float(e.max(initial=0.0)), rms(e))


def _joined(arrays, finite):
    """The finite entries of one array a draw, as one float64 array."""
    return np.concatenate([a[where].astype(np.float64) for a, where in zip(arrays, finite)])


def _runs(draw) -> tuple:
    """torch's results, one array a run."""
    if draw.theirs is None:
        return ()
    return draw.theirs if isinstance(draw.theirs, tuple) else (draw.theirs,)


def _baseline(theirs, oracle, inputs_rms):
    """torch's e; where torch alone overflows it sets none."""
    good = np.isfinite(theirs)
    return errors(np.where(good, theirs, 0), oracle, inputs_rms)[good]


def _comparable(draw, tested):
    """Where the oracle is finite, after shape, dtype and the classes of the other entries are found right."""
    ours, oracle, runs = draw.ours, draw.oracle, _runs(draw)
    dtype = runs[0].dtype if runs else tested
    if not isinstance(ours, np.ndarray):
        raise Mismatch(f"result is a {type(ours).__name__}, should be an array")
    if ours.dtype != dtype:
        raise Mismatch(f"dtype is {ours.dtype}, should be {dtype}")
    if ours.shape != oracle.shape:
        raise Mismatch(f"shape is {ours.shape}, should be {oracle.shape}")
    with np.errstate(over="ignore"):
        return _finite(ours, oracle.astype(tested))


def _finite(ours, rounded):
    """Where the rounded oracle is finite; elsewhere, and only there, ours must be the same nan or infinity."""
    for word, test in (("nan", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        differ = test(ours) != test(rounded)
        if differ.any():
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            raise Mismatch(
                f"{int(differ.sum())} entries differ in being {word}; the first at {at} of {ours.shape}: "
                f"ours {ours[at]!r}, oracle {rounded[at]!r}"
            )
    return np.isfinite(rounded)


def _allowed(tested, baseline) -> Error:
    if tested == np.float64:
        return Error(FLOAT64_BOUND, FLOAT64_BOUND)
    eps = float(np.finfo(tested).eps)
    if baseline is None:
        return Error(2 * eps, 2 * eps)
    return Error(max(2 * baseline.max, 8 * eps), max(2 * baseline.rms, 2 * eps))


def _in_words(v: Verdict) -> str:
    baseline = f"torch's max e {v.theirs.max:.3g}, rms e {v.theirs.rms:.3g}" if v.theirs else "torch has no baseline"
    return (
        f"max e {v.ours.max:.3g} (allowed {v.allowed.max:.3g}), "
        f"rms e {v.ours.rms:.3g} (allowed {v.allowed.rms:.3g}); {baseline}"
    )


def _worst(draws, finite, index):
    """Entry `index` of the joined arrays, in words."""
    number = 0
    while index >= finite[number].sum():
        index -= int(finite[number].sum())
        number += 1
    ours, oracle, runs = draws[number].ours, draws[number].oracle, _runs(draws[number])
    at = tuple(int(i) for i in np.argwhere(finite[number])[index])
    baseline = f", torch {runs[0][at]!r}" if runs else ""
    return f"worst at {at} of {ours.shape} in draw {number}: ours {ours[at]!r}, oracle {oracle[at]!r}{baseline}"

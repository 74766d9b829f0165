"""The judge: parity relative to PyTorch's own error against a float64 oracle, never a hand-picked tolerance.

With inputs already rounded to the dtype under test, the oracle is float64 mathematics on them, and

    e(a) = |a - oracle| / max(|oracle|, rms(oracle))        over the entries where the rounded oracle is finite.

The rms keeps an entry that is small by cancellation from being judged by its own size. Where rms(oracle) is below
1e-10 of the inputs' rms (a gradient that is truly zero), the inputs' rms takes its place, or 1 if that is 0 too.

    pass:       max e(ours) <= max(2 max e(torch), 8 eps)   and   rms e(ours) <= max(2 rms e(torch), 2 eps)
    float64:    max e(ours) <= 1e-12: it proves algebra, not rounding
    no peer:    max e(ours) <= 2 eps, where torch has no implementation in this dtype

eps is that of the dtype under test. Entries that are not finite in the oracle, once it is rounded to that dtype, must
be of the same class and sign in ours, and ours must be finite elsewhere. Shape and dtype must be torch's.

The max and the rms of an array of five entries are luck. So a small array is judged over several draws of its inputs,
all their entries taken as one array.
"""

from typing import NamedTuple

import numpy as np

FLOAT64_BOUND = 1e-12


class Draw(NamedTuple):
    """One array as three computed it from the same inputs."""

    ours: np.ndarray
    oracle: np.ndarray  # float64, or what torch makes of float64
    theirs: np.ndarray | None = None  # torch in the dtype under test; None where it has no implementation
    inputs_rms: float = 1.0


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


def judge(label, draws, tested):
    """Raise AssertionError, naming `label` and the worst entry, unless these draws pass in the dtype `tested`."""
    label, tested = f"{label} in {np.dtype(tested)}", np.dtype(tested)
    finite = [_check_draw(label, draw, tested) for draw in draws]
    ours, oracle = _joined(draws, finite, "ours"), _joined(draws, finite, "oracle")
    if not ours.size:
        return
    inputs_rms = rms([draw.inputs_rms for draw in draws])
    e, peer, yardstick = errors(ours, oracle, inputs_rms), None, "torch has no peer"
    if draws[0].theirs is not None:
        theirs = _joined(draws, finite, "theirs")
        good = np.isfinite(theirs)  # where torch alone overflows it sets no yardstick
        peer = errors(np.where(good, theirs, 0), oracle, inputs_rms)[good]
        yardstick = f"torch's max e {peer.max(initial=0):.3g}, rms e {rms(peer):.3g}"
    most, mean = _bounds(tested, peer)
    assert e.max() <= most and rms(e) <= mean, (
        f"{label}: max e {e.max():.3g} (allowed {most:.3g}), rms e {rms(e):.3g} (allowed {mean:.3g}); "
        f"{yardstick}; {_worst(draws, finite, int(e.argmax()))}"
    )


def _joined(draws, finite, name):
    return np.concatenate([getattr(draw, name)[where].astype(np.float64) for draw, where in zip(draws, finite)])


def _check_draw(label, draw, tested):
    """Where the oracle is finite, after shape, dtype and the classes of the other entries are found right."""
    ours, oracle, theirs, _ = draw
    dtype = tested if theirs is None else theirs.dtype
    assert isinstance(ours, np.ndarray), f"{label}: result is a {type(ours).__name__}, should be an array"
    assert ours.dtype == dtype, f"{label}: dtype is {ours.dtype}, should be {dtype}"
    assert ours.shape == oracle.shape, f"{label}: shape is {ours.shape}, should be {oracle.shape}"
    return _finite(label, ours, _rounded(oracle, tested))


def _rounded(oracle, tested):
    with np.errstate(over="ignore"):
        return oracle.astype(tested)


def _finite(label, ours, rounded):
    """Where the rounded oracle is finite; elsewhere, and only there, ours must be the same nan or infinity."""
    for word, test in (("nan", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        differ = test(ours) != test(rounded)
        if differ.any():
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            raise AssertionError(
                f"{label}: {int(differ.sum())} entries differ in being {word}; the first at {at} of {ours.shape}: "
                f"ours {ours[at]!r}, oracle {rounded[at]!r}"
            )
    return np.isfinite(rounded)


def _bounds(tested, peer):
    """(largest, root mean square) error allowed."""
    if tested == np.float64:
        return FLOAT64_BOUND, FLOAT64_BOUND
    eps = float(np.finfo(tested).eps)
    if peer is None:
        return 2 * eps, 2 * eps
    return max(2 * peer.max(initial=0), 8 * eps), max(2 * rms(peer), 2 * eps)


def _worst(draws, finite, index):
    """Entry `index` of the joined arrays, in words."""
    number = 0
    while index >= finite[number].sum():
        index -= int(finite[number].sum())
        number += 1
    ours, oracle, theirs, _ = draws[number]
    at = tuple(int(i) for i in np.argwhere(finite[number])[index])
    peer = "" if theirs is None else f", torch {theirs[at]!r}"
    return f"worst at {at} of {ours.shape} in draw {number}: ours {ours[at]!r}, oracle {oracle[at]!r}{peer}"

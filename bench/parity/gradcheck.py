"""Gradients against finite differences, in float64, along random directions.

For y = f(x) and a random u, the backward pass gives g = J^T u. Along a direction v the derivative of

    phi(t) = <u, f(x + t v)>        is        phi'(0) = <g, v>,

which central differences D(h) = (phi(h) - phi(-h)) / 2h give with an error of order h^2. One step of Richardson
extrapolation, (4 D(h/2) - D(h)) / 3, leaves h^4 phi^(5) / 480. With h = 3e-4 that is below 1e-8 of |g| for any function
that varies on a scale of 0.05 or more, as all of ours do where they are tested; the rounding of phi adds about eps / h
of the terms it sums. The bound is these two, and nothing is left to taste:

    |difference| <= 1e-8 max(|g|, |numeric|) + 8 eps / h * sum |u f|

|g| is the 2-norm over the inputs that v moves, which is what <g, v> is like for a normal v. Directions that move
one input alone come after those that move all, so that a wrong gradient of a small input cannot hide.
"""

import numpy as np

from core import Tensor

STEP = 3e-4
TRUNCATION = 1e-8
ROUNDING = 8 * np.finfo(np.float64).eps / STEP


def gradcheck(name, f, arrays, needs_input_grad, directions=2, seed=0):
    """Raise AssertionError, naming the operation, the input and both values, where a gradient of f is wrong.

    f: Tensors (arrays where they are integer or boolean) -> a Tensor or a tuple; arrays: float64, integer or boolean;
    needs: which of them get a gradient.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(a) for a in arrays]
    moved = [i for i, need in enumerate(needs_input_grad) if need]
    us, grads = _backward(name, f, arrays, needs_input_grad, rng)
    groups = [moved] * directions + [[i] for i in moved if len(moved) > 1 for _ in range(directions)]
    for group in groups:
        _check_direction(name, f, arrays, us, grads, group, rng)


def _backward(name, f, arrays, needs_input_grad, rng):
    """The outputs' random weights u (None where an output has no gradient) and the inputs' gradients."""
    tensors = _tensors(arrays, needs_input_grad)
    outputs = _tuple(f(*tensors))
    us = [rng.standard_normal(y.shape) if y.requires_grad else None for y in outputs]
    assert any(u is not None for u in us), f"{name}: no output requires a gradient"
    total = sum((y * u).sum() for y, u in zip(outputs, us) if u is not None)
    total.backward()
    grads = {}
    for i, need in enumerate(needs_input_grad):
        if need:
            g = tensors[i].grad
            assert g is not None, f"{name}: input {i} got no gradient"
            assert g.shape == arrays[i].shape, f"{name}: gradient {i} has shape {g.shape}, not {arrays[i].shape}"
            assert np.isfinite(g).all(), f"{name}: gradient of input {i} is not finite: {g}"
            grads[i] = g
    return us, grads


def _check_direction(name, f, arrays, us, grads, group, rng):
    vs = {i: rng.standard_normal(arrays[i].shape) for i in group}
    analytic = sum(float(np.sum(grads[i] * v)) for i, v in vs.items())
    numeric, size = _derivative(f, arrays, us, vs)
    norm = np.sqrt(sum(float(np.sum(grads[i] ** 2)) for i in group))
    allowed = TRUNCATION * max(norm, abs(numeric)) + ROUNDING * size
    moved = f"input {group[0]} alone" if len(group) == 1 else f"inputs {group} together"
    assert abs(analytic - numeric) <= allowed, (
        f"{name}: moving {moved}, backward says {analytic!r} and finite differences {numeric!r}: "
        f"they differ by {abs(analytic - numeric):.3g}, allowed is {allowed:.3g}"
    )


def _derivative(f, arrays, us, vs):
    """(phi'(0) by Richardson, the sum of |u f| at 0)."""

    def phi(t):
        at = [a + t * vs[i] if i in vs else a for i, a in enumerate(arrays)]
        outputs = _tuple(f(*_tensors(at, [False] * len(at))))
        terms = [u * y.data for u, y in zip(us, outputs) if u is not None]
        return sum(float(np.sum(x)) for x in terms), sum(float(np.sum(np.abs(x))) for x in terms)

    def central(h):
        return (phi(h)[0] - phi(-h)[0]) / (2 * h)

    return (4 * central(STEP / 2) - central(STEP)) / 3, phi(0.0)[1]


def _tensors(arrays, needs_input_grad):
    return [Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a for a, n in zip(arrays, needs_input_grad)]


def _tuple(y):
    return y if isinstance(y, tuple) else (y,)


def check_case(case):
    """The gradient check of one case, in float64."""
    arrays = case.arrays()
    gradcheck(case.name, case.ours, arrays, case.needs_input_grad(arrays))

"""Sums, means, maxima and minima over every kind of axes."""

from bench.parity.cases.inputs import Case, distinct, normal, value, whole
from bench.parity.cases.shape import NAN, same


def _reductions():
    axes = [("all", None), ("first", 0), ("last", -1), ("two", (0, 2)), ("middle", 1)]
    for name in ("sum", "mean"):
        f = lambda x, axis=None, keep=False, name=name: getattr(x, name)(axis, keep)
        for label, axis in axes:
            yield same(f"{name}/{label}", lambda x, f=f, axis=axis: f(x, axis), normal(3, 4, 5))
            yield same(f"{name}/{label}-kept", lambda x, f=f, axis=axis: f(x, axis, True), normal(3, 4, 5))
        yield same(f"{name}/0d", f, normal())
        yield same(f"{name}/empty", f, normal(0, 3), smooth=name == "sum")  # the mean of nothing is nan
        yield same(f"{name}/empty-axis", lambda x, f=f: f(x, 0), normal(0, 3), smooth=name == "sum")
        yield same(f"{name}/empty-other-axis", lambda x, f=f: f(x, 1), normal(0, 3))
        yield same(f"{name}/many-rows", lambda x, f=f: f(x, 0), normal(5000, 3, mean=1.0))
        yield same(f"{name}/long", f, normal(3, 7001, mean=1.0))
        yield same(f"{name}/twice", lambda x, f=f: f(x) + f(x, 0)[1], normal(3, 4))
    for name in ("max", "min"):
        f = lambda x, axis=None, keep=False, name=name: getattr(x, name)(axis, keep)
        g = lambda x, axis=None, keep=False, name=name: getattr(x, "a" + name)(() if axis is None else axis, keep)
        for label, axis in axes:
            at = lambda h, axis=axis, keep=False: lambda x: h(x, axis, keep)
            yield Case(f"{name}/{label}", at(f), at(g), (distinct(3, 4, 5),))
            yield Case(f"{name}/{label}-kept", at(f, keep=True), at(g, keep=True), (distinct(3, 4, 5),))
        yield Case(f"{name}/0d", f, g, (normal(),))
        yield Case(f"{name}/empty-other-axis", lambda x, f=f: f(x, 1), lambda x, g=g: g(x, 1), (normal(0, 3),))
        yield Case(f"{name}/ties", lambda x, f=f: f(x, 1), lambda x, g=g: g(x, 1), (whole(4, 9),), smooth=False)
        yield Case(f"{name}/nan", f, g, (value([1.0, NAN, 3.0, 3.0]),), smooth=False)


CASES = [*_reductions()]

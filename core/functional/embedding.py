"""Looking rows up, and numbers as waves."""

from core import check
from core.dispatch import run
from core.functional.arguments import tensor


def embedding(ids, w):
    """Rows of a table: ids (...) integers in [0, V), w (V, D) -> (..., D)."""
    ids, w = tensor("embedding", "ids", ids), tensor("embedding", "w", w)
    check.shaped("embedding", "w", w, 2, "(V, D)")
    check.floating("embedding", w=w.data)
    check.ids("embedding", "ids", ids.data, w.shape[0])
    return run("embedding", ids, w)


def timestep_embedding(t, dim, *, max_period=10000.0):
    """Cosines, then sines of t at dim / 2 wavelengths from 2 pi to 2 pi max_period: t (N,) numbers -> (N, dim)."""
    op = "timestep_embedding"
    t = tensor(op, "t", t)
    if t.dtype == bool:
        check.fail(op, "t", "boolean", "integer or floating", TypeError)
    check.shaped(op, "t", t, 1, "(N,)")
    check.count(op, "dim", dim, 2)
    if dim % 2:
        check.fail(op, "dim", dim, "even: half are cosines, half sines")
    check.number(op, "max_period", max_period, 1)
    return run(op, t, dim=int(dim), max_period=float(max_period))

"""The gradient of a table of which some rows were taken.

    y[i] = w[ids[i]],   dw[v] = the sum of dy[i] over all i with ids[i] = v, in the order of i

Shapes      ids n of any integer type, w (V, D), y and dy (n, D)
Plan        forward is NumPy's own gathering. backward: the places of equal ids come together by a counting sort; then
            each thread has a block of the table's rows and adds up the rows of dy that belong to them. No two threads
            write to one row, and nothing depends on who is first
Cost        backward reads dy once and writes what is used of dw, 4 (n + V) D bytes at most, and sorts n ids in n + V
Precision   float64 sums, rounded once; a row that is used once is copied
Versions    a thread that looks through all ids for those of its block: no sort, but n comparisons a thread. NumPy's
            add.at and reduceat: the one adds number by number, the other needs dy in sorted order, a copy
Limits      0 <= ids < V, as NumPy and core.functional have checked by then

# why: docs/kernels/others.md
# next: kernels/cpu/upsample.py
"""

import numpy as np

from core.engine import Op
from core.reference import embedding as reference
from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, const, f32, floats, kernel, out

GRAIN = 1 << 17  # elements of dy below which a second thread costs more than it brings


@kernel(const(1, INDEX), out(1, INDEX), out(1, INDEX))
def _sort(ids, ends, places):
    """places[ends[v - 1] : ends[v]] = where ids are v, in order."""
    V = ends.size
    for i in range(ids.size):
        ends[ids[i] % V] += 1
    before = 0
    for v in range(V):
        before, ends[v] = before + ends[v], before
    for i in range(ids.size):
        v = ids[i] % V
        places[ends[v]] = i
        ends[v] += 1


@kernel(const(1, INDEX), const(1, INDEX), const(2), out(2), *PIECE)
def _sum(places, ends, dy, dw, start, stop):
    total = np.empty(dw.shape[1], np.float64)
    for v in range(start, stop):
        first, end, row = ends[v - 1] if v > 0 else 0, ends[v], dw[v]
        if end == first + 1:
            row[:] = dy[places[first]]
        elif end > first:
            total[:] = 0.0
            for i in places[first:end]:
                one = dy[i]
                for d in range(one.size):
                    total[d] += np.float64(one[d])
            for d in range(row.size):
                row[d] = f32(total[d])


def _embedding_backward(saved, dy, needs_input_grad):
    ids, (V, D) = saved
    flat = np.ascontiguousarray(ids, np.int64).reshape(-1)
    dw = np.zeros((V, D), f32)
    if flat.size:
        ends, places, dy = np.zeros(V, np.int64), np.empty(flat.size, np.int64), floats(dy).reshape(flat.size, D)
        _sort(flat, ends, places)
        rows = max(1, GRAIN * V // max(dy.size, 1))
        share(lambda start, stop: _sum(places, ends, dy, dw, start, stop), V, rows)
    return None, dw


embedding = Op("embedding", reference.embedding.forward, _embedding_backward, backend="numba")

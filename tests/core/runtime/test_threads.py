"""Work shared out over threads: every piece once, results in order, errors and BLAS as they should be."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from core.runtime import threads
from tests import ROOT


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 3)


def test_pieces_cover_the_range_once_and_run_in_several_threads():
    names, together = set(), threading.Barrier(3, timeout=20)

    def piece(start, stop):
        together.wait()  # passes only if all three run at once
        names.add(threading.current_thread().name)
        return start, stop

    assert threads.share(piece, 10) == [(0, 3), (3, 6), (6, 10)]
    assert len(names) == 3


def test_results_come_in_order_whatever_the_timing():
    assert threads.run([lambda i=i: (time.sleep(0.02 * (3 - i)), i)[1] for i in range(3)]) == [0, 1, 2]


@pytest.mark.parametrize("n, grain, pieces", [(10, 1, 3), (10, 5, 2), (10, 100, 1), (2, 1, 2), (0, 1, 1)])
def test_no_piece_is_smaller_than_the_grain(n, grain, pieces):
    assert len(threads.share(lambda a, b: b - a, n, grain)) == pieces


def test_a_piece_shares_out_nothing_itself():
    inner = threads.run([lambda: threads.share(lambda a, b: (a, b), 9)] * 3)
    assert inner == [[(0, 9)]] * 3


def test_the_first_exception_in_order_is_raised_when_all_have_ended():
    ended = []

    def fail(i):
        time.sleep(0.01 * (3 - i))
        ended.append(i)
        raise ValueError(f"task {i}")

    with pytest.raises(ValueError, match="task 0"):
        threads.run([lambda i=i: fail(i) for i in range(3)])
    assert sorted(ended) == [0, 1, 2]


POOLS = """
import numpy as np
from threadpoolctl import threadpool_info
from core.runtime import threads

def pools():
    return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas" and "numpy" in p["filepath"]]

threads.COUNT = 2
before = pools()
threads.run([lambda: None] * 2)
print(before, pools())
"""


def test_blas_has_one_thread_once_work_is_shared_out():
    """In a process in which it has two before."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", POOLS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "[2] [1]\n", done.stderr


def test_a_context_is_handed_on():
    with np.errstate(over="raise"):
        assert {e["over"] for e in threads.run([np.geterr] * 3)} == {"raise"}


FORKED = """
import os
import signal
import numpy as np
import core.functional as F
from core import Tensor
from core.runtime import threads

threads.COUNT = 2

def step():
    x, w = (Tensor(np.ones(s, np.float32), requires_grad=True) for s in ((8, 14, 14, 64), (3, 3, 64, 64)))
    y = F.linear(F.conv2d(x, w, padding=1, act="relu"), np.ones((64, 64), np.float32), act="relu").sum()
    y.backward()
    return y.data.tobytes(), w.grad.tobytes()

first = step()
assert len(threads._workers) == 1
child = os.fork()
if not child:
    signal.alarm(300)  # what waits for its parent's threads waits for ever
    os._exit(0 if step() == first else 1)
assert os.waitpid(child, 0)[1] == 0 and step() == first
"""


def test_a_forked_child_works_with_threads_of_its_own():
    """Kernels too, and the parent goes on."""
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

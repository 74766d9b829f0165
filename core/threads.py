"""Work shared out over the cores, by plain threads: NumPy and the compiled kernels let go of Python's lock.

    run([f, g])          calls f and g, each in a thread of its own, and gives back what they return, in order
    share(f, n)          calls f(start, stop) on pieces of range(n), one a thread

Pieces depend on n and on the number of threads alone, and every piece writes what no other does: results have the same
bits whatever the timing. While work is shared out BLAS has one thread, since its own would take the others' cores; and
what a piece calls in turn runs in that piece's thread.

The number of threads is ASSAY_THREADS, else OMP_NUM_THREADS, else the cores this process may use.
"""

import contextlib
import os
import queue
import threading
from contextvars import copy_context
from itertools import pairwise

from threadpoolctl import ThreadpoolController


def _count() -> int:
    for name in ("ASSAY_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


COUNT = _count()
_inside = threading.local()  # .yes: this thread works on a piece already
_lock = threading.Lock()
_tasks: queue.SimpleQueue = queue.SimpleQueue()
_workers: list = []


def run(tasks) -> list:
    """Call every task, the first here and each other in a worker thread; their results, in order.

    The first exception, in the order of the tasks, is raised once all have ended.
    """
    tasks = list(tasks)
    if len(tasks) < 2 or COUNT < 2 or getattr(_inside, "yes", False):
        return [task() for task in tasks]
    _start_workers()
    done: queue.SimpleQueue = queue.SimpleQueue()
    with _one_blas_thread():
        for i, task in enumerate(tasks[1:], start=1):
            _tasks.put((copy_context(), task, i, done))
        results = [_attempt(tasks[0], 0), *(done.get() for _ in tasks[1:])]
    results.sort(key=lambda result: result[0])
    for _, _, error in results:
        if error is not None:
            raise error
    return [value for _, value, _ in results]


def share(function, n: int, grain: int = 1) -> list:
    """function(start, stop) on contiguous pieces of range(n), none of fewer than `grain`, one for each thread."""
    count = 1 if getattr(_inside, "yes", False) else max(1, min(COUNT, n // grain))
    edges = [i * n // count for i in range(count + 1)]
    return run([lambda a=a, b=b: function(a, b) for a, b in pairwise(edges)])


def _attempt(task, index):
    """(index, what the task returned, None) or (index, None, its exception)."""
    _inside.yes = True
    try:
        return index, task(), None
    except BaseException as error:
        return index, None, error
    finally:
        _inside.yes = False


def _serve():
    while True:
        context, task, index, done = _tasks.get()
        done.put(context.run(_attempt, task, index))
        del context, task, done  # so that what they hold is not kept until the next task


def _start_workers():
    with _lock:
        while len(_workers) < COUNT - 1:
            _workers.append(threading.Thread(target=_serve, name=f"assay-{len(_workers)}", daemon=True))
            _workers[-1].start()


# --- BLAS ----------------------------------------

_blas: list | None = None  # its libraries, found when first needed
_before: list = []  # how many threads each had
_depth = 0  # how many callers share work at the moment


@contextlib.contextmanager
def _one_blas_thread():
    global _blas, _depth, _before
    with _lock:
        if _blas is None:
            _blas = ThreadpoolController().select(user_api="blas").lib_controllers
        _depth += 1
        if _depth == 1:
            _before = [library.num_threads for library in _blas]
            for library in _blas:
                library.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                for library, count in zip(_blas, _before):
                    library.set_num_threads(count)

"""Work shared out over the cores, by plain threads: NumPy and the compiled kernels let go of Python's lock.

    run([f, g])          calls f and g, each in a thread of its own, and gives back what they return, in order
    share(f, n)          calls f(start, stop) on pieces of range(n), one a thread

Pieces depend on n and on the number of threads alone, and every piece writes what no other does: results have the same
bits whatever the timing. Once work is shared out BLAS keeps to one thread, for good; what a piece calls in turn runs in
that piece's thread.

The number of threads is ASSAY_THREADS, else OMP_NUM_THREADS, else the cores this process may use, which the ranks that
an MPI launcher has started on this machine share.
"""

import os
import queue
import threading
from contextvars import copy_context
from itertools import pairwise

from threadpoolctl import ThreadpoolController

RANKS_HERE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")  # MPICH's and Open MPI's launchers set them


def _count() -> int:
    for name in ("ASSAY_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = next((int(os.environ[n]) for n in RANKS_HERE if os.environ.get(n, "").isdigit()), 1)
    return max(1, cores // max(1, ranks))


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
        one_blas_thread()
        while len(_workers) < COUNT - 1:
            _workers.append(threading.Thread(target=_serve, name=f"assay-{len(_workers)}", daemon=True))
            _workers[-1].start()


def _after_fork():
    """A forked child has none of the threads: it starts its own, and waits for no task and no lock of its parent's."""
    global _tasks, _lock
    _tasks, _lock = queue.SimpleQueue(), threading.Lock()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- BLAS ----------------------------------------

_quiet = False


def one_blas_thread():
    """From now on BLAS has one thread: after a product its others would spin for a while on the cores that pieces need,
    which made a training step of mixed products and pieces twice as long. Trainers say it before their first step, so
    that a run that goes on does the same arithmetic as one that was never interrupted."""
    global _quiet
    if not _quiet:
        for library in ThreadpoolController().select(user_api="blas").lib_controllers:
            library.set_num_threads(1)
        _quiet = True

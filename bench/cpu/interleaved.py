"""Fair timing on a CPU: two processes that take turns, A B A B, on cores that nobody else uses.

Whoever waits is stopped by a signal, because spinning threads would take the other's cores. Every core is spun for a
second first, to see that nobody else has it.
"""

import json
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import numpy as np

from core.runtime import threads

LOST = 0.05  # of a core's time: with more, somebody else is using it


class Setting(NamedTuple):
    """How a side runs."""

    threads: int
    policy: str = "passive"  # OMP_WAIT_POLICY
    memory_format: str = "contiguous_format"  # torch's, of images

    def __str__(self):
        return f"{self.threads} threads, {self.policy}, {self.memory_format.removesuffix('_format')}"


class Side:
    """A worker process (`python -m bench.cpu.worker ...`), stopped except while it answers."""

    def __init__(self, arguments, setting: Setting):
        count = {key: str(setting.threads) for key in ("ASSAY_THREADS", "OMP_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.cpu.worker", *arguments, "--threads", str(setting.threads)],
            env={**os.environ, "OMP_WAIT_POLICY": setting.policy, **count},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, question) -> dict:
        """What the worker answers to a line of JSON."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("a worker process ended: see above")
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


def check_idle():
    """Raise ValueError if a core is in use: each is spun for a second, and has to get that second."""
    spin = "import time\nb = time.perf_counter()\nwhile time.perf_counter() - b < 1: pass\nprint(time.process_time())"
    began = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(threads.COUNT)]
    lost = max(1 - float(p.communicate()[0]) for p in began)
    if lost > LOST:
        raise ValueError(f"a core lost {lost:.0%} of a second to other programs: timings would be wrong (see --anyway)")


def quantiles(ratios) -> dict:
    """The median of paired ratios and their 10 % and 90 % quantiles."""
    low, median, high = (round(float(q), 3) for q in np.quantile(ratios, (0.1, 0.5, 0.9)))
    return {"ratio": median, "low": low, "high": high}

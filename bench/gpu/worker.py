"""A child process that answers questions one at a time, each within a time limit: a hung compiler costs its own row."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

COMPILERS = 8  # processes that compile at once
COMPILING = 120  # seconds for one question


class Worker:
    """Starts `command` when first asked, and again after it hung, died or failed."""

    def __init__(self, command):
        self.command: list = command
        self.process: Any = None

    def ask(self, question: dict, seconds: float) -> dict:
        """The answer, or why there is none: {"passed": False, "fault": ...}."""
        process = self.process = self.process or self._started()
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=process.stdin, flush=True)
            if not select.select([process.stdout], [], [], max(seconds, 0))[0]:
                self.close()
                return {"passed": False, "fault": f"not run: no answer in {seconds:.0f} s"}
            line = process.stdout.readline()
        if not line:
            return {"passed": False, "fault": f"the process ended: {self._last_words(process)}"}
        answer = json.loads(line)
        if not answer["passed"] and not answer["fault"].startswith("not run"):
            self.close()  # after an error a CUDA context may be of no more use
        return answer

    def _started(self) -> Any:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)

    def _last_words(self, process) -> str:
        code = process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().split("\n")
        self.close()
        return f"code {code}: {lines[-1]}"

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.errors.close()
            self.process = None


def worker_command(part, dry) -> list:
    """What starts a child that answers a part's questions."""
    return [sys.executable, "-m", "bench.gpu.check", "--worker", part, *(["--dry"] if dry else [])]


def asked(worker, job: dict, until, limit, compile=False) -> dict:
    """The row that a job, which names its contender as "who", becomes by the child's answer."""
    left = until - time.monotonic()
    if left <= 0:
        return {**job, "passed": False, "fault": "not run: out of time"}
    answer = worker.ask({**job, "compile": compile}, min(limit, left))
    if job["who"] != "ours" and not answer["passed"] and not answer["fault"].startswith("not run"):
        answer["fault"] = f"not run: {answer['fault']}"  # a baseline that fails is no fault of ours
    return {**job, **answer}


def compile_first(workers, jobs, until):
    """Each worker runs its share of our jobs once: what it compiles, the others find on the disk."""

    def share(i):
        for job in jobs[i :: len(workers)]:
            asked(workers[i], job, until, COMPILING, compile=True)

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(share, range(len(workers))))


def answer_all(answer):
    """The child's side: `answer(question) -> dict` for each line of standard input, until it ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)

"""Tries mutants: puts a wrong line into a copy of the project, and runs the tests that must fail there.

tests/mutants/mutants.py has the lines.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests import ROOT


class Mutant(NamedTuple):
    file: str
    old: str  # occurs once in the file
    new: str
    tests: str  # arguments for pytest; after "interpret", for python -m tests.kernels.interpret


class MutantRunner:
    """A copy of the project to try mutants in, and the tests that have been seen to pass in it."""

    def __init__(self, folder):
        self.folder, self.healthy = Path(folder), {}
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        for name in filter(None, files):
            if (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)

    def test(self, arguments) -> str:
        """Run these tests until one fails: its name, or "" where all pass."""
        if arguments.startswith("interpret "):
            return self._interpret(arguments.split()[1:])
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not full"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            [*command, *arguments.split()], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        if done.returncode == 0:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode != 1 or failed is None:
            raise RuntimeError(f"pytest {arguments} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
        return failed.group(1)

    def _interpret(self, arguments) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-B", "-m", "tests.kernels.interpret", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if not done.stdout:
            raise RuntimeError(
                f"tests.kernels.interpret {arguments} ended with {done.returncode}:\n{done.stderr[-2000:]}"
            )
        return next(iter(json.loads(done.stdout)["faults"]), "").partition(": max")[0][:100]

    def catches(self, mutant: Mutant) -> str:
        """The name of the test that fails with this mutant, "" if none does."""
        if mutant.tests not in self.healthy:
            self.healthy[mutant.tests] = self.test(mutant.tests)
        if self.healthy[mutant.tests]:
            raise RuntimeError(f"{self.healthy[mutant.tests]} fails without any mutant")
        path = self.folder / mutant.file
        source = path.read_text()
        if source.count(mutant.old) != 1:
            raise RuntimeError(
                f"{mutant.file} has {source.count(mutant.old)} times {mutant.old!r}, should have it once"
            )
        path.write_text(source.replace(mutant.old, mutant.new))
        try:
            return self.test(mutant.tests)
        finally:
            path.write_text(source)

"""Whole runs of the suite: each folder keeps to its share of the time, and `make test-all` can be interrupted.

`make test` runs what is not marked `full`. SHARES says which part of its time the tests of each folder may take, all
processes together; the run fails where a folder takes more, so that none grows at the cost of the others. Parts, unlike
seconds, are the same on a slow machine and on one that has other work.

`make test-all` runs everything with --resume: a test that has passed on exactly these sources is not run again, so a
run that was interrupted goes on where it was. Its summary is SUMMARY.
"""

import collections
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time

import pytest

from models.training.runs import describe_device
from tests import ROOT

SHARES = {"bench": 0.45, "core": 0.35, "kernels": 0.35, "models": 0.45, "mutants": 0.02, "pages": 0.1}  # pages: tests/
FIRST = (  # long files, so that none ends alone
    *("tests/bench/gpu/test_dry_run.py", "tests/kernels/test_interpreter.py", "tests/kernels/test_compiler.py"),
    *("tests/mutants/test_mutants.py", "tests/mutants/test_gpu_mutants.py"),
)
PASSED = ROOT / ".test-all.jsonl"  # the sources' checksum, then a line for each test that has passed
SUMMARY = ROOT / "bench" / "results" / "test-all.md"


def first_of_each(cases, count=1) -> list:
    """`cases` as parameters of a test: the first `count` of each operation run in `make test`, others are `full`."""
    seen: collections.Counter = collections.Counter()
    parameters = []
    for case in cases:
        seen[case.op] += 1
        parameters.append(pytest.param(case, marks=[pytest.mark.full] * (seen[case.op] > count)))
    return parameters


def folder(nodeid: str) -> str:
    """The folder of tests/ that a test stands in."""
    parts = nodeid.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 else "pages"


def sources() -> str:
    """A checksum of every file that git knows or would, but for results: what a test that has passed has passed on."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    found = hashlib.sha256()
    for name in sorted(filter(None, names)):
        path = ROOT / name
        if path.is_file() and path != SUMMARY:
            found.update(f"{name}\n".encode() + path.read_bytes())
    return found.hexdigest()


class Suite:
    """The plugin: seconds by folder, and with --resume what has passed before."""

    def __init__(self, config):
        self.config, self.resume = config, config.getoption("--resume")
        self.is_worker = hasattr(config, "workerinput")
        self.seconds: collections.Counter = collections.Counter()
        self.outcomes: collections.Counter = collections.Counter()
        self.failed: list = []
        self.began = time.perf_counter()
        self.before = self._read() if self.resume else {}
        self.passed: set = set()  # tests whose call has passed; their teardown may still fail

    def _read(self) -> dict:
        """{test: seconds} of what passed on these sources; another state's file begins anew."""
        if self.is_worker:  # all take what the controller read when the run began
            return self.config.workerinput["before"]
        state = sources()
        lines = [json.loads(line) for line in PASSED.read_text().splitlines()] if PASSED.exists() else []
        if lines and lines[0] == state:
            return dict(lines[1:])
        PASSED.write_text(json.dumps(state) + "\n")
        return {}

    def pytest_configure_node(self, node):
        node.workerinput["before"] = self.before

    def pytest_collection_modifyitems(self, config, items):
        done = [item for item in items if item.nodeid in self.before]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item.nodeid not in self.before]
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))

    def pytest_runtest_logreport(self, report):
        if self.is_worker:
            return
        self.seconds[folder(report.nodeid)] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call":
            self.outcomes[report.outcome] += 1
            self.passed |= {report.nodeid} if report.passed else set()
        if self.resume and report.when == "teardown" and report.passed and report.nodeid in self.passed:
            with open(PASSED, "a", encoding="utf-8") as file:
                file.write(json.dumps([report.nodeid, round(report.duration, 2)]) + "\n")

    def pytest_sessionfinish(self, session, exitstatus):
        if self.is_worker:
            return
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.before:
            session.exitstatus = pytest.ExitCode.OK  # everything has passed before
        if self.resume and self.everything():
            SUMMARY.write_text(self.summary(), encoding="utf-8")
        if exitstatus == 0 and self.whole() and self.beyond():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.is_worker and self.whole():
            words = ", ".join(f"{name} {self.seconds[name]:.0f} s ({self.part(name):.0%})" for name in SHARES)
            terminalreporter.write_line(f"time of tests by folder: {words}")
            for line in self.beyond():
                terminalreporter.write_line(line, red=True)

    def whole(self) -> bool:
        """Whether this is `make test`: everything but what is marked full."""
        return self.everything() and self.config.option.markexpr == "not full"

    def everything(self) -> bool:
        """Whether no folder, file or name was chosen."""
        option = self.config.option
        return (
            not option.keyword
            and not option.collectonly
            and list(self.config.args) == list(self.config.getini("testpaths"))
        )

    def part(self, name) -> float:
        return self.seconds[name] / max(self.seconds.total(), 1e-9)

    def beyond(self) -> list:
        """The folders that took more than their share, in words."""
        return [
            f"tests/{name} took {self.part(name):.0%} of the time, its share is {SHARES[name]:.0%} (tests/suite.py)"
            for name in SHARES
            if self.part(name) > SHARES[name]
        ]

    def summary(self) -> str:
        """The page of a run of everything."""
        git = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
        passed = {**self.before, **dict.fromkeys(range(self.outcomes["passed"]))}
        total = collections.Counter(self.seconds)
        for nodeid, seconds in self.before.items():
            total[folder(nodeid)] += seconds
        minutes = (time.perf_counter() - self.began) / 60
        rows = [f"| tests/{name} | {seconds:,.0f} |" for name, seconds in sorted(total.items())]
        lines = [
            "# Everything that can be tested here\n",
            f"`make test-all` on commit {commit}, {datetime.date.today().isoformat()}: {len(passed):,} passed "
            f"({len(self.before):,} of them before an interruption), {len(self.failed)} failed, "
            f"{self.outcomes['skipped']} skipped; the last piece took {minutes:.0f} minutes on {os.cpu_count()} "
            f"cores. {machine()}\n",
            *[f"- FAILED {nodeid}" for nodeid in self.failed],
            "\n| folder | seconds of tests |\n|---|---:|",
            *rows,
        ]
        return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor and the versions that a result was made with."""
    packages = ("numpy", "numba", "torch", "triton")
    versions = [f"Python {platform.python_version()}", *(f"{p} {importlib.metadata.version(p)}" for p in packages)]
    return f"{describe_device('cpu')}; {', '.join(versions)}."


def pytest_addoption(parser):
    parser.addoption("--resume", action="store_true", help="skip what has passed on these sources; write the summary")


def pytest_configure(config):
    config.pluginmanager.register(Suite(config), "suite")

"""Progress where nobody watches: no bar, a line now and then, nothing of short work."""

import io
import sys

import pytest

from models.training import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test lets pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def worked(clock, monkeypatch, steps, seconds):
    """What standard error, a file, gets of `steps` steps of `seconds` each."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.progress(total=steps, desc="gan", unit="step") as bar:
        for i in range(steps):
            clock[0] += seconds
            bar.set_postfix({"loss": f"{i}.0"}, refresh=False)
            bar.update()
    return sys.stderr.getvalue()


def test_short_work_says_nothing(clock, monkeypatch):
    assert worked(clock, monkeypatch, 10, 0.1) == ""


def test_long_work_says_a_line_now_and_then_and_one_at_the_end(clock, monkeypatch):
    lines = worked(clock, monkeypatch, 400, 0.5).splitlines()
    assert lines[0] == "gan: 60 of 400 steps, 2 a second, loss 59.0"
    assert lines[-1] == "gan: 400 of 400 steps, 2 a second, loss 399.0" and len(lines) == 7


def test_a_resumed_run_counts_from_where_it_was(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.progress(total=20, initial=10, desc="vae", unit="step") as bar:
        clock[0] += 40
        bar.update(10)
    assert sys.stderr.getvalue() == "vae: 20 of 20 steps, 0.25 a second\n"


def test_what_is_counted_comes_through(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress.progress(range(5), "words")) == list(range(5))
    assert list(progress.progress(iter("ab"), "letters")) == ["a", "b"]


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.progress(range(3), "words")) == [0, 1, 2]
    assert "\r" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()

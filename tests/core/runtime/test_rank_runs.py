"""Whole runs on several ranks, started by a real launcher: what a killed, a stopped and a signalled rank leaves, how a
run goes on with other numbers of them, and the one line that is said whatever ends a job."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import ROOT
from tests.core.runtime.ranks import job, launch

TRAIN = ("train", "vae", "--batch", "4", "--steps", "12", "--save-every", "3")


def models(*arguments):
    return ["-m", "models", *arguments]


def meets(fault, *arguments):
    return ["-m", "tests.models.training.crashing", fault, *arguments]


def patched(before, name, instead):
    """`python -m models`, in which the function `name` of arguments `a` is `instead`."""
    run = "import sys; from models.__main__ import main; sys.exit(main(sys.argv[1:]))"
    return ["-c", f"{before}; {name} = lambda *a: ({instead}); {run}"]


def lines(done):
    """What a job has said, without progress bars and the launcher's own words."""
    said = done.stderr.replace("\r", "\n").splitlines()
    return [line for line in said if line.startswith(("error: ", "stopped ", "Traceback"))]


def records(folder):
    return [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_survives_a_killed_rank(tmp_path):
    folder = tmp_path / "run"
    done = launch((1, models(*TRAIN, "--out", folder)), (1, meets("SIGKILL:update:5:0.1", *TRAIN, "--out", folder)))
    told = f"error: a process of this job was killed; continue with --resume {folder}, on any number of ranks"
    assert done.returncode and lines(done) == [told], done.stderr
    assert len(records(folder)) >= 3


@pytest.mark.full
def test_a_run_survives_its_ranks_and_goes_on_with_other_numbers_of_them(tmp_path):
    """Killed on 2 ranks, stopped for good on 4, ended by a signal on 2, finished on 1: the run of one rank."""
    folder, straight = tmp_path / "run", tmp_path / "straight"
    again = ("train", "--resume", folder, "--save-every", "3", "--timeout", "3")
    done = launch((1, models(*TRAIN, "--out", folder)), (1, meets("SIGKILL:update:5:0.1", *TRAIN, "--out", folder)))
    told = f"error: a process of this job was killed; continue with --resume {folder}, on any number of ranks"
    assert done.returncode and lines(done) == [told], done.stderr
    assert len(records(folder)) >= 3

    done = launch((1, models(*again)), (1, meets("SIGSTOP:update:2:0.1", *again)), (2, models(*again)))
    kept = f"the last checkpoint is {folder / 'checkpoint.safetensors'}"
    said = lines(done)
    assert done.returncode and f"rank 1 did not arrive within 3 s: stopped, or lost; {kept}" in said[0], done.stderr
    assert "Traceback" not in done.stderr

    done = launch((1, models(*again)), (1, meets("SIGTERM:update:5:0.1", *again)))
    assert done.returncode and lines(done) == [f"stopped at step 8; continue with --resume {folder}"], done.stderr

    for arguments in (again, (*TRAIN, "--out", straight)):
        done = launch((1, models(*arguments)))
        assert done.returncode == 0, done.stderr
    ours, theirs = records(folder), records(straight)
    assert [r["step"] for r in ours] == list(range(1, 13))
    for a, b in zip(ours, theirs):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.full
def test_what_the_first_rank_does_alone_may_take_longer_than_the_limit(tmp_path):
    """Its samples: those of a checkpoint, and at the start those that a killed run did not come to."""
    folder = tmp_path / "run"
    slow = patched(
        "import time; from models.training import train; f = train._show", "train._show", "time.sleep(5), f(*a)"
    )
    for steps, run in ((2, ("vae", "--batch", "4", "--out", folder)), (3, ("--resume", folder))):
        arguments = ("train", *run, "--steps", steps, "--timeout", "3")
        done = launch((1, [*slow, *arguments]), (1, models(*arguments)))
        assert done.returncode == 0 and not lines(done), done.stderr
        (folder / "samples" / f"step_{steps:06d}.png").unlink()


@pytest.mark.full
def test_ranks_refuse_in_one_line(tmp_path):
    """The first speaks, though it comes last: the launcher ends it as soon as another rank has ended."""
    late = patched("import time; import models.__main__ as m; f = m._fail", "m._fail", "time.sleep(2), f(*a)")
    for arguments, words in (
        ((*TRAIN, "--out", tmp_path / "run"), "error: Trainer: batch is 4, should be a multiple of 3 (ranks: 3, parts"),
        (("sample", tmp_path), "error: sample runs in one process, 3 were started"),
    ):
        done = launch((1, [*late, *arguments]), (2, models(*arguments)))
        (line,) = lines(done)
        assert done.returncode and line.startswith(words) and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_ends_all_and_names_it(tmp_path):
    """The first rank is told of it and does: if another did, what watches the first might say that it was killed."""
    train, lost = (*TRAIN, "--out", tmp_path / "run"), tmp_path / "lost.npz"
    itself = "os.write(2, b'error: ended by another than the first\\n'), os._exit(9)"
    other = patched("import os; from core.runtime.distributed import Ranks", "Ranks.end", itself)
    done = launch((1, models(*train)), (1, [*other, *train, "--data", lost]))
    assert done.returncode and lines(done) == [f"error: rank 1: {lost}: no such file or folder"], done.stderr


@pytest.mark.parametrize(
    "fault, said",
    (
        (AssertionError("so"), "AssertionError: so"),
        pytest.param(KeyboardInterrupt(), "interrupted", marks=pytest.mark.full),
    ),
)
def test_what_no_rank_foresees_ends_all(fault, said, tmp_path):
    """Before the limit, 300 s, with which a rank waits for another; an error with its traceback."""
    train = (*TRAIN, "--out", tmp_path / "run")
    broken = patched(
        "from models.vae import VAETrainer as T; raise_ = (_ for _ in ()).throw", "T.build", f"raise_({fault!r})"
    )
    done = launch((1, models(*train)), (1, [*broken, *train]))
    said = ["Traceback (most recent call last):"] * ("Error" in said) + [f"error: rank 1: {said}"]
    assert done.returncode and lines(done) == said, done.stderr


@pytest.mark.parametrize("text, what", (("acb", "data"), pytest.param("abd", "tokenizer", marks=pytest.mark.full)))
def test_ranks_with_other_data_are_refused(text, what, tmp_path):
    train = ("train", "gpt", "--batch", "4", "--steps", "1", "--out", tmp_path / "run", "--data")
    files = {name: tmp_path / name for name in ("abc", text)}
    for name, file in files.items():
        file.write_text(name * 2000)
    done = launch((1, models(*train, files["abc"])), (1, models(*train, files[text])))
    line = f"error: Trainer: {what} is different on 1 of 2 ranks, should be that of rank 0"
    assert done.returncode and lines(done) == [line], done.stderr


def test_ctrl_c_saves_and_leaves(tmp_path):
    """A terminal sends it to the launcher and all that is in its group; the launcher sends it on to all ranks."""
    train = job((2, models(*TRAIN[:4], "--steps", "3000", "--out", tmp_path / "run")))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(train, cwd=ROOT, **options) as process:
        while not (tmp_path / "run" / "samples").exists() and process.poll() is None:  # made just before the first step
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read()
    assert "stopped at step " in said and "error" not in said and "Traceback" not in said, said
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_plain_training_starts_no_mpi():
    """A process that no launcher has started does not even import mpi4py."""
    code = (
        "import sys, models; from core.runtime.process_group import current; current(); print('mpi4py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Faults of every kind, met by a run in a process of its own: it ends in one line, or is killed, and nothing saved is
lost; resumed, it leaves the same files as a run that nothing happened to, bit for bit."""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from core import checkpoint
from models.__main__ import main
from models.training.runs import Run, RunError
from tests import ROOT
from tests.models.training.crashing import TRAIN, command, contents, finish, last, meet


@pytest.fixture(scope="module")
def events(undisturbed, tmp_path_factory):
    """{event: how often it happens in an undisturbed run}."""
    done = meet("count", tmp_path_factory.mktemp("runs") / "counted")
    return json.loads(done.stdout.splitlines()[-1])


def check_same(folder, undisturbed):
    """The run in `folder` has ended as if nothing had happened."""
    found, expected = contents(folder), contents(undisturbed)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]
    assert last(folder) == last(undisturbed)


def killed_inside(folder, event, number, part):
    done = meet(f"SIGKILL:{event}:{number}:{part}", folder)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stderr.splitlines()[-1]


def killed_from_outside(folder, seconds):
    """Kill a run some time after its settings are there; what it was about, by what it has left."""
    process = subprocess.Popen(command(*TRAIN, "--out", folder), cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (folder / "config.json").exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.wait()
    names = {p.name for p in folder.iterdir()}
    if any(name.endswith(".tmp") for name in names):
        return "in a write"
    if "checkpoint.safetensors" not in names:
        return "before the first checkpoint" if "previous.safetensors" not in names else "between the renames"
    return "done" if process.returncode == 0 else f"after {len(list((folder / 'samples').iterdir()))} samples"


@pytest.mark.full
def test_killed_at_a_moment_and_resumed(undisturbed, tmp_path):
    killed_from_outside(tmp_path / "run", 0.4)
    finish(tmp_path / "run")
    check_same(tmp_path / "run", undisturbed)


BOTH = ["checkpoint.safetensors", "previous.safetensors"]
WORST = (  # moments for a kill, one after the other: (event, number, part), and which checkpoints there are then
    (("write", 1, 0.4), []),  # config.json
    (("write", 7, 0.7), BOTH[:1]),  # the second checkpoint
    (("replace", 2, 0.9), BOTH[1:]),  # between its two renames, after metrics.jsonl
    (("replace", 2, 0.9), BOTH),  # it is complete, its pictures are not
    (("write", 4, 0.5), BOTH),  # these pictures, which are made up for
    (("update", 2, 0.9), BOTH),
)


@pytest.mark.parametrize("places", [WORST[1:3], pytest.param(WORST, marks=pytest.mark.full)], ids=["two", "all"])
def test_killed_inside_and_resumed_again_and_again(places, undisturbed, tmp_path):
    folder = tmp_path / "run"
    for place, left in places:
        killed_inside(folder, *place)
        assert sorted(p.name for p in folder.glob("*.safetensors")) == left, place
    finish(folder)
    check_same(folder, undisturbed)


@pytest.mark.full
def test_killed_at_50_moments_and_resumed(undisturbed, events, tmp_path):
    """30 inside a write, a forced write to disk, a rename or a step, half of them killed again after that, and 20 at
    any time."""
    rng, met = random.Random(2), collections.Counter()
    inside = ["write"] * 15 + ["fsync"] * 5 + ["replace"] * 6 + ["update"] * 4
    for i, event in enumerate(inside):
        folder, part = tmp_path / f"inside{i}", round(rng.random(), 3)
        print(killed_inside(folder, event, rng.randint(1, events[event]), part))
        met[event] += 1
        if i % 2:
            print("then", meet(f"SIGKILL:write:{rng.randint(1, 6)}:{part}", folder).stderr.splitlines()[-1])
        finish(folder)
        check_same(folder, undisturbed)
        shutil.rmtree(folder)
    lasts = (undisturbed / "metrics.jsonl").stat().st_mtime - (undisturbed / "config.json").stat().st_mtime
    for i in range(20):
        folder = tmp_path / f"outside{i}"
        phase = killed_from_outside(folder, rng.random() * lasts * 1.5)
        print(f"killed at any time: {phase}")
        met[phase] += 1
        finish(folder)
        check_same(folder, undisturbed)
        shutil.rmtree(folder)
    print(dict(met))
    assert met["done"] <= 10 and len(met) >= 6, met  # four events inside, and two phases at least from outside


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Of a power cut no test can know; but this order survives one."""
    happened = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        happened.append(("sync", os.path.basename(path), os.path.getsize(path) if os.path.isfile(path) else 0))
        fsync(descriptor)

    def renamed(old, new):
        happened.append(("rename", os.path.basename(old), os.path.basename(new)))
        replace(old, new)

    (tmp_path / "c").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    checkpoint.write_atomically(tmp_path / "c", b"content", keep=tmp_path / "p")
    assert happened == [
        ("sync", ".c.tmp", 7),
        ("rename", "c", "p"),
        ("rename", ".c.tmp", "c"),
        ("sync", tmp_path.name, 0),
    ]


def test_a_signal_saves_and_leaves(undisturbed, tmp_path):
    """It comes in the middle of a step, which is ended, saved, and then the run goes on to the same bits."""
    folder = tmp_path / "run"
    for name, number, code, steps in (("SIGINT", 7, 130, 7), ("SIGTERM", 1, 143, 8)):
        done = meet(f"{name}:update:{number}:0.1", folder)
        assert done.returncode == code and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1] == f"stopped at step {steps}; continue with --resume {folder}"
        assert int(np.frombuffer(last(folder)["optim.generator.step"], np.int64)[0]) == steps
    finish(folder)
    assert last(folder) == last(undisturbed)


FAILING = (  # one after the other in a run
    ("full:write:7:0.5", "checkpoint.safetensors", "File too large"),  # of step 6
    ("full:write:3:0.5", "loss.png", "File too large"),
    ("readonly:update:1:0", "checkpoint.safetensors", "Permission denied"),
    ("full:update:2:0", "metrics.jsonl", "File too large"),
)


@pytest.mark.parametrize("faults", [FAILING[:1], pytest.param(FAILING, marks=pytest.mark.full)], ids=["one", "all"])
def test_writes_that_fail_leave_the_last_checkpoint(faults, undisturbed, tmp_path):
    """They really fail: the system refuses to let a file grow, or to let one be made."""
    folder = tmp_path / "run"
    for fault, file, reason in faults:
        done = meet(fault, folder)
        folder.chmod(0o755)
        line = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and line.startswith("error: ") and "Traceback" not in done.stderr
        kept = f"the last checkpoint is {folder / 'checkpoint.safetensors'}"
        assert line.endswith(f"{file}: cannot be written ({reason}); {kept}")
        assert not list(folder.rglob(".*.tmp"))
    finish(folder)
    check_same(folder, undisturbed)


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": np.arange(3)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"c.safetensors: cannot be written \(No space left on device\)"):
        checkpoint.save(path, {"a": np.arange(4)}, keep=tmp_path / "previous")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_folder_that_is_removed_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    done = meet("removed:update:5:0", folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: {folder}: was removed or replaced while this" in done.stderr.splitlines()[-1]
    assert not folder.exists()


def test_a_folder_that_another_run_has_taken_is_left_alone(undisturbed, tmp_path):
    ours, theirs = tmp_path / "run", tmp_path / "other"
    shutil.copytree(undisturbed, ours), shutil.copytree(undisturbed, theirs)
    run = Run.open(ours)
    with run.locked():
        trainer = run.trainer()
        shutil.rmtree(ours)
        theirs.rename(ours)
        (ours / "checkpoint.safetensors").write_bytes(b"theirs")
        with pytest.raises(RunError, match="was removed or replaced"):
            run.save(trainer)
    assert (ours / "checkpoint.safetensors").read_bytes() == b"theirs"


def test_places_that_cannot_hold_a_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place, words in ((tmp_path / "file" / "run", "Not a directory"), ("/proc/run", "No such file or directory")):
        assert main([*TRAIN, "--out", str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {place}") and words in line


def flip(path, share):
    """Change one bit of a file, that many parts of it from its start."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)


DAMAGES = (lambda p: os.truncate(p, 99_999), lambda p: os.truncate(p, 0), lambda p: flip(p, 0.6))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(undisturbed, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    newest, before = folder / "checkpoint.safetensors", (folder / "previous.safetensors").read_bytes()
    for damage in DAMAGES:
        shutil.copy(undisturbed / newest.name, newest)
        damage(newest)
        damaged = newest.read_bytes()
        assert Run.open(folder).trainer().steps == 9
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{newest}: ")
        assert line.endswith(f"; going back to {folder / 'previous.safetensors'}, step 9")
        assert newest.read_bytes() == damaged, "looking changes nothing"
    killed_inside(
        folder, "replace", 2, 0.9
    )  # the damaged one has just been replaced: until then the good one had to stay
    assert (folder / "previous.safetensors").read_bytes() == before
    finish(folder)
    assert last(folder) == last(undisturbed)
    assert contents(folder)["metrics.jsonl"] == contents(undisturbed)["metrics.jsonl"]


def test_both_checkpoints_damaged(undisturbed, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    for name in ("checkpoint", "previous"):
        flip(folder / f"{name}.safetensors", 0.5)
    assert main(["train", "--resume", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "checkpoint.safetensors: damaged" in line and "previous.safetensors: " in line

"""The same seed gives the same bits in every process, also where a run stopped within its second epoch and went on in
another process; another seed gives others. docs/reproducibility.md says what else the bits depend on.

One process trains all four models, on two threads, and Python's own hashes are salted differently in each.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.parity import small_models
from models.__main__ import main
from tests import ROOT

STOP, END = 14, 30  # steps: in the middle of the second epoch (of 9 or 12 steps), in a later one
CODE = """
import hashlib, json, sys
from pathlib import Path
from bench.parity import small_models

seed, load, save, steps = json.loads(sys.argv[1])
found = {}
for kind in small_models.SMALL:
    t = small_models.trainer(kind, seed=seed, batch=16 if kind == "gan" else 12, dropout=0.2)
    if load:
        t.load(Path(load) / kind)
    small_models.run(t, steps - t.steps)
    if save:
        t.save(Path(save) / kind)
    bits = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in t.state().items()}
    found[kind] = {"bits": bits, "epoch": int(t.order.epoch), "position": int(t.order.position)}
print(json.dumps(found))
"""


def trained(salt, seed=0, load=None, save=None, steps=END):
    """{kind: the digest of every array, epoch, position} after these steps in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": str(salt), "ASSAY_THREADS": "2"}
    plan = json.dumps([seed, load and str(load), save and str(save), steps])
    done = subprocess.run([sys.executable, "-c", CODE, plan], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first():
    return trained(salt=1)


def test_a_run_that_stopped_in_its_second_epoch_goes_on_to_the_same_bits(first, tmp_path):
    """Three processes, each with its own salt: the second begins as the first did, the third goes on with its files."""
    stopped = trained(salt=3, save=tmp_path, steps=STOP)
    assert all(found["epoch"] == 1 and found["position"] > 0 for found in stopped.values())
    assert all(found["epoch"] > 1 for found in first.values())
    assert trained(salt=4, seed=9, load=tmp_path) == first


def test_another_seed_gives_other_bits(first):
    other = trained(salt=1, seed=1, steps=1)
    for kind in small_models.SMALL:
        weights = [name for name in first[kind]["bits"] if name.startswith("model.") and name.endswith("weight")]
        same = [name for name in weights if first[kind]["bits"][name] == other[kind]["bits"][name]]
        assert weights and not same


@pytest.mark.parametrize("kind", small_models.SMALL)
def test_seeds_that_differ_in_one_bit_order_and_draw_differently(kind):
    """The lowest bit, one of the upper half, and the highest."""
    seeds = [0, 1, 2**40, 2**63]
    trainers = [small_models.trainer(kind, seed=seed) for seed in seeds]
    assert len({t.order.next().tobytes() for t in trainers}) == len(seeds)
    weights = [next(a for a in t.model.state_dict().values() if a.ndim > 1) for t in trainers]
    assert len({w.tobytes() for w in weights}) == len(seeds)
    assert all(np.abs(np.corrcoef(weights[0].flat, w.flat)[0, 1]) < 0.2 for w in weights[1:])


def test_a_run_says_what_its_bits_depend_on(tmp_path, capsys):
    folder, path = tmp_path / "run", tmp_path / "run" / "config.json"
    assert main(["train", "gan", "--batch", "4", "--steps", "1", "--out", str(folder)]) == 0
    settings = json.loads(path.read_text())
    assert settings["device"] and settings["versions"]["numpy"] == np.__version__

    def notes(steps, **changes):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        capsys.readouterr()
        assert main(["train", "--resume", str(folder), "--steps", str(steps)]) == 0
        return capsys.readouterr().err

    assert "when the run began" not in notes(2)
    said = notes(3, device="another", threads=99, versions={"numpy": "1.0"})
    for before in ("threads: 99", "device: another", "versions: {'numpy': '1.0'}"):
        assert f"{before} when the run began" in said
    path.write_text(json.dumps({name: v for name, v in settings.items() if name != "device"}))
    assert "device" not in notes(4)

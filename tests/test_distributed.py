"""Several ranks, started by a real launcher: the same step as one rank takes, within the judge's bound; parts that are
accumulated; what a killed, a stopped and a signalled rank leaves, and how a run goes on with other numbers of them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest

import core
from bench import distributed as cost
from core import distributed
from core.nccl import Devices
from models.data import Order
from tests import small, stand_in
from tests.parity import assess, typical
from tests.ranks import job, launch, step
from tests.stand_in_nccl import Mirror, nccl
from tests.test_house import ROOT
from tests.whole_models import as_arrays, collect, off_kinks

SEEDS = 4
MODELS: dict = {"gan": {"sync_batch_norm": True}, "vae": {}, "gpt": {}, "seq2seq": {}, "diffusion": {}}
PARTS = {"gan": 1}  # what its twin's batch norm normalises is not cut; the others' batches are, into single examples
GROUPS = ("loss ", "gradient ", "state ")


@pytest.fixture(scope="module")
def oracles():
    """{kind: [(seed, the oracle's and torch's losses, gradients and state of one step)]}, of the whole batch."""
    found = {}
    for kind in MODELS:
        found[kind] = []
        for both, _, losses in itertools.islice(off_kinks(kind, {}, PARTS.get(kind, 4)), SEEDS):
            three = as_arrays(losses), both.gradients(), both.states()
            copied = [[{k: np.array(v) for k, v in part.items()} for part in (t[1], *t[2])] for t in three]
            found[kind].append((both.trainer.seed, copied))
    return found


@pytest.fixture(scope="module")
def taken(oracles, tmp_path_factory):
    """{(ranks, accumulate): {(kind, seed): what they found}}, of real ranks; and each rank's own norm under "own"."""
    found: dict = defaultdict(dict)
    for ranks, accumulate in ((2, 1), (4, 1), (2, 2)):
        folder = tmp_path_factory.mktemp("ranks")
        jobs = [
            [f"{kind}-{seed}", kind, seed, {"accumulate": accumulate, **options}]
            for kind, options in MODELS.items()
            for seed, _ in oracles[kind]
            if accumulate == 1 or not options
        ]
        jobs.append(["own-0", "gan", 0, {"accumulate": accumulate}])
        done = launch((ranks, ["-m", "tests.ranks", folder, json.dumps(jobs)]))
        assert done.returncode == 0, done.stderr
        for name, *_ in jobs:
            kind, _, seed = name.partition("-")
            found[ranks, accumulate][kind, int(seed)] = dict(np.load(folder / f"{name}.npz"))
    return found


def faults(kind, oracles, ours_of):
    """What the judge finds wrong in one step, `ours_of(seed)`, beside the whole batch's oracle."""
    draws: dict = defaultdict(list)
    for seed, groups in oracles[kind]:
        ours = ours_of(seed)
        for prefix, (oracle, *theirs) in zip(GROUPS, groups):
            rule = typical if prefix == "state " else assess
            own = {name.removeprefix(prefix): a for name, a in ours.items() if name.startswith(prefix)}
            collect(draws, rule, prefix, own, oracle, theirs)
    verdicts = {what: rule(found, np.float32) for (what, rule), found in draws.items()}
    assert len(verdicts) > 10
    return [f"{what}: {v.fault}" for what, v in verdicts.items() if v.fault]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("ranks", (2, 4))
def test_ranks_take_the_step_of_one(kind, ranks, oracles, taken):
    """Draws, padding and batch norm's statistics are those of the whole batch; every rank ends in the same bits."""
    assert not faults(kind, oracles, lambda seed: taken[ranks, 1][kind, seed])


@pytest.mark.parametrize("kind", [kind for kind, options in MODELS.items() if not options])
def test_accumulated_parts_take_the_step_of_one(kind, oracles, taken):
    assert not faults(kind, oracles, lambda seed: taken[2, 2][kind, seed])
    assert not faults(kind, oracles, lambda seed: step(distributed.ALONE, kind, seed, accumulate=4))


def test_parts_of_a_gan_are_ranks_of_one(taken):
    """A batch norm's batch is a part, whether it is a rank's or one of several in turn: the same losses and gradients.
    Running statistics are not the same: they are moved once a part, and are the mean over ranks."""
    ranks, parts = taken[4, 1]["own", 0], step(distributed.ALONE, "gan", 0, accumulate=4)
    both = taken[2, 2]["own", 0]
    whole = step(distributed.ALONE, "gan", 0)
    for name, a in ranks.items():
        if name.startswith(("loss ", "gradient ")):
            for other in (parts[name], both[name]):
                assert np.linalg.norm(other - a) <= 1e-5 * np.linalg.norm(a), name
    weight = "gradient generator.dense.weight"
    assert np.linalg.norm(whole[weight] - ranks[weight]) > 1e-2 * np.linalg.norm(whole[weight])


def test_running_statistics_are_the_ranks_mean_and_move_once_a_part(taken):
    """Each rank's are what a trainer of its part alone would have; `taken` has seen all ranks end with one state."""
    name = "state generator.norm0.running_mean"
    before = small.trainer("gan", 0).model.generator.norm0.running_mean.numpy()
    moved = {parts: step(distributed.ALONE, "gan", 0, accumulate=parts)[name] - before for parts in (1, 2)}
    ranks = taken[2, 1]["own", 0][name] - before
    # of two parts with means a and b: 0.1 (a + b) / 2 by ranks, 0.1 (0.9 a + b) in turn; of the whole 0.1 (a + b) / 2
    np.testing.assert_allclose(ranks, moved[1], atol=1e-7)
    assert np.linalg.norm(moved[2]) > 1.5 * np.linalg.norm(moved[1])
    counted = core.explain(small.trainer("gan", accumulate=2))  # whose generator goes forward twice a part
    assert sum(counted["running_stats_"].values()) == 2 * 4 and sum(counted["conv_transpose2d"].values()) == 2 * 6


def test_a_large_batch_fits_in_parts():
    peaks = {}
    for parts in (1, 8):
        t = small.trainer("vae", batch=64, accumulate=parts)
        batch = next(t.batches("train"))
        t.step(batch)
        tracemalloc.start()
        t.step(batch)
        peaks[parts] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[8] < peaks[1] / 2, peaks


def test_every_example_goes_to_one_rank():
    shares = [Order(103, 12, 5, (a, a + 4)) for a in (0, 4, 8)]
    whole = Order(103, 12, 5)
    for _ in range(20):  # past two epochs
        assert np.array_equal(np.concatenate([order.next() for order in shares]), whole.next())
    assert int(whole.epoch) == 2 and all(order.epoch == 2 for order in shares)


def test_a_process_of_its_own_is_alone(monkeypatch):
    assert distributed.world() is distributed.ALONE and distributed.launched() == (0, 1)
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("PMI_SIZE", "4")
    assert distributed.launched() == (3, 4)


@pytest.mark.parametrize("kind", ["gan", "gpt"])
def test_sums_on_gpus_are_launched_beside_the_step_and_captured_with_it(kind, monkeypatch):
    """Rehearsed: rank 0 of two that are alike. A replayed graph gives the bits of single launches; both train."""
    with stand_in.without_a_gpu() as gpu:
        monkeypatch.setattr(sys.modules["cupy"].cuda, "nccl", nccl, raising=False)
        monkeypatch.setitem(sys.modules, "cupy.cuda", sys.modules["cupy"].cuda)
        found = []
        for graph in (False, True):
            t = small.trainer(kind, device="cuda", graph=graph, world=Devices(Mirror(), 5.0))
            t.synchronise()
            found.append((small.run(t, 6), {name: a.copy() for name, a in t.state().items()}))
            assert t.world.any(True) and not t.world.any(False)
        assert gpu.calls.count("launch") == 4 and found[0][0] == found[1][0]
        assert found[0][0][0] != found[0][0][-1]
        assert all(np.array_equal(a.get(), found[1][1][name].get()) for name, a in found[0][1].items() if a.ndim)
        begun, before = t.world.begin(t.xp.zeros(3, np.float32)), len(gpu.calls)
        begun.finish()
        assert gpu.calls[before:] == ["wait"], "what computes waits for the sum"


# --- what it costs ----------------------------------------


def test_the_model_of_a_step_finds_what_made_its_data():
    start, latency, bandwidth = 40e-6, 9e-6, 2e9
    made = [(size, k, start + k * latency + 2 * 3 / 4 * size / bandwidth) for size, k in cost.SIZES]
    fitted = cost.fit(made, 4)
    assert fitted == pytest.approx([start, latency, 1 / bandwidth])
    seconds = cost.predicted(4, fitted, losses=2, buckets=3, gradients=10**6)
    assert seconds == pytest.approx(2 * start + 3 * latency + 1.5 * 10**6 / bandwidth)


def test_a_rank_sends_what_the_page_says():
    """2 (N - 1) / N times the gradients, and less than a kilobyte of losses and flags beside them."""
    found = cost.job(2, "gpt", 4)
    assert found["gradients"] == 810_496 * 4 and found["buckets"] <= 5 and found["losses"] == 1
    assert 0 < found["sent"] - found["gradients"] < 1024
    assert 0 < found["sums"] < found["step"] and len(found["calibration"]) == len(cost.SIZES)


# --- whole runs ----------------------------------------

TRAIN = ("train", "vae", "--batch", "4", "--steps", "12", "--save-every", "3")


def models(*arguments):
    return ["-m", "models", *arguments]


def meets(fault, *arguments):
    return ["-m", "tests.crashing", fault, *arguments]


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


def test_what_the_first_rank_does_alone_may_take_longer_than_the_limit(tmp_path):
    """Its samples: those of a checkpoint, and at the start those that a killed run did not come to."""
    folder = tmp_path / "run"
    slow = patched("import time; from models import train; f = train._show", "train._show", "time.sleep(5), f(*a)")
    for steps, run in ((2, ("vae", "--batch", "4", "--out", folder)), (3, ("--resume", folder))):
        arguments = ("train", *run, "--steps", steps, "--timeout", "3")
        done = launch((1, [*slow, *arguments]), (1, models(*arguments)))
        assert done.returncode == 0 and not lines(done), done.stderr
        (folder / "samples" / f"step_{steps:06d}.png").unlink()


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
    other = patched("import os; from core.distributed import Ranks", "Ranks.end", itself)
    done = launch((1, models(*train)), (1, [*other, *train, "--data", lost]))
    assert done.returncode and lines(done) == [f"error: rank 1: {lost}: no such file or folder"], done.stderr


@pytest.mark.parametrize(
    "fault, said", ((AssertionError("so"), "AssertionError: so"), (KeyboardInterrupt(), "interrupted"))
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


@pytest.mark.parametrize("text, what", (("acb", "data"), ("abd", "tokenizer")))
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
        read = iter(lambda: process.stdout.read(1), "")
        until = "".join(itertools.takewhile(lambda c: c != "=", read))  # the first loss in the bar
        os.killpg(process.pid, signal.SIGINT)
        said = until + process.stdout.read()
    assert "stopped at step " in said and "error" not in said and "Traceback" not in said, said
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_plain_training_starts_no_mpi():
    """A process that no launcher has started does not even import mpi4py."""
    code = "import sys, models; from core import distributed; distributed.world(); print('mpi4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

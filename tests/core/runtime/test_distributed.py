"""Several ranks, started by a real launcher: the same step as one rank takes, within the accuracy test's bound; parts
that are accumulated; what is sent, and the model of what that costs. Whole runs on ranks:
tests/core/runtime/test_rank_runs.py."""

import functools
import itertools
import json
import os
import sys
import threading
import tracemalloc
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

import core
from bench.cpu import distributed as cost
from bench.parity import small_models
from bench.parity.rule import assess, typical
from bench.parity.whole_models import as_arrays, collect, off_kinks
from core.runtime import distributed, process_group
from core.runtime.nccl import Devices
from models.datasets import Order
from tests.core.runtime.ranks import launch, step
from tests.fakes import fake_cupy
from tests.fakes.fake_nccl import Mirror, nccl

SEEDS = 2
MODELS: dict = {"gan": {"sync_batch_norm": True}, "vae": {}, "gpt": {}, "seq2seq": {}, "diffusion": {}}
PARTS = {
    "gan": 1
}  # what its counterpart's batch norm normalises is not cut; the others' batches are, into single examples
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
    """taken(ranks, accumulate): {(kind, seed): what real ranks found}; with each rank's own norm under "own"."""

    @functools.cache
    def found(ranks, accumulate):
        folder = tmp_path_factory.mktemp("ranks")
        jobs = [
            [f"{kind}-{seed}", kind, seed, {"accumulate": accumulate, **options}]
            for kind, options in MODELS.items()
            for seed, _ in oracles[kind]
            if accumulate == 1 or not options
        ]
        jobs.append(["own-0", "gan", 0, {"accumulate": accumulate}])
        done = launch((ranks, ["-m", "tests.core.runtime.ranks", folder, json.dumps(jobs)]))
        assert done.returncode == 0, done.stderr
        names = [name.partition("-") for name, *_ in jobs]
        return {(kind, int(seed)): dict(np.load(folder / f"{kind}-{seed}.npz")) for kind, _, seed in names}

    return found


def faults(kind, oracles, ours_of):
    """What the accuracy test finds wrong in one step, `ours_of(seed)`, beside the whole batch's oracle."""
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
@pytest.mark.parametrize("ranks", (2, pytest.param(4, marks=pytest.mark.full)))
def test_ranks_take_the_step_of_one(kind, ranks, oracles, taken):
    """Draws, padding and batch norm's statistics are those of the whole batch; every rank ends in the same bits."""
    assert not faults(kind, oracles, lambda seed: taken(ranks, 1)[kind, seed])


@pytest.mark.parametrize("kind", [kind for kind, options in MODELS.items() if not options])
def test_accumulated_parts_take_the_step_of_one(kind, oracles, taken):
    assert not faults(kind, oracles, lambda seed: taken(2, 2)[kind, seed])
    assert not faults(kind, oracles, lambda seed: step(distributed.ALONE, kind, seed, accumulate=4))


@pytest.mark.full
def test_parts_of_a_gan_are_ranks_of_one(taken):
    """A batch norm's batch is a part, whether it is a rank's or one of several in turn: the same losses and gradients.
    Running statistics are not the same: they are moved once a part, and are the mean over ranks."""
    ranks, parts = taken(4, 1)["own", 0], step(distributed.ALONE, "gan", 0, accumulate=4)
    both = taken(2, 2)["own", 0]
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
    before = small_models.trainer("gan", 0).model.generator.norm0.running_mean.numpy()
    moved = {parts: step(distributed.ALONE, "gan", 0, accumulate=parts)[name] - before for parts in (1, 2)}
    ranks = taken(2, 1)["own", 0][name] - before
    # of two parts with means a and b: 0.1 (a + b) / 2 by ranks, 0.1 (0.9 a + b) in turn; of the whole 0.1 (a + b) / 2
    np.testing.assert_allclose(ranks, moved[1], atol=1e-7)
    assert np.linalg.norm(moved[2]) > 1.5 * np.linalg.norm(moved[1])
    counted = core.explain(small_models.trainer("gan", accumulate=2))  # whose generator goes forward twice a part
    assert sum(counted["running_stats_"].values()) == 2 * 4 and sum(counted["conv_transpose2d"].values()) == 2 * 6


def test_a_large_batch_fits_in_parts():
    peaks = {}
    for parts in (1, 8):
        t = small_models.trainer("vae", batch=64, accumulate=parts)
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
    assert process_group.current() is distributed.ALONE and process_group.launched() == (0, 1)
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("PMI_SIZE", "4")
    assert process_group.launched() == (3, 4)


@pytest.mark.parametrize("kind", ["gan", "gpt"])
def test_sums_on_gpus_are_launched_beside_the_step_and_captured_with_it(kind, monkeypatch):
    """Rehearsed: rank 0 of two that are alike. A replayed graph gives the bits of single launches; both train."""
    with fake_cupy.without_a_gpu() as gpu:
        monkeypatch.setattr(sys.modules["cupy"].cuda, "nccl", nccl, raising=False)
        monkeypatch.setitem(sys.modules, "cupy.cuda", sys.modules["cupy"].cuda)
        found = []
        for graph in (False, True):
            t = small_models.trainer(kind, device="cuda", graph=graph, group=Devices(Mirror(), 5.0))
            t.synchronise()
            found.append((small_models.run(t, 6), {name: a.copy() for name, a in t.state().items()}))
            assert t.group.any(True) and not t.group.any(False)
        assert gpu.calls.count("launch") == 4 and found[0][0] == found[1][0]
        assert found[0][0][0] != found[0][0][-1]
        assert all(np.array_equal(a.get(), found[1][1][name].get()) for name, a in found[0][1].items() if a.ndim)
        begun, before = t.group.sum_of(t.xp.zeros(3, np.float32)).begin(), len(gpu.calls)
        begun.finish()
        assert gpu.calls[before:] == ["wait"], "what computes waits for the sum"


@pytest.mark.parametrize("said", (b"error: so\n", None))
def test_the_end_comes_when_what_was_said_has_been_read(said):
    """A launcher that is told to end a job drops what it has not read yet. None: nobody listens."""
    (reader, writer), stderr, heard = os.pipe(), os.dup(2), []
    late = threading.Timer(0.2, lambda: heard.append(os.read(reader, 100)))
    comm = SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 2, Abort=lambda code: heard.append(code))
    with open(os.devnull, "wb") as nowhere:
        os.dup2(writer if said else nowhere.fileno(), 2)
        try:
            os.write(2, said or b"lost")
            if said:
                late.start()
            distributed.Ranks(comm).end(3)
        finally:
            os.dup2(stderr, 2)
    if said:
        late.join()
    for fd in (reader, writer, stderr):
        os.close(fd)
    assert heard == ([said, 3] if said else [3])


# --- what it costs ----------------------------------------


def test_the_model_of_a_step_finds_what_made_its_data():
    start, latency, bandwidth = 40e-6, 9e-6, 2e9
    sizes = [(1 << 18, 1), (1 << 18, 2), (1 << 20, 1), (1 << 22, 4)]
    made = [(size, k, start + k * latency + 2 * 3 / 4 * size / bandwidth) for size, k in sizes]
    fitted = cost.fit(made, 4)
    assert fitted == pytest.approx([start, latency, 1 / bandwidth])
    seconds = cost.predicted(4, fitted, losses=2, buckets=3, summed=10**6)
    assert seconds == pytest.approx(2 * start + 3 * latency + 1.5 * 10**6 / bandwidth)


def test_a_rank_sends_what_the_page_says():
    """2 (N - 1) / N times the gradients, and less than a kilobyte of losses and flags beside them."""
    found = cost.job(2, "gpt", 4, "summed")
    assert found["summed"] == 810_496 * 4 and found["buckets"] <= 5 and found["losses"] == 1
    assert 0 < found["sent"] - found["summed"] < 1024
    assert 0 < found["sums"] < found["step"]
    shares = [size / found["summed"] for size, _, _ in found["trials"]]
    assert shares == pytest.approx([share for share, _ in cost.TRIALS], rel=1e-4)

"""Modules and optimisers against PyTorch's own, and the promises about names and state."""

import math

import numpy as np
import pytest
import torch

from core import Generator, interop, manual_seed, nn, optim
from core.nn import Parameter


def pair(rng, shapes):
    """The same float64 parameters for us and for torch."""
    arrays = [rng.standard_normal(s) for s in shapes]
    ours = {str(i): Parameter(a.copy()) for i, a in enumerate(arrays)}
    return ours, [torch.nn.Parameter(torch.tensor(a)) for a in arrays]


OPTIMIZERS = {
    "sgd": (lambda p: optim.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd momentum decay": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ),
    "sgd nesterov": (
        lambda p: optim.SGD(p, 0.1, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True),
    ),
    "adam": (lambda p: optim.Adam(p, 0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam betas eps decay": (
        lambda p: optim.Adam(p, 0.01, (0.5, 0.99), 1e-4, 0.1),
        lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.99), 1e-4, 0.1),
    ),
    "adamw": (lambda p: optim.AdamW(p, 0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    "adamw decay": (
        lambda p: optim.AdamW(p, 0.01, (0.8, 0.95), weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.95), weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_torch(name, rng):
    make, make_torch = OPTIMIZERS[name]
    ours, theirs = pair(rng, [(3, 4), (5,), ()])
    a, b = make(ours), make_torch(theirs)
    for _ in range(20):
        for p, q in zip(ours.values(), theirs):
            p.grad = rng.standard_normal(p.shape)
            q.grad = torch.tensor(p.grad)
        a.step(), b.step()
    for p, q in zip(ours.values(), theirs):
        assert np.abs(p.data - q.detach().numpy()).max() < 1e-12


def test_optimizer_leaves_parameters_without_gradient_alone(rng):
    ours, _ = pair(rng, [(3,), (2,)])
    before = [p.data.copy() for p in ours.values()]
    ours["0"].grad = np.ones(3)
    optim.AdamW(ours, 0.1).step()
    assert not np.array_equal(before[0], ours["0"].data) and np.array_equal(before[1], ours["1"].data)


def test_optimizer_reads_schedule_and_keeps_state_in_place(rng):
    ours, _ = pair(rng, [(3,)])
    o = optim.Adam(ours, optim.cosine(1.0, 10, warmup=2))
    addresses = {k: a.__array_interface__["data"] for k, a in o.state().items()}
    rates = []
    for _ in range(12):
        ours["0"].grad = np.ones(3)
        o.step()
        rates.append(float(o.lr))
    assert sorted(o.state()) == ["0.m", "0.v", "step"] and int(o.steps) == 12
    assert {k: a.__array_interface__["data"] for k, a in o.state().items()} == addresses
    expected = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(9)] + [0.0]
    assert rates == pytest.approx(expected)


def test_schedules():
    steps = [np.asarray(i) for i in range(100)]
    assert [float(optim.constant(2.0, 4)(s)) for s in steps[:6]] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    cosine = [float(optim.cosine(1.0, 100, floor=0.1)(s)) for s in steps]
    assert cosine[0] == pytest.approx(1.0) and cosine[50] == pytest.approx(0.55) and min(cosine) >= 0.1
    root = [float(optim.inverse_sqrt(1.0, 10)(s)) for s in steps]
    assert root[4] == pytest.approx(0.5) and root[9] == pytest.approx(1.0) and root[39] == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_clip_grad_norm_follows_torch(scale, rng):
    ours, theirs = pair(rng, [(3, 4), (5,)])
    for p, q in zip(ours.values(), theirs):
        p.grad = scale * rng.standard_normal(p.shape)
        q.grad = torch.tensor(p.grad)
    norm = optim.clip_grad_norm_(ours.values(), 1.0)
    assert float(norm) == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 1.0).item(), rel=1e-12)
    for p, q in zip(ours.values(), theirs):
        assert np.abs(p.grad - q.grad.numpy()).max() < 1e-12


def test_averages_move_in_place_as_torchs_and_only_in_steps_that_are_taken(rng):
    ours, theirs = pair(rng, [(3, 4), (), (5,)])
    averages = [Parameter(np.zeros(p.shape)) for p in ours.values()]
    net = torch.nn.ParameterList(theirs)
    follow = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    torch_averages, addresses = [torch.zeros_like(p) for p in net], [a.data.ctypes.data for a in averages]
    for taken in (None, np.float32(1), np.float32(0), None):
        for p, q in zip(ours.values(), net):
            p.data += 1.0
            q.data += 1.0
        before = [a.data.tobytes() for a in averages]
        optim.ema_(averages, ours.values(), 0.9, taken)
        if taken is None or taken:
            follow(torch_averages, list(net), 0)
        else:
            assert [a.data.tobytes() for a in averages] == before
        assert all(np.abs(a.data - j.detach().numpy()).max() < 1e-14 for a, j in zip(averages, torch_averages))
    assert [a.data.ctypes.data for a in averages] == addresses


# --- modules ----------------------------------------


class Net(nn.Module):
    def __init__(self):
        self.conv = nn.Conv2d(2, 3, 3, padding=1, act="relu")
        self.norm = nn.BatchNorm(3)
        self.up = nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))

    def forward(self, x):
        return self.head(self.up(self.norm(self.conv(x))))


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(3)
        self.up = torch.nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1)
        self.head = torch.nn.Module()
        self.head.layers = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LayerNorm(5))

    def forward(self, x):
        y = self.up(self.norm(torch.relu(self.conv(x))))
        return self.head.layers(y.permute(0, 2, 3, 1))


@pytest.mark.parametrize("training", [True, False])
def test_state_dict_carries_over_from_torch_and_back(training, rng):
    ours, theirs = Net().train(training), TorchNet().train(training)
    theirs.norm.running_mean += torch.randn(3, generator=torch.manual_seed(0))
    ours.load_state_dict(interop.from_torch_state_dict(theirs.state_dict()))
    x = rng.standard_normal((2, 6, 5, 2)).astype(np.float32)
    y = theirs(torch.tensor(x).permute(0, 3, 1, 2)).detach().numpy()
    assert np.abs(ours(x).numpy() - y).max() < 1e-5
    back = interop.to_torch_state_dict(ours.state_dict())
    for name, tensor in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert back[name].shape == tuple(tensor.shape) and np.abs(back[name] - tensor.numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: nn.Linear(30, 20), lambda: torch.nn.Linear(30, 20)),
        (lambda: nn.Conv2d(8, 20, 5), lambda: torch.nn.Conv2d(8, 20, 5)),
        (lambda: nn.ConvTranspose2d(20, 8, 5), lambda: torch.nn.ConvTranspose2d(20, 8, 5)),
        (lambda: nn.Embedding(100, 30), lambda: torch.nn.Embedding(100, 30)),
    ],
    ids=["linear", "conv2d", "conv_transpose2d", "embedding"],
)
def test_initial_values_are_distributed_as_in_torch(ours, theirs):
    manual_seed(3)
    a, b = ours().weight.data, theirs().weight.detach().numpy()
    assert a.std() == pytest.approx(b.std(), rel=0.1) and abs(a.mean()) < 0.1 * a.std()
    assert np.abs(a).max() <= np.abs(b).max() * (1.4 if ours().weight.shape == (100, 30) else 1.01)


def test_load_state_dict_writes_all_or_nothing():
    net = Net()
    state = {name: a + 1 for name, a in net.state_dict().items()}
    before = {name: a.copy() for name, a in net.state_dict().items()}
    broken = [
        ({k: v for k, v in state.items() if k != "up.bias"}, r"missing \['up.bias'\], unexpected none"),
        ({**state, "more": np.ones(1)}, r"missing none, unexpected \['more'\]"),
        ({**state, "up.bias": np.ones(5, np.float32)}, r"up.bias is float32 of shape \(5,\), should be float32"),
        ({**state, "up.bias": np.ones(4)}, r"up.bias is float64 of shape \(4,\)"),
    ]
    for arrays, words in broken:
        with pytest.raises(ValueError, match=words):
            net.load_state_dict(arrays)
        assert all(np.array_equal(before[n], a) for n, a in net.state_dict().items())
    net.load_state_dict(state)
    assert all(np.array_equal(state[n], a) for n, a in net.state_dict().items())


def test_shared_parameters_come_once():
    class Tied(nn.Module):
        def __init__(self):
            self.a = nn.Linear(2, 2)
            self.b = self.a

    assert list(Tied().named_parameters()) == ["a.weight", "a.bias"]


def test_modules_come_from_the_current_generator():
    def weights(seed):
        with Generator(seed):
            return nn.Linear(3, 3).weight.data

    assert np.array_equal(weights(1), weights(1)) and not np.array_equal(weights(1), weights(2))


def test_attention_module_follows_torch(rng):
    with Generator(0):
        ours = nn.MultiHeadAttention(8, 2)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    half = ours.kv.weight.data
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([ours.q.weight.data, half])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([ours.q.bias.data, np.zeros(16, np.float32)])))
        theirs.out_proj.weight.copy_(torch.tensor(ours.out.weight.data))
        theirs.out_proj.bias.copy_(torch.tensor(ours.out.bias.data))
    x, memory = (rng.standard_normal((2, t, 8)).astype(np.float32) for t in (5, 7))
    y = theirs(*(torch.tensor(a) for a in (x, memory, memory)))[0].detach().numpy()
    assert np.abs(ours(x, ours.keys_values(memory)).numpy() - y).max() < 1e-5
    with pytest.raises(ValueError, match="d_model is 8, should be a multiple of heads = 3"):
        nn.MultiHeadAttention(8, 3)

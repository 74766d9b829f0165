"""Dynamic loss scaling: torch's scales step by step, gradients that survive float16, overflows without a trace."""

import numpy as np
import pytest
import torch

from core import Tensor, nn, optim, use
from core.nn import Parameter

# float64 goes to the reference, float32 to the kernels
OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, 0.01),
    "sgd": lambda p: optim.SGD(p, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
}
MAKE = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
DTYPE = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def parameters(rng, dtype=np.float64):
    return {name: Parameter(np.asarray(rng.standard_normal(s), dtype)) for name, s in (("w", (3, 4)), ("b", ()))}


def bits(optimizer):
    arrays = {**optimizer.state(), **{name: p.data for name, p in optimizer.parameters.items()}}
    return {name: a.tobytes() for name, a in arrays.items()}


@pytest.mark.parametrize("seed", range(3))
def test_it_follows_torch_step_by_step(seed):
    """Scale, steps since it changed, and parameters over 40 steps, of which some overflow, two in a row as well."""
    rng = np.random.default_rng(seed)
    ours = parameters(rng)
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours.values()]
    a, b = optim.Adam(ours, 0.01), torch.optim.Adam(theirs, 0.01)
    scaler, oracle = optim.LossScale(interval=5), torch.amp.GradScaler("cpu", growth_interval=5)
    scales = []
    for step in range(40):
        assert float(scaler.scale) == oracle.scale(torch.ones(())).item()
        for i, (p, q) in enumerate(zip(ours.values(), theirs)):
            p.grad = np.asarray(rng.standard_normal(p.shape) * float(scaler.scale))
            if step in (0, 9, 10, 21) and i == step % 2:  # one of the two
                p.grad[(0,) * p.ndim] = np.inf if step < 10 else np.nan
            q.grad = torch.tensor(p.grad)
        a.step(scaler.unscale_(ours.values()))
        oracle.step(b), oracle.update()
        assert int(scaler.good) == oracle._get_growth_tracker() and int(a.steps) == int(
            b.state[theirs[0]].get("step", 0)
        )
        scales.append(float(scaler.scale))
    assert len(set(scales)) > 3
    for p, q in zip(ours.values(), theirs):
        assert np.abs(p.data - q.detach().numpy()).max() < 1e-12


def test_its_numbers_are_those_torch_documents():
    scaler, oracle = optim.LossScale(), torch.amp.GradScaler("cpu")
    assert float(scaler.scale) == oracle.get_scale() == 2.0**16
    theirs = oracle.get_growth_factor(), oracle.get_backoff_factor(), oracle.get_growth_interval()
    assert tuple(scaler.options.values()) == theirs == (2.0, 0.5, 2000)


def test_a_scale_stays_finite(rng):
    scaler = optim.LossScale(initial=2.0**127, interval=1)
    p = parameters(rng)["w"]
    for _ in range(2):
        p.grad = np.ones(p.shape)
        scaler.unscale_([p])
    assert float(scaler.scale) == 2.0**127


@MAKE
@DTYPE
def test_a_step_that_overflowed_changes_no_bit(make, dtype, rng):
    """Not before the first step, where the bias correction divides by 0, nor later; nor the sign of a zero."""
    ours, scaler = parameters(rng, dtype), optim.LossScale()
    ours["w"].data[0, 0] = -0.0
    optimizer = make(ours)
    for step in range(3):
        for p in ours.values():
            p.grad = np.asarray(rng.standard_normal(p.shape), dtype)
        if step != 1:
            before = bits(optimizer)
            ours["b"].grad[...] = np.nan
            optimizer.step(scaler.unscale_(ours.values()))
            assert bits(optimizer) == before and not any(p.grad.any() for p in ours.values())
        else:
            optimizer.step(scaler.unscale_(ours.values()))
            assert bits(optimizer) != before and int(optimizer.steps) == 1
    assert float(scaler.scale) == 2.0**14


@MAKE
@DTYPE
def test_a_flag_of_one_changes_no_bit(make, dtype):
    found = []
    for flag in (None, np.ones((), np.float32)):
        rng = np.random.default_rng(0)
        ours = parameters(rng, dtype)
        optimizer = make(ours)
        for _ in range(3):
            for p in ours.values():
                p.grad = np.asarray(rng.standard_normal(p.shape), dtype)
            optimizer.step(flag)
        found.append(bits(optimizer))
    assert found[0] == found[1]


class OnDevice(np.ndarray):
    """An array that cannot be read or branched on, as one on a GPU could not without waiting."""

    def _read(self, *_):
        raise AssertionError("the host read the device")

    __bool__ = __int__ = __float__ = __index__ = item = tolist = _read


@MAKE
@pytest.mark.parametrize("bad", [1.0, np.inf])
def test_the_host_reads_nothing_and_no_array_moves(make, bad, rng, reference):
    ours, scaler = parameters(rng), optim.LossScale()
    optimizer = make(ours)
    for name in ("scale", "good", "taken"):
        setattr(scaler, name, getattr(scaler, name).view(OnDevice))
    addresses = [a.__array_interface__["data"] for a in (*scaler.state().values(), *optimizer.state().values())]
    for p in ours.values():
        p.grad = np.full(p.shape, bad).view(OnDevice)
    optimizer.step(scaler.unscale_(ours.values()))
    assert [a.__array_interface__["data"] for a in (*scaler.state().values(), *optimizer.state().values())] == addresses


def train(scaled: bool):
    """A float16 layer with float32 weights, fitted to targets so small that a gradient's elements are near 1e-8."""
    rng = np.random.default_rng(0)
    x, wanted = rng.standard_normal((64, 16)).astype(np.float16), 3e-5 * rng.standard_normal((1024, 16))
    layer = Parameter(np.zeros((1024, 16), np.float32))
    target = Tensor((x @ wanted.T.astype(np.float32)).astype(np.float16))
    optimizer, scaler, flags = optim.Adam({"w": layer}, 3e-6), optim.LossScale(), []
    for _ in range(60):
        y = x @ layer.astype(np.float16).transpose()
        loss = ((y - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward(scaler.scale if scaled else None)
        flags.append(float(scaler.unscale_([layer]) if scaled else 1))
        optimizer.step(scaler.taken)
    assert y.dtype == np.float16 and layer.grad.dtype == np.float32
    return np.linalg.norm(layer.data - wanted) / np.linalg.norm(wanted), flags


@pytest.mark.filterwarnings("error")
def test_gradients_too_small_for_float16_survive():
    with use("reference"):
        assert train(scaled=False)[0] == 1.0  # every gradient was 0
        error, flags = train(scaled=True)
    assert error < 0.1 and flags == [0.0] + [1.0] * 59  # 2**16 is more than a float16 loss can hold


def test_it_refuses_bad_arguments():
    p = nn.Parameter(np.ones(2, np.float16))
    p.grad = np.ones(2, np.float16)
    with pytest.raises(TypeError, match="LossScale: a gradient is float16, should be that of a float32 parameter"):
        optim.LossScale().unscale_([p])
    for options, words in (
        ({"initial": 0.0}, "initial is 0.0, should be a finite number above 0"),
        ({"growth": 1.0}, r"growth, backoff is \(1.0, 0.5\)"),
        ({"backoff": 1.5}, r"growth, backoff is \(2.0, 1.5\)"),
        ({"interval": 0}, "interval is 0, should be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=words):
            optim.LossScale(**options)

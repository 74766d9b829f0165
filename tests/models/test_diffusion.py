"""The diffusion model's own promises: labels and guidance, the average of the weights, samplers, and what `sample` of
the command line takes for it. What all trainers promise is in tests/models/test_trainers.py."""

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import Generator, no_grad
from models.__main__ import main
from models.diffusion import Diffusion, DiffusionConfig
from models.layers.unet import NO_CLASS
from models.training.runs import Run


@pytest.fixture(scope="module")
def trained():
    t = small_models.trainer("diffusion")
    small_models.run(t, 3)
    return t


def test_shapes_and_size():
    with Generator(0), no_grad():
        model = Diffusion(DiffusionConfig())
        y = model.net(np.zeros((2, 28, 28, 1), np.float32), np.array([1, 1000]), np.array([0, NO_CLASS]))
    assert y.shape == (2, 28, 28, 1)
    c, width = 32, 128

    def block(i, o):
        return 2 * i + 9 * i * o + width * o + o + 2 * o + 9 * o * o + o + (0 if i == o else i * o)

    told = c * width + width + width * width + width + 11 * width
    down = 9 * c + c + block(c, c) + 9 * c * 2 * c + 2 * c + block(2 * c, 2 * c) + 9 * 4 * c * c + 2 * c
    attention = 4 * c + 4 * (2 * c) ** 2 + 4 * c
    up = 16 * 4 * c * c + 2 * c + block(4 * c, 2 * c) + 16 * 2 * c * c + c + block(2 * c, c) + 2 * c + 9 * c + 1
    assert sum(p.size for p in model.parameters()) == told + down + 2 * block(2 * c, 2 * c) + attention + up


def test_a_transposed_convolution_does_what_nearest_neighbour_and_a_convolution_do(rng):
    """4x4 taps with stride 2 that are sums of the 3x3: going up can learn what it is usually made of."""
    x, w = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((3, 3, 3, 4))
    taps = np.zeros((4, 4, 4, 3))
    for i in range(3):
        for j in range(3):
            for di in range(2):
                for dj in range(2):
                    taps[2 - i + di, 2 - j + dj] += w[i, j].T
    usual = F.conv2d(F.upsample_nearest(x, 2), w, padding=1).data
    assert np.abs(F.conv_transpose2d(x, taps, stride=2, padding=1).data - usual).max() < 1e-12


def test_the_average_follows_the_weights_and_nothing_else_trains_it():
    t = small_models.trainer("diffusion", average=0.75)
    net, average = (dict(part.named_tensors()) for part in (t.model.net, t.model.average))
    expected = {name: p.data.copy() for name, p in net.items()}
    for _ in range(3):
        small_models.run(t, 1)
        expected = {name: 0.75 * a + 0.25 * net[name].data for name, a in expected.items()}
    assert all(np.abs(average[name].data - a).max() < 1e-6 for name, a in expected.items())
    assert any(np.abs(average[name].data - p.data).max() > 1e-4 for name, p in net.items())
    assert {f"model.average.{name}" for name in net} <= t.state().keys()
    assert not any(name.startswith("average") for name in t.model.named_parameters())


def test_an_overflow_leaves_the_average_alone():
    kind = type(small_models.trainer("diffusion"))
    config = kind.Config.preset("demo", **small_models.SMALL["diffusion"])
    t = kind(config, data=small_models.dataset("diffusion"), precision="fp16")
    small_models.run(t, 20)  # until the scale has come down to what this loss bears
    before = small_models.snapshot(t)
    t.scales["loss"].scale[...] = 2.0**80
    small_models.run(t, 1)
    changed = set(small_models.different(before, small_models.snapshot(t)))
    assert changed == {"scale.loss.scale", "scale.loss.good", "rng.step", "data.position"}


def test_samples_are_the_averages(trained):
    before = trained.sample(2)
    t = small_models.trainer("diffusion")
    t.load_state(small_models.snapshot(trained))
    for p in t.model.net.parameters():
        p.data[...] = 0
    assert np.array_equal(t.sample(2), before)


# --- labels and guidance ----------------------------------------


def seen_labels(t, steps):
    """The labels that the network was told in some steps."""
    seen, net = [], t.model.net

    class Spy(type(net)):
        def forward(self, x, times, labels):
            seen.append((times, labels))
            return super().forward(x, times, labels)

    net.__class__ = Spy
    small_models.run(t, steps)
    return [np.concatenate(part) for part in zip(*seen)]


def test_a_tenth_of_the_labels_is_kept_back_and_times_are_drawn_evenly():
    t = small_models.trainer("diffusion", batch=50)
    times, labels = seen_labels(t, 12)
    share = (labels == NO_CLASS).mean()
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / len(labels)) and set(labels) == set(range(11))
    assert times.min() >= 1 and times.max() <= 50 and len(set(times)) >= 49
    assert abs(times.mean() - 25.5) < 4 * 50 / np.sqrt(12 * len(times))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_labels_or_none(share):
    _, labels = seen_labels(small_models.trainer("diffusion", unlabelled=share), 4)
    assert (labels == NO_CLASS).all() if share else (labels < NO_CLASS).all()


def test_guidance_of_1_is_the_model_told_the_class_and_0_the_one_that_is_not(trained, rng):
    """In between and beyond it goes along the line through both."""
    x, labels = rng.standard_normal((3, 28, 28, 1)).astype(np.float32), np.array([1, 7, 4])
    times, (a, s) = np.full(3, 20), trained.schedule.signal_and_noise(20)
    with trained.evaluating():
        said = [trained.model.average(x, times, k).data for k in (np.full(3, NO_CLASS), labels)]
        found = [trained.denoised(x, 20, labels, g) for g in (0, 1, 3)]
    wanted = [a * x - s * y for y in (*said, said[0] + 3 * (said[1] - said[0]))]
    for ours, exact in zip(found, wanted):
        assert np.abs(ours - np.clip(exact, -1, 1)).max() < 1e-5
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-4, "or the test could not tell them apart"


def test_the_asked_class_decides(trained):
    """Images do not depend on what else is in the batch, and a class for each is that class for each."""
    mixed = trained.sample(4, labels=[3, 5, 3, 8])
    assert np.abs(mixed[[0, 2]] - trained.sample(4, labels=3)[[0, 2]]).max() < 1e-5
    assert np.abs(mixed[1] - trained.sample(4, labels=3)[1]).max() > 1e-4
    assert np.array_equal(trained.sample(12), trained.sample(12, labels=np.arange(12) % 10))


def test_samplers_and_their_options(trained):
    """Each option changes what comes out; images stay in [0, 1]; parts and chunks are the same images."""
    ways = [{}, {"steps": 5}, {"eta": 1.0}, {"sampler": "ddpm"}, {"sampler": "ddpm", "steps": 5}, {"guidance": 0.0}]
    images = [trained.sample(3, **way) for way in ways]
    assert all(x.shape == (3, 28, 28) and x.min() >= 0 and x.max() <= 1 for x in images)
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(images) for b in images[:i])
    assert np.abs(trained.sample(70, labels=2)[:3] - trained.sample(3, labels=2)).max() < 1e-5


BAD = {
    "labels": ([{"labels": 10}, {"labels": -1}, {"labels": 0.5}, {"labels": [1, 2]}], "sample: labels is"),
    "steps": ([{"steps": 0}, {"steps": 51}, {"sampler": "ddpm", "steps": 2.0}], "Schedule: steps is"),
    "sampler": ([{"sampler": "euler"}], "sample: sampler is 'euler', should be one of 'ddim', 'ddpm'"),
    "guidance": ([{"guidance": -1}, {"guidance": float("nan")}], "sample: guidance is"),
    "eta": ([{"eta": 2}], r"sample: eta is 2, should be a number in \[0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_sample_refuses(name, trained):
    for options in BAD[name][0]:
        with pytest.raises((ValueError, TypeError, IndexError), match=BAD[name][1]):
            trained.sample(3, **options)


def test_feed_refuses_labels_that_are_no_class(trained):
    images, labels = next(trained.batches("train"))
    with pytest.raises(IndexError, match=r"feed: labels is 10 somewhere, should be in \[0, 10\)"):
        trained.feed((images, labels * 0 + 10))


@pytest.mark.full
def test_it_learns_one_batch():
    """The same four digits, over and over: what the network makes of their noised versions comes close to them."""
    t = small_models.trainer("diffusion", unlabelled=0.0, average=0.9, steps=300, warmup=10, lr=4e-3)
    batch = next(t.batches("train"))
    losses = [t.step(batch)["loss"] for _ in range(300)]
    assert np.mean(losses[-30:]) < 0.15 * np.mean(losses[:5])
    x, noise = batch[0], Generator(5)
    with noise, t.evaluating():
        a, s = t.schedule.signal_and_noise(30)
        noised = a * x + s * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
        near = np.sqrt(((t.denoised(noised, 30, batch[1], 1) - x) ** 2).mean())
    assert near < 0.25 < np.sqrt(((noised - x) ** 2).mean())


# --- the command line ----------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("runs") / "diffusion"
    run = Run.create(folder, "diffusion", "demo", trained.config, 0, None)
    run.write_settings()
    trained.save(run.checkpoint)
    return folder


def test_sample_takes_its_options(run, tmp_path, capsys):
    ways = [[], ["--label", "3"], ["--guidance", "4"], ["--sampler", "ddpm"], ["--sampler-steps", "4"]]
    pictures = []
    for i, way in enumerate(ways):
        path = tmp_path / f"{i}.png"
        assert main(["sample", str(run), "-n", "2", "--out", str(path), *way]) == 0
        assert capsys.readouterr().out.strip() == str(path)
        pictures.append(path.read_bytes())
    assert len(set(pictures)) == len(ways)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--label", "10"], "labels is 10 somewhere, should be in [0, 10)"),
        (["--guidance", "-1"], "guidance is -1.0"),
        (["--sampler-steps", "51"], "steps is 51"),
    ],
)
def test_sample_refuses_in_one_line(run, option, words, capsys):
    assert main(["sample", str(run), *option]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize("option", [["--guidance", "2"], ["--sampler", "ddim"], ["--sampler-steps", "5"]])
def test_other_models_take_none_of_these(undisturbed, option, capsys):
    assert main(["sample", str(undisturbed), *option]) == 1
    err = capsys.readouterr().err
    assert err == f"error: {option[0]} is for diffusion, {undisturbed} holds a gan\n"

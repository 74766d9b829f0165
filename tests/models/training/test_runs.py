"""Run folders and commands: what a run leaves, and what is refused in one line; faults are in test_crashes.py."""

import json
import shutil

import numpy as np
import pytest

from bench.parity import small_models
from core import checkpoint
from models import MODELS
from models.__main__ import main
from models.datasets import Poems, load_images
from models.training import demo
from models.training.runs import Run, RunError
from tests.models.training.crashing import TRAIN, last


def test_a_run_leaves_what_it_should(undisturbed):
    names = {p.name for p in undisturbed.iterdir() if not p.name.startswith(".")}
    expected = {"config.json", "checkpoint.safetensors", "previous.safetensors", "metrics.jsonl", "samples", "loss.png"}
    assert names == expected
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13)) and set(lines[0]) == {
        "step",
        "d_loss",
        "g_loss",
        "seconds",
    }
    samples = [name for i in range(3, 13, 3) for name in (f"set_{i:06d}.npz", f"step_{i:06d}.png")]
    assert {p.name for p in (undisturbed / "samples").iterdir()} == set(samples)
    with np.load(undisturbed / "samples" / "set_000012.npz") as kept:
        assert kept["images"].shape == (500, 28, 28) and kept["images"].dtype == np.uint8
    settings = json.loads((undisturbed / "config.json").read_text())
    assert settings["config"]["batch"] == 4 and settings["seed"] == 0 and settings["threads"] >= 1
    keys = last(undisturbed).keys()
    for key in (
        "model.generator.dense.weight",
        "model.generator.norm1.running_var",
        "optim.discriminator.down1.bias.v",
        "optim.generator.step",
        "rng.seed",
        "rng.step",
        "data.epoch",
        "data.position",
    ):
        assert key in keys


def refused(capsys, *arguments, bar=False):
    """The one line of a command that fails; before it, only a progress bar if the run had begun."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    *before, line = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("error: ") and (bar or not before)
    return line


def test_commands_refuse_in_one_line(undisturbed, tmp_path, capsys):
    before = last(undisturbed)
    for arguments, words in (
        (("train", "gan", "--out", undisturbed), f"continue it with --resume {undisturbed}"),
        (("train",), "name a model (gan, vae, gpt, seq2seq, diffusion)"),
        (
            ("train", "gan", "--preset", "small", "--out", tmp_path / "n"),
            "preset is 'small', should be one of demo, paper",
        ),
        (("train", "gan", "--out", tmp_path / "n", "--data", tmp_path / "no é"), "no such file or folder"),
        (("train", "gan", "--out", tmp_path / "n", "--batch", "20000"), "has 10000 examples"),
        (("train", "gan", "--out", tmp_path / "n", "--seed", "-1"), "seed is -1"),
        (("train", "gan", "--out", tmp_path / "n", "--device", "cuda"), "device 'cuda' needs"),
        (("train", "--resume", undisturbed, "--batch", "5"), "--batch cannot be given with --resume"),
        (("train", "vae", "--resume", undisturbed), "holds a gan run, not vae"),
        (("train", "--resume", tmp_path), "not a run folder"),
        (("sample", tmp_path), "not a run folder"),
        (("sample", undisturbed, "--prompt", "x"), "--prompt is for gpt and seq2seq"),
        (("evaluate", tmp_path / "absent"), "not a run folder"),
    ):
        assert words in refused(capsys, *arguments)
    assert last(undisturbed) == before


def test_settings_that_are_not_ours(tmp_path, capsys):
    for content in ("", "[]", "{}", '{"format": 1, "model": "other"}', '{"format": 9, "model": "gan"}'):
        (tmp_path / "config.json").write_text(content)
        assert "config.json: " in refused(capsys, "sample", tmp_path)


def test_sample_and_evaluate(undisturbed, tmp_path, capsys):
    assert main(["sample", str(undisturbed), "-n", "5", "--out", str(tmp_path / "s.png")]) == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", str(undisturbed), "-n", "129"]) == 0
    figures = json.loads((undisturbed / "evaluation.json").read_text())
    assert set(figures["quick"]) == {"classes", "largest_share", "variety", "novelty"} and figures["step"] == 12
    assert "variety" in capsys.readouterr().out


def test_changed_data_is_refused_on_resume(tmp_path, capsys):
    text = tmp_path / "words.txt"
    text.write_text("to be or not to be " * 200)  # with no line end, which a sample might begin with
    folder = tmp_path / "run"
    assert main(["train", "gpt", "--steps", "2", "--batch", "2", "--out", str(folder), "--data", str(text)]) == 0
    assert main(["sample", str(folder), "--prompt", "to be"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("to be")
    assert "does not know: 'xz'" in refused(capsys, "sample", folder, "--prompt", "xz")
    assert "--traverse is for gan and vae" in refused(capsys, "sample", folder, "--traverse")
    assert "--label is for models that know classes" in refused(capsys, "sample", folder, "--label", "3")
    text.write_text("something else " * 200)
    assert "changed since" in refused(capsys, "train", "--resume", folder)


def test_a_run_on_carried_data_keeps_its_name(tmp_path, capsys, monkeypatch):
    """Given with --data, or a preset's own; the run goes on with it, and finds it changed if it was."""
    monkeypatch.setattr(MODELS["vae"].Config, "PRESETS", {"demo": small_models.SMALL["vae"]})
    monkeypatch.setattr(
        MODELS["gpt"].Config, "PRESETS", {"poems": small_models.SMALL["gpt"], "demo": small_models.SMALL["gpt"]}
    )
    monkeypatch.setattr(MODELS["gpt"], "sample", lambda self, n: ["nothing"])
    found, own = {}, tmp_path / "own.txt"
    own.write_text("春眠不觉晓\n" * 40, encoding="utf-8")
    for name, *options in (
        ("fashion", "vae", "--data", "fashion"),
        ("poems", "gpt", "--preset", "poems"),
        ("own", "gpt", "--preset", "poems", "--data", str(own)),
    ):
        folder = tmp_path / name
        assert main(["train", *options, "--steps", "1", "--out", str(folder)]) == 0
        assert main(["train", "--resume", str(folder), "--steps", "2"]) == 0
        found[name] = Run.open(folder)
    assert [run.settings["data"]["path"] for run in found.values()] == ["fashion", "poems", str(own)]
    assert found["fashion"].trainer().data.x_train[0].tobytes() == load_images("fashion").x_train[0].tobytes()
    assert isinstance(found["poems"].trainer().data, Poems)
    found["fashion"].settings["data"]["sha256"] = "0" * 64
    found["fashion"].write_settings()
    assert "fashion: changed since" in refused(capsys, "sample", tmp_path / "fashion")


def test_two_processes_in_one_folder(undisturbed, capsys):
    run = Run.open(undisturbed)
    with run.locked():
        assert "another process is training" in refused(capsys, "train", "--resume", undisturbed)
        with pytest.raises(RunError, match="another process"), Run.open(undisturbed).locked():
            pass
    with run.locked():
        pass


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, capsys):
    from models.gan import GANTrainer

    step = GANTrainer.step

    def broken(self, batch):
        losses = step(self, batch)
        return {**losses, "g_loss": float("nan")} if self.steps == 5 else losses

    monkeypatch.setattr(GANTrainer, "step", broken)
    line = refused(capsys, *TRAIN, "--out", tmp_path / "run", bar=True)
    assert (
        "the loss is not finite" in line
        and "at step 5;" in line
        and str(tmp_path / "run" / "checkpoint.safetensors") in line
    )
    assert int(np.frombuffer(last(tmp_path / "run")["optim.generator.step"], np.int64)[0]) == 3


def test_non_contiguous_arrays_are_saved_right(tmp_path):
    arrays = {
        "t": np.arange(6.0).reshape(2, 3).T,
        "s": np.arange(10)[::3],
        "zero": np.array(2.5),
        "none": np.empty((0, 3)),
    }
    checkpoint.save(tmp_path / "c", arrays, {"note": "ñ"})
    loaded, metadata = checkpoint.load(tmp_path / "c")
    assert metadata == {"note": "ñ"}
    for name, a in arrays.items():
        assert loaded[name].shape == a.shape and np.array_equal(loaded[name], a)


def test_every_model_has_a_sample_size():
    assert all(trainer.SHOWN > 0 for trainer in MODELS.values())


def test_a_run_that_never_began_leaves_no_trace_in_the_next(tmp_path, capsys):
    """A GPT run dies before its first checkpoint; a GAN then starts afresh in the same folder."""
    folder = tmp_path / "run"
    run = Run.create(folder, "gpt", "demo", MODELS["gpt"].Config(), 0, None)
    run.write_settings()
    (folder / "tokenizer.json").write_text("{}")
    assert main([*TRAIN[:5], "2", "--out", str(folder)]) == 0
    assert not (folder / "tokenizer.json").exists() and main(["sample", str(folder)]) == 0


def test_steps_on_resume(undisturbed, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    assert "has 12 steps already" in refused(capsys, "train", "--resume", folder, "--steps", "3")
    assert json.loads((folder / "config.json").read_text())["config"]["steps"] == 12
    assert main(["train", "--resume", str(folder), "--steps", "14"]) == 0
    assert "12 steps were planned" in capsys.readouterr().err
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 14


def test_sample_refuses_an_ending_that_is_not_its_own(undisturbed, tmp_path, capsys):
    assert "its ending is .jpg, should be .png" in refused(capsys, "sample", undisturbed, "--out", tmp_path / "a.jpg")


def test_the_demo_leaves_other_runs_alone(undisturbed, capsys):
    before = last(undisturbed)
    undisturbed.rename(undisturbed.with_name("gan"))
    try:
        assert demo.main(["--out", str(undisturbed.parent)]) == 1
        assert "already holds a run" in capsys.readouterr().err
    finally:
        undisturbed.with_name("gan").rename(undisturbed)
    assert last(undisturbed) == before

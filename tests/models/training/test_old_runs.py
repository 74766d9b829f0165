"""Runs of an earlier version, carried in old_runs: they load, go on, sample, evaluate and export today.

Both folders were written at commit c34066f by one thread, 12 steps each: a GAN of 4 channels and a GPT of one layer.
The pictures are left out. expected.json is what that commit found when it took a copy of each to step 20: the losses of
steps 13 to 20, and what `evaluate -n 200` (gan) and `evaluate -n 2` (gpt) said then.

On the processor that wrote them today's losses are the same to the last bit. Other processors add in another order. By
the reference in place of the kernels the losses differ by 1e-7 of themselves; with every parameter moved by 1e-6 of
itself, some ten roundings, by 8e-6. A moment of Adam's that is lost, an optimiser's step that is one too low, an
example that is skipped or a GAN's noise of the next step change them by 6e-3 or more. CLOSE lies between.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import checkpoint
from core.runtime import threads
from models.__main__ import main
from models.training.runs import Run

OLD = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((OLD / "expected.json").read_text(encoding="utf-8"))
KINDS = ("gan", "gpt")
CLOSE = 1e-4  # of a loss


def carried(kind, folder):
    """A copy of an old run: commands write into it."""
    return Path(shutil.copytree(OLD / kind, folder / kind))


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory):
    """{kind: folder}: copies that the command has taken to step 20, with the one thread that they began with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "COUNT", 1)
        folders = {kind: carried(kind, tmp_path_factory.mktemp("old")) for kind in KINDS}
        assert [main(["train", "--resume", str(folder), "--steps", "20"]) for folder in folders.values()] == [0, 0]
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_checkpoint_is_loaded_bit_for_bit(kind, tmp_path):
    run = Run.open(carried(kind, tmp_path))
    trainer, (arrays, metadata) = run.trainer(), checkpoint.load(OLD / kind / "checkpoint.safetensors")
    state = trainer.state()
    assert state.keys() == arrays.keys() and trainer.steps == 12
    for name, array in arrays.items():
        assert (state[name].dtype, state[name].shape) == (array.dtype, array.shape), name
        assert state[name].tobytes() == array.tobytes(), name
    assert trainer.metadata() == metadata


def test_settings_that_a_still_older_run_does_not_name_mean_what_they_meant(tmp_path, monkeypatch):
    """Before there were classes, precisions, ranks, parts of a batch and the device's name."""
    monkeypatch.setattr(threads, "COUNT", 1)
    folder = carried("gan", tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    arrays, metadata = checkpoint.load(folder / "checkpoint.safetensors")
    del settings["config"]["classes"], metadata["config"]["classes"], metadata["precision"]
    for name in ("device", "precision", "ranks", "accumulate", "sync_batch_norm"):
        del settings[name]
    (folder / "config.json").write_text(json.dumps(settings))
    checkpoint.save(folder / "checkpoint.safetensors", arrays, metadata)
    assert main(["train", "--resume", str(folder), "--steps", "20"]) == 0
    goes_on_as_expected("gan", folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_run_goes_on_as_it_would_have(kind, gone_on):
    goes_on_as_expected(kind, gone_on[kind])


def goes_on_as_expected(kind, folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (OLD / kind / "metrics.jsonl").read_text().splitlines()]
    assert lines[:12] == before and [line["step"] for line in lines[12:]] == list(range(13, 21))
    for name, losses in EXPECTED[kind]["metrics"].items():
        np.testing.assert_allclose([line[name] for line in lines[12:]], losses, rtol=CLOSE, err_msg=name)


def test_an_old_gan_samples_and_exports(gone_on, tmp_path):
    assert main(["sample", str(gone_on["gan"]), "-n", "4", "--out", str(tmp_path / "four.png")]) == 0
    assert np.ptp(np.asarray(Image.open(tmp_path / "four.png"))) > 50
    assert main(["export", str(gone_on["gan"])]) == 0
    exported = {path.name for path in (gone_on["gan"] / "export").iterdir()}
    assert exported == {"README.md", "generator.onnx", "weights.safetensors"}


def test_an_old_gpt_samples_and_exports(gone_on, capsys):
    assert main(["sample", str(gone_on["gpt"]), "--prompt", "MACBETH"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("MACBETH") and len(text) > 100
    assert main(["export", str(gone_on["gpt"])]) == 0
    exported = {path.name for path in (gone_on["gpt"] / "export").iterdir()}
    assert exported == {"README.md", "step.onnx", "tokenizer.json", "weights.safetensors"}


@pytest.mark.parametrize(("kind", "n"), [("gan", 200), pytest.param("gpt", 2, marks=pytest.mark.full)])
def test_an_old_run_is_evaluated_as_it_was(kind, n, gone_on):
    assert main(["evaluate", str(gone_on[kind]), "-n", str(n)]) == 0
    found = json.loads((gone_on[kind] / "evaluation.json").read_text())
    # A picture or a letter that rounding has changed moves a share by 1/200 at most, and a mean by less than 1 %.
    figures = {name: figure["value"] for name, figure in found["figures"].items()} | found["quick"]
    assert figures == pytest.approx(EXPECTED[kind]["evaluation"], rel=0.01, abs=0.01)

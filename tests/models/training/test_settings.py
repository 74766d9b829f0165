"""Run folders from strangers: settings, tokenizers and metrics of every wrong kind and size are refused in one line."""

import json

import pytest

import models
from bench.parity import small_models
from models.__main__ import main
from models.training.runs import Run

DEEP = "[" * 100_000 + "]" * 100_000


def folder_of(kind, folder, **settings):
    """A run folder in which nothing was trained yet, its settings changed."""
    run = Run.create(folder, kind, "demo", models.MODELS[kind].Config(**small_models.SMALL[kind]), 0, None)
    run.settings.update(settings)
    run.write_settings()
    return run


def error(capsys, *arguments) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 600
    return line


@pytest.mark.parametrize("name", ["format", "model", "preset", "config", "seed", "data", "versions", "threads"])
def test_settings_of_the_wrong_type(name, tmp_path, capsys):
    for value in (None, [1], {"x": []}, "gan\n" * 500, 2.5, -(10**30)):
        run = folder_of("gan", tmp_path / "run")
        if isinstance(value, type(run.settings[name])) and name in ("preset", "versions", "threads"):
            continue  # these may be any of their type
        run.settings[name] = value
        run.write_settings()
        error(capsys, "train", "--resume", run.folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'"x"', DEEP.encode(), b'{"a": ' + b"1" * 5000 + b"}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_settings_and_tokenizers_that_are_none(name, content, tmp_path, capsys):
    run = folder_of("gpt", tmp_path / "run")
    (run.folder / name).write_bytes(content)
    assert name in error(capsys, "train", "--resume", run.folder)


def test_tokenizers_of_the_wrong_type(tmp_path, capsys):
    run = folder_of("gpt", tmp_path / "run")
    for saved in ({"kind": "characters"}, {"kind": "characters", "symbols": 5}, {"kind": "bpe", "tokenizer": {"x": 1}}):
        (run.folder / "tokenizer.json").write_text(json.dumps(saved))
        assert "tokenizer.json: not a tokenizer (" in error(capsys, "train", "--resume", run.folder)
    (run.folder / "tokenizer.json").write_text(json.dumps({"kind": "characters", "symbols": "abc"}))
    assert "characters the model does not know" in error(capsys, "train", "--resume", run.folder)


WRONG = {int: ("1", 1.5, True, None, [1], {}, -1, 10**12), str: (1, None, ["gan"]), float: ("x", None, [], -1.0, True)}
WRONG[float] += (float("nan"), float("inf"), 10**400)


@pytest.mark.parametrize("kind", models.MODELS)
def test_every_field_of_a_configuration_is_checked(kind):
    config = models.MODELS[kind].Config
    for name, default in vars(config()).items():
        for value in WRONG[type(default)]:
            with pytest.raises((ValueError, TypeError), match=f"Config: {name} is .*, should be ") as caught:
                config(**{name: value})
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"d_model": 10**12},
            "GPTConfig: d_model is 1000000000000, should be an integer >= 1 (and at most 32768)",
        ),
        ({"heads": 3}, "should be a multiple of heads"),
        ({"dropout": 1.5}, "dropout is 1.5, should be a number in [0, 1]"),
        ({"no_such": 1}, "config.json: "),
        ({"tokens": "words"}, "tokens is 'words', should be"),
        ({"batch": 1 << 20}, "should have at least a batch of"),
    ],
)
def test_configurations_that_cannot_be(changes, words, tmp_path, capsys):
    run = folder_of("gpt", tmp_path / "run")
    run.settings["config"].update(changes)
    run.write_settings()
    assert words in error(capsys, "train", "--resume", run.folder)


def test_data_that_never_ends(tmp_path, capsys):
    run = folder_of("gan", tmp_path / "run", data={"path": "/dev/zero", "sha256": ""})
    assert "/dev/zero: no such file or folder" in error(capsys, "train", "--resume", run.folder)


def test_metrics_that_are_none_of_ours(tmp_path):
    run = folder_of("gan", tmp_path / "run")
    good = json.dumps({"step": 1, "d_loss": 1.5, "g_loss": 0.5, "seconds": 0.1})
    bad = ["5", "[]", "null", '{"step": "x"}', '{"step": 1}', DEEP, good.replace("1.5", '"x"'), good[:-9], "\ufffd"]
    run.metrics.write_bytes("\n".join([*bad, good, good.replace(": 1,", ": 9,")]).encode() + b"\xff\xfe")
    run.cut_metrics(3, ("d_loss", "g_loss"))
    assert run.metrics.read_text() == good + "\n"

"""Commands on bad arguments and odd paths: one line, "error: ...", an exit code that is not 0, and no traceback.

And the data sets behind --data: what is not what it claims, and what promises more than it holds."""

import gzip
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from bench.command import PARTS
from bench.command import main as assay
from bench.parity.small_models import SMALL
from models import MODELS, datasets
from models.__main__ import main as models
from models.training.train import train_new
from tests import ROOT

NAMES = ("x_train", "y_train", "x_test", "y_test")
LINES = "".join(f"the word {i}\tla palabra {i}\n" for i in range(40))


def run(command):
    """Exit code of "assay argument ..." or "models argument ...", in this process."""
    door, *arguments = command
    try:
        return {"assay": assay, "models": models}[door]([str(a) for a in arguments])
    except SystemExit as stopped:
        return stopped.code


def refused(capsys, *command) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert run(command) != 0
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    return err


BAD = {
    "assay": "name a command, one of demo,",
    "assay fly": "no command 'fly', should be one of demo, train,",
    "assay train dog": "invalid choice: 'dog'",
    "assay train": "name a model",
    "assay sample": "(see assay sample --help)",
    "assay parity": "give OP and FILE:FUNCTION",
    "assay parity relu": "give OP and FILE:FUNCTION",
    "assay parity fly mine.py:f": "no function 'fly'",
    "assay parity relu <folder>:f": "No module named",
    "assay parity relu /nowhere.py:f": "no such file",
    "assay parity relu --list --dtype int8": "invalid choice: 'int8'",
    "models": "required: command",
    "models fly": "invalid choice: 'fly'",
    "models train": "name a model",
    "models train dog": "invalid choice: 'dog'",
    "models train gan --steps 0": "'0' should be a whole number",
    "models train gan --steps 1e3": "'1e3' should be",
    "models train gan --batch -4": "'-4' should be",
    "models train gan --save-every x": "'x' should be",
    "models train gan --batch 99999999999999999999": "below 2^31",
    "models train gan --seed x": "invalid int value: 'x'",
    "models train gan --seed -1 --out <folder>": "seed is -1",
    "models train gan --preset huge --out <folder>": "preset is 'huge'",
    "models train gan --data <folder> --out <folder>": "no such file",
    "models train gan --device tpu": "invalid choice: 'tpu'",
    "models train --resume <folder>": "not a run folder",
    "models train gan --frobnicate": "unrecognized arguments: --frobnicate",
    "models sample": "required: RUN",
    "models sample <folder>": "not a run folder",
    "models sample <folder> -n 0": "'0' should be",
    "models evaluate <folder>": "not a run folder",
    "models export <folder>": "not a run folder",
    "assay demo --out": "expected one argument",
    "assay demo --out /dev/null": "/dev/null",
    "assay kernels": "required: command",
    "assay kernels build now": "unrecognized arguments: now",
    "assay kernels explain it": "unrecognized arguments: it",
    "assay kernels check --arch 75": "--arch is 75",
    "assay kernels check --workers 0": "'0' should be",
    "assay kernels check fly": "no operation fly",
    "assay bench step": "required: model",
    "assay bench step dog": "invalid choice: 'dog'",
    "assay bench step gan --batch 0": "'0' should be",
    "assay bench step gan --preset huge": "preset is 'huge'",
    "assay bench step gan --pairs none": "'none' should be",
    "assay bench ops nothing-of-the-kind": "no case has 'nothing-of-the-kind'",
    "assay bench report twice": "unrecognized arguments: twice",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_command(command, tmp_path, capsys):
    arguments = [str(tmp_path / "no é") if a == "<folder>" else a for a in command.split()]
    assert BAD[command] in refused(capsys, *arguments)


def test_help_fits_on_a_screen(capsys):
    assert assay(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80 and all(f"  {name} " in "\n".join(lines) for name in PARTS)


@pytest.mark.parametrize("arguments", [["parity", "relu", "--list"], ["bench", "ops"], ["bench", "report"]])
def test_what_needs_pytorch_says_so_in_a_line(arguments):
    """And what does not, runs without: PyTorch, Triton and pytest are hidden from a process."""
    hide = "import sys\nfor name in ('torch', 'triton', 'pytest'): sys.modules[name] = None\n"
    code = f"{hide}from bench.command import main\nsys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    words = "error: assay " + arguments[0] + " needs torch: make .venv/test installs it\n"
    assert (done.returncode, done.stderr) == (1, words)
    code = f"{hide}from bench.command import main\nsys.exit(main(['kernels', 'explain']) or main(['train', '--help']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "conv2d" in done.stdout and "usage: assay train" in done.stdout


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("gan", b"\x89PNG\r\n", "not an .npz"),
        ("gpt", b"\x89PNG\r\n", "not UTF-8"),
        ("gpt", b"short", "too short"),
        ("gpt", b"", "is empty"),
        ("seq2seq", b"one column\n" * 20, "line 1 should have a source and a target"),
        ("seq2seq", b"a\tb\n\n" * 20, "1 different pairs"),
    ],
)
def test_data_that_is_not_what_it_claims(kind, content, words, tmp_path, capsys):
    """Under a name with a space and letters that are not ASCII."""
    path = tmp_path / "my dätä 日.npz"
    path.write_bytes(content)
    line = refused(capsys, "models", "train", kind, "--data", path, "--out", tmp_path / "out")
    assert words in line and str(path) in line


def test_odd_but_good_texts(tmp_path):
    path = tmp_path / "odd text é"
    path.write_bytes(bytes(range(1, 32)) * 10)
    read = datasets.load_text(path)
    assert set(read.train) | set(read.test) == set(map(chr, range(1, 32))), "control characters are characters"
    path.write_text("\t".join(map(str, range(1_000_000))) + "\n\n" + LINES)
    assert datasets.load_pairs(path).train[0] == ("999998", "999999"), "a pair is a line's last two columns"


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A run of one step, in a folder with an odd name."""
    folder = tmp_path_factory.mktemp("runs") / "mi carpeta é 日"
    folder.mkdir()
    (folder / "pairs ñ.tsv").write_text(LINES + f"{'long ' * 80}\tlargo\n")
    changes = {**SMALL["seq2seq"], "steps": 1, "batch": 2}
    options = {"preset": "demo", "changes": changes, "seed": 0, "device": "cpu"}
    kind = MODELS["seq2seq"]
    _, trainer, _ = train_new("seq2seq", kind, **options, out=folder / "run", data_path=folder / "pairs ñ.tsv")
    assert trainer.left_out == 1
    return folder / "run"


def test_paths_with_spaces_and_letters(translator, capsys):
    assert run(("models", "sample", translator, "--out", translator / "mío 日.txt")) == 0
    assert (translator / "mío 日.txt").read_text(encoding="utf-8").count("source") == 5
    assert run(("models", "evaluate", translator)) == 0


def test_pairs_that_are_left_out_are_counted(tmp_path, capsys, monkeypatch):
    (tmp_path / "p.tsv").write_text(LINES + f"{'long ' * 80}\tlargo\n")
    monkeypatch.setattr(MODELS["seq2seq"].Config, "PRESETS", {"demo": SMALL["seq2seq"]})
    command = ("models", "train", "seq2seq", "--steps", 1, "--batch", 2, "--data", tmp_path / "p.tsv")
    assert run((*command, "--out", tmp_path / "run")) == 0
    assert "1 sentence pairs were left out: a side has more than 59 tokens" in capsys.readouterr().err


def test_a_prompt_to_translate_has_no_count_and_no_seed_and_fits(translator, capsys):
    for option in ("-n", "--seed"):
        line = refused(capsys, "models", "sample", translator, "--prompt", "the word", option, "3")
        assert "cannot be given with seq2seq's --prompt" in line
    assert "this model reads 59 at most" in refused(capsys, "models", "sample", translator, "--prompt", "word " * 60)
    assert "a text of a word" in refused(capsys, "models", "sample", translator, "--prompt", "")
    assert run(("models", "sample", translator, "--prompt", "the word")) == 0


def test_a_promise_of_2_to_the_60_elements_is_refused_at_once(tmp_path):
    """In an .npz: a member whose header promises more than any memory holds."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            with archive.open(f"{name}.npy", "w") as f:
                np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": (2**60,)})
    with pytest.raises(datasets.DataError, match=r"not an \.npz of images .*allocate"):
        datasets.load_images(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """Zeros that pack a thousandfold: in gzip, and in an .npz, which says how large it is."""
    monkeypatch.setattr(datasets, "MOST_BYTES", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(datasets.DataError, match="holds more than"):
        datasets.load_text(tmp_path / "bomb")
    np.savez_compressed(
        tmp_path / "bomb.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.zeros(1 << 21))
    )
    with pytest.raises(datasets.DataError, match="too large"):
        datasets.load_images(tmp_path / "bomb.npz")

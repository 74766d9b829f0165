"""Checkpoints from strangers: whatever is in one, nothing is executed, a model takes all of it or nothing, and what is
wrong is said in one line. tests/models/training/test_settings.py does the same for the rest of a run folder."""

import ast
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

from bench.parity import small_models
from core import checkpoint
from core.checkpoint import CheckpointError
from tests import ROOT
from tests.test_house import FILES, imports

META = {"format": "1", "metadata": "{}"}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def gan():
    t = small_models.trainer("gan")
    small_models.run(t, 2)
    return t


@pytest.fixture(scope="module")
def saved(gan, tmp_path_factory):
    """A good checkpoint: ({name: array}, metadata)."""
    path = tmp_path_factory.mktemp("saved") / "c.safetensors"
    gan.save(path)
    small_models.run(gan, 1)  # so that a part of it that were loaded would show
    return checkpoint.load(path)


def refused(trainer, path) -> str:
    """The line with which `trainer` refuses a checkpoint, which has not changed a bit of it."""
    before = small_models.snapshot(trainer)
    with pytest.raises(CheckpointError) as caught:
        trainer.load(path)
    assert not small_models.different(before, small_models.snapshot(trainer))
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < len(str(path)) + 500
    return line


# --- files that are no checkpoints ----------------------------------------


def file(header, data=b"", length=None) -> bytes:
    """A safetensors file, or nearly: the header's length (or what it says), the header, the tensors' bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWICE = (
    json.dumps({"__metadata__": META, "a": tensor([1], 0, 4)})[:-1] + ', "a": ' + json.dumps(tensor([1], 4, 8)) + "}"
)
MALFORMED = {
    "empty": b"",
    "shorter than a length": b"1234567",
    "length 2^63": file({}, length=2**63),
    "length 2^64 - 1": file({}, length=2**64 - 1),
    "length beyond the end": file({}, length=99),
    "not JSON": file(b"hello"),
    "not UTF-8": file(b'{"\xff": 1}'),
    "a list": file([]),
    "nested deeply": file(b'{"a": ' + DEEP.encode() + b"}"),
    "metadata is a list": file({"__metadata__": [1]}),
    "metadata of numbers": file({"__metadata__": {"format": 1}}),
    "no metadata": file({}),
    "our metadata is a list": file({"__metadata__": {**META, "metadata": "[]"}}),
    "our metadata is not JSON": file({"__metadata__": {**META, "metadata": "{"}}),
    "our metadata nested deeply": file({"__metadata__": {**META, "metadata": DEEP}}),
    "overlapping": file({"__metadata__": META, "a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "offsets beyond the end": file({"__metadata__": META, "a": tensor([2], 8, 16)}, bytes(8)),
    "offsets backwards": file({"__metadata__": META, "a": tensor([2], 8, 0)}, bytes(8)),
    "bytes of nobody": file({"__metadata__": META, "a": tensor([1], 0, 4)}, bytes(8)),
    "a length below 0": file({"__metadata__": META, "a": tensor([-2], 0, 8)}, bytes(8)),
    "a size past 2^64": file({"__metadata__": META, "a": tensor([2**62, 2**62], 0, 8)}, bytes(8)),
    "a size that wraps to 0": file({"__metadata__": META, "a": tensor([2**32, 2**32], 0, 0)}),
    "empty and huge": file({"__metadata__": META, "a": tensor([0, 2**62, 2**62], 0, 0)}),
    "100 dimensions": file({"__metadata__": META, "a": tensor([1] * 100, 0, 4)}, bytes(4)),
    "shape of texts": file({"__metadata__": META, "a": tensor(["1"], 0, 4)}, bytes(4)),
    "unknown dtype": file({"__metadata__": META, "a": tensor([2], 0, 2, "Q9")}, bytes(2)),
    "a dtype NumPy lacks": file({"__metadata__": META, "a": tensor([2], 0, 4, "BF16")}, bytes(4)),
    "another": file({"__metadata__": META, "a": tensor([2], 0, 2, "F8_E4M3")}, bytes(2)),
    "complex numbers": file({"__metadata__": META, "a": tensor([1], 0, 8, "C64")}, bytes(8)),
    "one name twice": file(TWICE.encode(), bytes(8)),
    "a name of many lines": file({"__metadata__": META, "a\nb" * 10_000: tensor([1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(name, gan, tmp_path):
    (tmp_path / "c").write_bytes(MALFORMED[name])
    refused(gan, tmp_path / "c")


def mutated(content: bytes, rng) -> bytes:
    """A bit, a byte or a few changed, cut out or put in; half of that in the header."""
    header = 8 + struct.unpack("<Q", content[:8])[0]
    at = int(rng.integers(header if rng.random() < 0.5 else len(content)))
    n, kind = int(rng.integers(1, 9)), rng.integers(4)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + rng.bytes(n) + content[at + n :]
    return content[:at] + content[at + n :] if kind == 2 else content[:at] + rng.bytes(n) + content[at:]


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.full)])
def test_altered_files_are_refused(count, gan, saved, rng, tmp_path):
    """Unless what is read is what was written: between two tokens JSON may have a space more."""
    path, own = tmp_path / "c", small_models.snapshot(gan)
    checkpoint.save(path, *saved)
    content, harmless = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(mutated(content, rng))
        try:
            arrays, metadata = checkpoint.load(path)
        except CheckpointError:
            continue
        assert not small_models.different(arrays, saved[0]) and metadata == saved[1]
        harmless += 1
    assert harmless < count / 20
    assert not small_models.different(own, small_models.snapshot(gan))


def test_a_file_far_too_large_is_not_read(gan, tmp_path):
    """4 TiB of nothing, which take no room on the disk, but would in memory."""
    path, n = tmp_path / "c", 1 << 42
    meta = {**META, "metadata": json.dumps(gan.metadata())}
    path.write_bytes(file({"__metadata__": meta, "a": tensor([n], 0, n, "U8")}))
    with open(path, "r+b") as f:
        f.truncate(path.stat().st_size + n)
    assert "should have about" in refused(gan, path)


# --- checkpoints that do not fit ----------------------------------------


def _put(name, array):
    return lambda arrays, metadata: arrays.update({name: np.asarray(array)})


def _nan(name, value=np.nan):
    def edit(arrays, metadata):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[3] = value

    return edit


WEIGHT = "model.generator.dense.weight"
MISFITS = {
    "a tensor is missing": (lambda a, m: a.pop(WEIGHT), f"missing ['{WEIGHT}'], unexpected 'nothing'"),
    "one too many": (_put("model.x", np.ones(2)), "missing 'nothing', unexpected ['model.x']"),
    "a name of many lines": (_put("a\nb" * 10_000, np.ones(2)), "unexpected ['a\\nba"),
    "another shape": (_put(WEIGHT, np.ones((2, 3), np.float32)), f"{WEIGHT} is float32 of shape (2, 3), should be"),
    "another dtype": (_put("rng.step", np.float64(3)), "rng.step is float64 of shape (), should be int64 ()"),
    "a counter of three": (_put("rng.step", np.array([1, 2, 3])), "rng.step is int64 of shape (3,)"),
    "another model": (lambda a, m: m.update(kind="vae"), "holds a 'vae' model, should be 'gan'"),
    "a model that is a list": (lambda a, m: m.update(kind=["gan"]), "holds a ['gan'] model"),
    "no config": (lambda a, m: m.pop("config"), "its config is None, should be an object"),
    "config is a text": (lambda a, m: m.update(config="x"), "its config is 'x', should be an object"),
    "config of other types": (lambda a, m: m.update(config={"channels": [4]}), "its channels is [4], should be 4"),
    "another size": (lambda a, m: m["config"].update(latent=10**12), "its latent is 1000000000000, should be 100"),
    "a tokenizer": (lambda a, m: m.update(tokenizer="{}"), "was trained with another tokenizer"),
    "a weight is nan": (_nan(WEIGHT), f"{WEIGHT} has values that are not finite"),
    "a weight is infinite": (_nan(WEIGHT, np.inf), f"{WEIGHT} has values that are not finite"),
    "a moment is nan": (_nan("optim.generator.dense.weight.m"), "has values that are not finite"),
    "a square is negative": (_nan("optim.generator.dense.weight.v", -1), "weight.v has values below 0"),
    "a variance is negative": (_nan("model.generator.norm1.running_var", -1), "running_var has values below 0"),
    "a position before the data": (_put("data.position", -1), "data.position is -1, should be in [0, 150]"),
    "a position beyond it": (_put("data.position", 151), "data.position is 151, should be in [0, 150]"),
    "an epoch that cannot be": (_put("data.epoch", 2**62), "data.epoch is 4611686018427387904, should be in"),
    "random steps below 0": (_put("rng.step", -5), "rng.step is -5, should be in"),
    "steps below 0": (_put("optim.generator.step", -(2**63)), "step is -9223372036854775808, should be in"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_checkpoints_that_do_not_fit_are_refused(name, gan, saved, tmp_path):
    edit, words = MISFITS[name]
    arrays, metadata = dict(saved[0]), json.loads(json.dumps(saved[1]))
    edit(arrays, metadata)
    checkpoint.save(tmp_path / "c", arrays, metadata)
    assert words in refused(gan, tmp_path / "c")


def test_what_would_be_refused_is_not_saved(tmp_path):
    """A step can leave parameters that are not finite after a loss that was: the last good checkpoint stays."""
    t = small_models.trainer("gan")
    t.save(tmp_path / "c", keep=tmp_path / "p")
    before = (tmp_path / "c").read_bytes()
    t.model.generator.dense.weight.data[1, 1] = np.nan
    with pytest.raises(CheckpointError, match=r"c: not saved: model\.generator\.dense\.weight has values that are not"):
        t.save(tmp_path / "c", keep=tmp_path / "p")
    assert (tmp_path / "c").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_formats(saved, tmp_path):
    """Format 1 had no checksum and is read; one of the future is refused."""
    for number, words in (("1", None), ("3", "format is '3', this version reads '1' and '2'")):
        (tmp_path / "c").write_bytes(to_bytes(saved[0], {"format": number, "metadata": json.dumps(saved[1])}))
        t = small_models.trainer("gan", seed=1)
        if words:
            assert words in refused(t, tmp_path / "c")
        else:
            t.load(tmp_path / "c")
            assert not small_models.different(small_models.snapshot(t), saved[0])


# --- nothing is executed ----------------------------------------


def test_nothing_that_executes_what_it_reads():
    """No module imports pickle or its like, np.load refuses pickled arrays everywhere, and nothing is evaluated."""
    for path in FILES:
        if path.is_relative_to(ROOT / "tests"):
            continue
        assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"} & {
            *imports(path)
        }
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "np.fromfile"), path
                options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert called != "np.load" or options.get("allow_pickle") is False, path

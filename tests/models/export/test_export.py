"""Exported files beside our own model: onnxruntime is tested as ours would be, our float64 reference is the oracle and
PyTorch's runs are the baseline. Weights go back into PyTorch by the lines that the export prints."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import core.functional as F
from bench.parity import small_models
from bench.parity.rule import Draw, assert_accurate
from bench.parity.torch_runs import torch_runs
from bench.torch_models import COUNTERPARTS
from bench.torch_models.base import channels_last
from core import no_grad, use
from models.export import export
from models.export.onnx_graph import ExportError, Graph, Input, to_onnx
from models.tokenizers import BOS, EOS
from models.training.runs import Run

TOKENS = 9  # of a text that is written one token at a time
rng = np.random.default_rng(0)


CONDITIONAL = {"gan conditional": {"classes": 10}, "vae conditional": {"classes": 10}}


@pytest.fixture(scope="module", params=sorted([*export.PARTS, *CONDITIONAL]))
def trained(request):
    """A trainer after some steps, so that running statistics are not what they began with; and its files, running."""
    t = small_models.trainer(request.param.partition(" ")[0], **CONDITIONAL.get(request.param, {}))
    small_models.run(t, 5)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = {k: m.SerializeToString() for k, m in export.models(t).items()}
    return t, {k: onnxruntime.InferenceSession(m, options, ["CPUExecutionProvider"]) for k, m in made.items()}


def caches(session, batch, prefix="past"):
    """Empty keys and values (N, h, 0, d) for every such input."""
    found = [i for i in session.get_inputs() if i.name.startswith(prefix)]
    return {i.name: np.zeros((batch, i.shape[1], 0, i.shape[3]), np.float32) for i in found}


def write(session, ids, **fixed):
    """Logits (N, T, V) of ids (N, T), fed a token at a time with the cache that comes back."""
    past, logits = caches(session, len(ids)), []
    names = [o.name for o in session.get_outputs()]
    for i in range(ids.shape[1]):
        given = {"ids": ids[:, i : i + 1], "position": np.array([i])}
        made = dict(zip(names, session.run(None, {**given, **past, **fixed})))
        logits.append(made.pop("logits"))
        past = {name.replace("present", "past"): a for name, a in made.items()}
    return np.stack(logits, axis=1)


def inputs(t):
    """What each kind of model is shown: noise, a text, or a sentence (of another length a row) and its translation."""
    if t.kind in ("gan", "vae"):
        labels = (rng.integers(0, t.classes, 7),) if t.classes else ()
        return rng.standard_normal((7, t.config.latent), np.float32), *labels
    if t.kind == "diffusion":
        images = rng.standard_normal((7, 28, 28, 1), np.float32)
        return images, rng.integers(1, t.config.timesteps + 1, 7), rng.integers(0, 11, 7)
    if t.kind == "gpt":
        return (rng.integers(0, t.vocab, (3, TOKENS)),)
    source = rng.integers(EOS + 1, t.vocab, (3, t.config.length))
    source[np.arange(t.config.length) >= np.array([[5], [17], [t.config.length]])] = 0
    return source, np.concatenate([np.full((3, 1), BOS), rng.integers(EOS + 1, t.vocab, (3, TOKENS - 1))], axis=1)


def exported(t, sessions, given):
    """The files' output."""
    if t.kind in ("gan", "vae"):
        (session,) = sessions.values()
        return session.run(None, dict(zip(("z", "labels"), given)))[0]
    if t.kind == "diffusion":
        return sessions["denoiser"].run(None, dict(zip(("x", "t", "labels"), given)))[0]
    if t.kind == "gpt":
        return write(sessions["step"], given[0])
    encoder, (source, ids) = sessions["encoder"], given
    memory = dict(zip([o.name for o in encoder.get_outputs()], encoder.run(None, {"source": source})))
    return write(sessions["step"], ids, source=source, **memory)


def ours(t, given):
    """Our model's output, all tokens at once: in float64 by the reference where its weights are."""
    with t.evaluating(), use("reference"):
        if t.kind == "gan":
            return (t.model.generator(*given).numpy()[..., 0] + 1) / 2
        if t.kind == "vae":
            return F.sigmoid(t.model.decoder(*given)).numpy()[..., 0]
        if t.kind == "diffusion":
            return t.model.average(*given).numpy()
        if t.kind == "gpt":
            return F.linear(t.model(given[0]), t.model.wte.weight).numpy()
        source, ids = given
        return F.linear(t.model.decode(ids, *t.model.encode(source)), t.model.table.weight).numpy()


def theirs(kind, counterpart, given):
    model, given = counterpart.model.eval(), [counterpart.tensor(a) for a in given]
    with torch.no_grad():
        if kind == "gan":
            return (channels_last(model.generator(*given))[..., 0].numpy() + 1) / 2
        if kind == "vae":
            return torch.sigmoid(channels_last(model.decoder(*given)))[..., 0].numpy()
        if kind == "diffusion":
            return channels_last(model.average(*given)).numpy()
        return model(*given).numpy()


def in_float64(t):
    """A trainer with the same weights and statistics, in float64."""
    oracle = small_models.trainer(t.kind, **small_models.settings(t))
    for (_, wide), (_, own) in zip(oracle.model.named_tensors(), t.model.named_tensors()):
        wide.data = own.data.astype(np.float64)
    return oracle


def test_onnxruntime_agrees(trained):
    t, sessions = trained
    oracle, runs, draws = in_float64(t), torch_runs(t), []
    for _ in range(4):
        given = inputs(t)
        wide = tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in given)
        baselines = tuple(theirs(t.kind, run.counterpart, given) for run in runs)
        draws.append(Draw(exported(t, sessions, given), ours(oracle, wide), baselines))
    assert draws[0].oracle.dtype == np.float64
    assert_accurate(f"onnxruntime/{t.kind}", draws, np.float32)


def test_any_batch_is_taken(trained):
    """A row of a larger batch is what it is alone, to the last bits of products in another order."""
    t, sessions = trained
    given = inputs(t)
    alone = exported(t, sessions, tuple(a[:1] for a in given))
    whole = exported(t, sessions, given)
    assert whole.shape == (len(given[0]), *alone.shape[1:])
    assert_accurate(f"a row/{t.kind}", [Draw(whole[:1], alone.astype(np.float64), alone)], np.float32)


FILES = {
    "gan": {"generator.onnx"},
    "vae": {"decoder.onnx"},
    "diffusion": {"denoiser.onnx"},
    "gpt": {"step.onnx", "tokenizer.json"},
    "seq2seq": {"encoder.onnx", "step.onnx", "tokenizer.json"},
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_a_run(kind, tmp_path, monkeypatch):
    """The command's files; weights.safetensors goes into PyTorch by the printed lines, bit for bit."""
    t, folder = small_models.trainer(kind), tmp_path / "a run"
    run = Run.create(folder, kind, "demo", t.config, 0, None)
    run.write_settings()
    paths = export.export(run, t)
    assert {path.name for path in paths} == FILES[kind] | {"weights.safetensors", "README.md"}
    for path in paths:
        if path.suffix == ".onnx":
            onnx.checker.check_model(str(path), full_check=True)
    monkeypatch.chdir(folder / "export")
    names: dict = {}
    exec(export.loading(t), names)  # the lines that users are told to run
    expected = COUNTERPARTS[kind](t).model.state_dict()
    assert names["model"].state_dict().keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in names["model"].state_dict().items())


def test_what_depends_on_the_input_is_not_baked_in():
    """Work outside the graph, other work for other sizes, and operations without a rule are refused in a line."""
    x = {"x": Input("float32", ("N", 3))}
    for function, words in (
        (lambda x: (F.relu(x + np.ones((len(x), 3), np.float32)),), "made outside the graph"),
        (lambda x: (F.relu(x) if len(x) == 2 else F.tanh(x),), "other operations run for other sizes"),
        (lambda x: (F.softmax(x),), "softmax has no rule"),
        (lambda x: (F.relu(x)[: len(x) - 1],), "an index depends on the input's size"),
    ):
        with no_grad(), pytest.raises(ExportError, match=words):
            to_onnx(function, x, ("y",), {}, "a test")


def test_a_parameter_that_is_used_twice_is_written_once():
    w = np.eye(3, dtype=np.float32)
    model = to_onnx(
        lambda x: (F.linear(F.linear(x, w), w),), {"x": Input("float32", ("N", 3))}, ("y",), {"w": w}, "twice"
    )
    assert [c.name for c in model.graph.initializer] == ["w"]
    assert Graph({"w": w}).constant(w) == "w"

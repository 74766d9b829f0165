"""Bad arguments of everything that is public beside tests/core/test_errors.py's: layers, optimisers, trainers, data.

The same rows, in short: a call, the exception, and pieces of its one line. At the end: no public name has no row.
"""

import math

import numpy as np
import pytest

import core
import core.functional as F
from bench.parity.small_models import dataset, trainer
from core import Generator, Tensor, checkpoint, from_dlpack, interop, module, nn, optim, random
from core.nn import Parameter
from core.runtime.sync_batch_norm import sync_batch_norm
from models import MODELS, datasets, tokenizers
from models.evaluation import measures
from models.layers import sampling
from models.training import families
from tests.core.test_errors import BAD, f, i, leaf

NAN, INF = math.nan, math.inf


def rows(error, *calls):
    """{name: row} of calls (function, pieces...) that raise one kind of error."""
    return {f"{pieces[0]}: {' '.join(pieces[1:3])}": (call, error, *pieces) for call, *pieces in calls}


UNARY = ("abs", "exp", "gelu", "log", "relu", "sigmoid", "silu", "softplus", "sqrt", "tanh", "leaky_relu", "clip")
FUNCTIONS = {
    **{f"{n}-none": (lambda n=n: getattr(F, n)(None, *([0] * (n == "clip"))), TypeError, n, "None") for n in UNARY},
    **{f"{n}-objects": (lambda n=n: getattr(F, n)(np.array([None]), 0), TypeError, n) for n in ("maximum", "minimum")},
    **rows(
        TypeError,
        (lambda: F.relu("x"), "relu", "str"),
        (lambda: F.conv2d(f(1, 5, 5, 3), None), "conv2d", "w", "None"),
        (lambda: F.linear(np.ones((2, 3), complex), f(3, 3)), "linear", "x", "complex128"),
        (lambda: F.relu([[1.0], [1.0, 2.0]]), "relu", "list", "inhomogeneous"),
        (lambda: F.concatenate(3), "concatenate", "tensors", "3"),
        (lambda: F.attention(*[f(1, 1, 2, 2)] * 3, causal="yes"), "attention", "causal", "'yes'", "True or False"),
        (lambda: F.dropout(f(2), 0.5, 1), "dropout", "training", "1", "True or False"),
        (lambda: F.layer_norm(f(2, 3), i(3), None), "layer_norm", "w", "int64", "floating"),
        (lambda: F.reparameterize(f(3), f(3), noise=i(3)), "reparameterize", "noise", "int64"),
        (lambda: F.group_norm(i(2, 4), 2), "group_norm", "x", "int64", "floating"),
        (lambda: F.upsample_nearest(i(1, 2, 2, 1)), "upsample_nearest", "x", "int64", "floating"),
        (lambda: F.timestep_embedding(i(2) > 0, 4), "timestep_embedding", "t", "boolean"),
        (lambda: F.elbo(f(2, 3), f(2, 3), f(2, 1), f(2, 1), beta=leaf()), "elbo", "beta", "requires a gradient"),
    ),
    **rows(
        ValueError,
        (lambda: F.relu(-(2**70)), "relu", "-1.18e+21", "64 bits"),
        (lambda: F.leaky_relu(f(2), NAN), "leaky_relu", "negative_slope", "nan", "finite"),
        (lambda: F.clip(f(2), "low"), "clip", "low", "'low'"),
        (lambda: F.softmax(f(2, 3), 1.0), "softmax", "axis", "1.0"),
        (lambda: F.split(f(4), 2), "split", "sizes", "2"),
        (lambda: F.layer_norm(f(2, 3), None, None, eps=-1), "layer_norm", "eps", "-1", "at least 0"),
        (lambda: F.layer_norm(f(2, 3), None, None, eps=NAN), "layer_norm", "eps", "nan"),
        (lambda: F.batch_norm(f(2, 3), None, None, training=True, momentum=2), "batch_norm", "momentum", "2"),
        (lambda: sync_batch_norm(f(2, 3), None, None, training=True, group=4), "sync_batch_norm", "group", "4"),
        (lambda: F.batch_norm(f(2, 3), np.broadcast_to(f(1), 3), f(3), training=True), "batch_norm", "running_mean"),
        (lambda: F.attention(*[f(1, 1, 2, 2)] * 3, scale=INF), "attention", "scale", "inf"),
        (lambda: F.attention(*[f(1, 1, 2, 2)] * 3, causal_offset=2**31), "attention", "causal_offset", "2147483648"),
        (lambda: F.conv2d(f(1, 5, 5, 3), f(1, 1, 3, 1), padding=2**31), "conv2d", "padding", "below 2^31"),
        (lambda: F.cross_entropy(f(2, 0), i(2)), "cross_entropy", "V", "0"),
        (lambda: F.cross_entropy(f(2, 3), i(2), ignore_index=0.5), "cross_entropy", "ignore_index", "0.5"),
        (lambda: F.elbo(f(2, 3), f(2, 3), f(2, 1), f(2, 1), beta=f(2)), "elbo", "beta", "(2,)"),
        (lambda: F.elbo(f(2, 3), f(2, 3), f(2, 1), f(2, 1), beta=NAN), "elbo", "beta", "nan"),
        (lambda: F.bce_with_logits(f(3), INF), "bce_with_logits", "target", "inf"),
        (lambda: F.group_norm(f(2, 6), 4), "group_norm", "num_groups", "4", "divisor", "6 channels"),
        (lambda: F.group_norm(f(2, 6), 0), "group_norm", "num_groups", "0", ">= 1"),
        (lambda: F.group_norm(f(6), 2), "group_norm", "x", "(6,)", "(N, ..., C)"),
        (lambda: F.group_norm(f(2, 6), 2, f(3)), "group_norm", "weight", "(3,)", "(6,)"),
        (lambda: F.group_norm(f(2, 6), 2, eps=-1), "group_norm", "eps", "-1"),
        (lambda: F.group_norm(f(2, 6), 2, act="relu"), "group_norm", "act", "'relu'", "'silu'"),
        (lambda: F.upsample_nearest(f(2, 3, 4)), "upsample_nearest", "x", "(2, 3, 4)", "(N, H, W, C)"),
        (lambda: F.upsample_nearest(f(1, 2, 2, 1), 1.5), "upsample_nearest", "scale", "1.5", ">= 1"),
        (lambda: F.upsample_nearest(f(1, 2, 2, 1), (2, 0)), "upsample_nearest", "scale", "(2, 0)"),
        (lambda: F.timestep_embedding(f(2, 1), 4), "timestep_embedding", "t", "(2, 1)", "(N,)"),
        (lambda: F.timestep_embedding(f(2), 5), "timestep_embedding", "dim", "5", "even"),
        (lambda: F.timestep_embedding(f(2), 4, max_period=0), "timestep_embedding", "max_period", "0"),
    ),
}
TENSOR = {
    **rows(
        ValueError,
        (lambda: Tensor(f(2)).item(), "item", "(2,)", "one element"),
        (lambda: Tensor(f(2, 3)).sum((0, 0)), "sum", "(0, 0)", "different"),
        (lambda: Tensor(f(2, 3)).mean("x"), "mean", "axis", "'x'"),
        (lambda: Tensor(f(2, 3)).reshape("x"), "reshape", "shape", "'x'"),
        (lambda: Tensor(f(2, 3)).reshape(-2, 3), "reshape", "shape", "-2"),
        (lambda: Tensor(f(2)) < f(3), "lt", "(2,)", "(3,)"),
        (lambda: Tensor(np.broadcast_to(f(1), 2)).assign_(f(2)), "assign_", "read-only"),
    ),
    **rows(
        TypeError,
        (lambda: len(Tensor(f())), "len", "0-dimensional"),
        (lambda: list(Tensor(f())), "len", "0-dimensional"),
        (lambda: Tensor(f(2)).astype("nope"), "astype", "dtype", "'nope'"),
        (lambda: Tensor(f(2)).astype(complex), "astype", "dtype", "complex"),
        (lambda: Tensor(f(2)).max(keepdims=1), "max", "keepdims", "1"),
        (lambda: Tensor(f(2)) >= None, "ge", "None"),
        (lambda: Tensor(f(2)) @ None, "matmul", "None"),
        (lambda: Tensor(f(2)).assign_("x"), "assign_", "array", "<U1"),
        (lambda: leaf().backward("x"), "backward", "dy", "<U1"),
        (lambda: from_dlpack(3), "from_dlpack", "int"),
        (lambda: Tensor(f(2)) == 1.0, "==", "identity"),
    ),
}
P = {"p": Parameter(np.ones(1, np.float32))}
OPTIM = {
    **rows(
        ValueError,
        *((lambda o=o: o(P, lr=-1), o.__name__, "lr", "-1", "0") for o in (optim.SGD, optim.Adam, optim.AdamW)),
        (lambda: optim.SGD(P, lr=NAN), "SGD", "lr", "nan"),
        (lambda: optim.LossScale(initial=0), "LossScale", "initial", "0"),
        (lambda: optim.LossScale(growth=NAN), "LossScale", "growth", "nan"),
        (lambda: optim.LossScale(backoff=1.0), "LossScale", "backoff", "1.0"),
        (lambda: optim.LossScale(interval=0.5), "LossScale", "interval", "0.5"),
        (lambda: optim.SGD(P, lr="fast"), "SGD", "lr", "'fast'"),
        (lambda: optim.SGD(P, momentum=-0.1), "SGD", "momentum", "-0.1"),
        (lambda: optim.SGD(P, weight_decay=INF), "SGD", "weight_decay", "inf"),
        (lambda: optim.Adam(P, betas=0.9), "Adam", "betas", "0.9"),
        (lambda: optim.Adam(P, betas=(0.9, NAN)), "Adam", "betas", "nan"),
        (lambda: optim.Adam(P, betas=(-0.1, 0.9)), "Adam", "betas", "-0.1"),
        (lambda: optim.Adam(P, eps=-1e-8), "Adam", "eps", "-1e-08"),
        (lambda: optim.AdamW(P, weight_decay=-1), "AdamW", "weight_decay", "-1"),
        (lambda: optim.Adam({}), "Adam", "parameters", "empty"),
        (lambda: optim.SGD(P, nesterov=True), "SGD", "momentum", "0.0", "nesterov"),
        (lambda: optim.clip_grad_norm_([], NAN), "clip_grad_norm_", "max_norm", "nan"),
        (lambda: optim.ema_([], [], 1.5), "ema_", "decay", "1.5", "[0, 1]"),
        (lambda: optim.ema_([Tensor(f(2))], [], 0.5), "ema_", "averages", "[(2,)]", "[]"),
        (lambda: optim.constant(NAN), "constant", "lr", "nan"),
        (lambda: optim.constant(1.0, -1), "constant", "warmup", "-1"),
        (lambda: optim.cosine(1.0, 0), "cosine", "total", "0"),
        (lambda: optim.cosine(1.0, 10, 0.5), "cosine", "warmup", "0.5"),
        (lambda: optim.cosine(1.0, 10, floor=-1), "cosine", "floor", "-1"),
        (lambda: optim.inverse_sqrt(1.0, 0), "inverse_sqrt", "warmup", "0", ">= 1"),
    ),
    **rows(
        TypeError,
        (lambda: optim.SGD([f(1)]), "SGD", "parameters", "list"),
        (lambda: optim.Adam({"p": f(1)}), "Adam", "parameters", "dict of Parameters"),
        (lambda: optim.SGD(P, momentum=0.9, nesterov=1), "SGD", "nesterov", "1"),
        (lambda: optim.Optimizer(P, 0.1).step(), "Optimizer", "no update"),
        (lambda: optim.clip_grad_norm_([f(1)], 1.0), "clip_grad_norm_", "parameters"),
    ),
}
NN = {
    **rows(
        ValueError,
        (lambda: nn.Linear(0, 3), "Linear", "d_in", "0", ">= 1"),
        (lambda: nn.Linear(3, -1), "Linear", "d_out", "-1"),
        (lambda: nn.Linear(3, 3, act="swish"), "Linear", "act", "'swish'"),
        (lambda: nn.Conv2d(1.0, 2, 3), "Conv2d", "c_in", "1.0"),
        (lambda: nn.ConvTranspose2d(1, 2, (3, 3)), "ConvTranspose2d", "kernel", "(3, 3)"),
        (lambda: nn.BatchNorm(0), "BatchNorm", "channels", "0"),
        (lambda: nn.BatchNorm(2, momentum=NAN), "BatchNorm", "momentum", "nan"),
        (lambda: nn.LayerNorm("4"), "LayerNorm", "d", "'4'"),
        (lambda: nn.LayerNorm(4, eps=-1), "LayerNorm", "eps", "-1"),
        (lambda: nn.GroupNorm(4, 6), "GroupNorm", "num_groups", "4", "divisor", "6"),
        (lambda: nn.GroupNorm(2, 0), "GroupNorm", "num_channels", "0"),
        (lambda: nn.GroupNorm(2, 4, eps=NAN), "GroupNorm", "eps", "nan"),
        (lambda: nn.GroupNorm(2, 4, act="gelu"), "GroupNorm", "act", "'gelu'"),
        (lambda: nn.Embedding(True, 4), "Embedding", "count", "True"),
        (lambda: nn.Embedding(3, 4, std=NAN), "Embedding", "std", "nan"),
        (lambda: nn.Dropout(2), "Dropout", "p", "2"),
        (lambda: nn.MultiHeadAttention(10, 3), "MultiHeadAttention", "10", "3"),
        (lambda: nn.MultiHeadAttention(10, 0), "MultiHeadAttention", "heads", "0"),
        (lambda: nn.uniform(3, -1.0), "uniform", "bound", "-1.0"),
        (lambda: nn.normal(3, NAN), "normal", "std", "nan"),
        (lambda: nn.zeros(-1), "zeros", "shape", "-1"),
        (lambda: nn.ones("3"), "ones", "shape", "'3'"),
        (lambda: random.normal((2, -1)), "normal", "shape", "(2, -1)"),
        (lambda: random.uniform(2.0), "uniform", "shape", "2.0"),
        (lambda: nn.Linear(2, 2).load_state_dict({}), "load_state_dict", "missing", "weight"),
    ),
    **rows(
        TypeError,
        (lambda: nn.Linear(3, 3, bias=0), "Linear", "bias", "0"),
        (lambda: nn.Sequential(nn.Linear(2, 2), 3), "Sequential", "layers", "3"),
        (lambda: nn.Module()(), "Module", "no forward"),
        (lambda: nn.Parameter([1]), "Tensor", "int64"),
        (lambda: nn.Linear(2, 2).train("on"), "train", "mode", "'on'"),
        (lambda: nn.Linear(2, 2).load_state_dict([1]), "load_state_dict", "list"),
        (lambda: nn.Linear(2, 2).load_state_dict({"weight": None, "bias": f(2)}), "load_state_dict", "weight"),
        (lambda: random.normal(2, int), "normal", "dtype", "int"),
        (lambda: interop.to_torch("x"), "to_torch", "array", "<U1"),
        (lambda: interop.from_torch(None), "from_torch", "array", "object"),
        (lambda: interop.to_torch_state_dict([]), "to_torch_state_dict", "list"),
        (lambda: interop.from_torch_state_dict(3), "from_torch_state_dict", "int"),
    ),
}


def config(kind, **changes):
    return lambda: MODELS[kind].Config.preset("demo", **changes)


def test_every_number_of_a_config_is_checked():
    """0 where it may not be, negative, fractional, a text, a boolean, not a number: each field refuses."""
    for kind, trainer_type in MODELS.items():
        for name, value in vars(trainer_type.Config()).items():
            wrong = [-1, True, "3", NAN, None, [1]] if not isinstance(value, str) else [1, None]
            wrong += [1.5] if isinstance(value, int) else []
            for bad in wrong:
                with pytest.raises((ValueError, TypeError), match=f"Config: {name} is .*, should be ") as caught:
                    config(kind, **{name: bad})()
                assert "\n" not in str(caught.value)


LOGITS = np.zeros((1, 4))
ONE_IMAGE = datasets.Images(*(np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.uint8)) * 2, "one.npz")
CONFIG = rows(
    ValueError,
    (config("gan", batch=0), "GANConfig", "batch", "0", ">= 1"),
    (config("vae", dropout=2), "VAEConfig", "dropout", "2", "[0, 1]"),
    (config("gan", beta1=1.0), "GANConfig", "beta1", "1.0", "[0, 1)"),
    (config("seq2seq", warmup=0), "Seq2SeqConfig", "warmup", "0"),
    (lambda: trainer("gan", loss="wgan"), "GANConfig", "loss", "'wgan'"),
    (lambda: trainer("gpt", heads=3), "MultiHeadAttention", "16", "3"),
    (lambda: trainer("gpt", tokens="words"), "GPTConfig", "tokens", "'words'"),
    (lambda: trainer("gpt", vocab=5), "GPTConfig", "vocab", "5", "at least"),
    (lambda: trainer("seq2seq", vocab=40), "Seq2SeqConfig", "vocab", "40", "at least"),
    (lambda: trainer("seq2seq", positions="none"), "Seq2SeqConfig", "positions", "'none'"),
    (lambda: MODELS["gan"](data=3), "data", "int"),
    (lambda: MODELS["gan"](seed=-1, data=dataset("gan")), "Generator", "seed", "-1"),
    (lambda: MODELS["gan"](device="tpu", data=dataset("gan")), "device", "'tpu'"),
    (lambda: trainer("gan").batches("valid"), "batches", "'valid'"),
    *((lambda k=k: trainer(k).sample(0), "sample", "n", "0") for k in ("gan", "vae", "gpt", "seq2seq")),
    (lambda: trainer("vae").interpolate(*[ONE_IMAGE.x_test] * 2, n=1), "interpolate", "n", "1", ">= 2"),
    (lambda: trainer("vae").interpolate(ONE_IMAGE.x_test, f(1, 28, 28)), "interpolate", "images", "float32"),
    (lambda: trainer("vae").reconstruct(f(28, 28)), "reconstruct", "images", "(28, 28)"),
    (lambda: families.check_images("reconstruct", []), "reconstruct", "images", "list"),
    (lambda: trainer("gpt").generate("T", -1), "generate", "n", "-1"),
    (lambda: trainer("gpt").generate("日"), "does not know", "日"),
    (lambda: trainer("gpt").generate(""), "generate", "prompt", "empty"),
    (lambda: trainer("gpt").generate("T", 1, temperature=NAN), "sampling", "temperature", "nan"),
    (lambda: trainer("seq2seq").translate(" "), "translate", "sentence", "' '"),
    (lambda: trainer("seq2seq").translate("a", beams=0), "translate", "beams", "0"),
    (lambda: sampling.choose(LOGITS, -1), "sampling", "temperature", "-1"),
    (lambda: sampling.probabilities(LOGITS, 0), "sampling", "temperature", "0", "above"),
    (lambda: sampling.probabilities(LOGITS, top_k=1.5), "sampling", "top_k", "1.5"),
    (lambda: sampling.probabilities(LOGITS, top_p=2), "sampling", "top_p", "2"),
    (lambda: sampling.greedy(None, [1], 0, -1), "greedy", "most", "-1"),
    (lambda: sampling.beam_search(None, None, 1, 0, 0, 1), "beam_search", "most", "0"),
    (lambda: sampling.beam_search(None, None, 1, 0, 5, 0), "beam_search", "beams", "0"),
    (lambda: sampling.beam_search(None, None, 1, 0, 5, 2, NAN), "beam_search", "alpha", "nan"),
    (lambda: measures.image_figures(f(4, 28, 28), ONE_IMAGE), "one.npz", "1 test image", "two or more"),
    (lambda: tokenizers.from_json('{"kind": "bpe"}'), "tokenizer.json", "not a tokenizer"),
    (lambda: checkpoint.load("no such é"), "no such é", "no such checkpoint"),
    (lambda: Generator(NAN), "Generator", "seed", "nan"),
)
ALL = {**BAD, **FUNCTIONS, **TENSOR, **OPTIM, **NN, **CONFIG}


@pytest.mark.parametrize("name", [n for n in ALL if n not in BAD])
def test_bad_argument(name):
    call, error, *pieces = ALL[name]
    with pytest.raises(error) as caught:
        call()
    missing = [piece for piece in pieces if piece not in str(caught.value)]
    assert not missing and "\n" not in str(caught.value), f"({caught.value}) does not say {missing}"


TAKE_NOTHING_TO_REFUSE = {
    "no_grad",
    "detect_anomaly",
    "AnomalyError",
    "KernelLimit",
    "functional",
    "nn",
    "optim",
    "checkpoint",
    "interop",
    "random",
}


def test_every_public_name_has_a_row():
    named = {piece for row in ALL.values() for piece in row[2:]} | {name.partition("-")[0] for name in ALL}
    own = lambda module: {n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    public = {*F.__all__, *core.__all__, *own(nn), *own(module), *own(optim), *own(interop)} - TAKE_NOTHING_TO_REFUSE
    public |= own(sampling) - {"probabilities", "choose"} | {"sampling"}  # these two call themselves sampling
    assert {n for n in public if not n.startswith("_")} - named == {"Parameter"}  # refused as a Tensor

"""A trained model for other programs: ONNX files that any runtime can run, and weights that PyTorch can load.

    RUN/export/<part>.onnx           what makes images, or one step of writing text, float32, any batch
    RUN/export/weights.safetensors   a PyTorch state_dict of bench/torch_models' class, in PyTorch's layouts
    RUN/export/README.md             inputs and outputs of each, and how to load them

A text model's step takes the keys and values of what came before and gives them back with its own token's, so that the
caller keeps the cache: start with P = 0, feed one token at a time. # next: models/export/onnx_graph.py, how a pass is
written
"""

import json
from pathlib import Path

import core.functional as F
from core import checkpoint, interop
from core.dispatch import use
from models.export.onnx_graph import ExportError, Input, to_onnx

COUNTERPARTS = {
    "gan": "image.GAN",
    "vae": "image.VAE",
    "diffusion": "diffusion.Diffusion",
    "gpt": "text.GPT",
    "seq2seq": "text.Transformer",
}


class Part:
    """One file: what it computes, its inputs and the names of its outputs."""

    def __init__(self, about, function, inputs, outputs, replaced=None):
        self.about, self.function, self.inputs, self.outputs = about, function, inputs, outputs
        self.replaced = replaced or {}  # inputs that nodes make from others

    def model(self, constants):
        return to_onnx(self.function, self.inputs, self.outputs, constants, self.about, self.replaced)


LABELS = {"labels": Input("int64", ("N",))}


def _latents(trainer) -> dict:
    """z, and labels where there are classes."""
    return {"z": Input("float32", ("N", trainer.config.latent)), **(LABELS if trainer.classes else {})}


def _and_labels(trainer) -> str:
    return f", and labels below {trainer.classes}" if trainer.classes else ""


def gan(trainer) -> dict:
    return {
        "generator": Part(
            f"noise z from N(0, 1){_and_labels(trainer)} -> images in [0, 1], (N, H, W)",
            lambda *z: ((trainer.model.generator(*z)[:, :, :, 0] + 1) / 2,),
            _latents(trainer),
            ("images",),
        )
    }


def vae(trainer) -> dict:
    return {
        "decoder": Part(
            f"latents z, from N(0, 1) to draw{_and_labels(trainer)} -> the probability of each pixel, (N, H, W)",
            lambda *z: (F.sigmoid(trainer.model.decoder(*z))[:, :, :, 0],),
            _latents(trainer),
            ("images",),
        )
    }


class Past:
    """A block's cache whose keys and values so far are inputs of the graph, and those with the new token's outputs."""

    def __init__(self, k, v):
        self.past = (k, v)
        self.present: tuple = ()

    def append(self, k, v):
        self.present = tuple(F.concatenate([old, new], axis=2) for old, new in zip(self.past, (k, v)))
        return self.present, self.past[0].shape[2]


def _past_inputs(config, prefix="past", length="P") -> dict:
    """Keys and values (N, h, P, d) of each block."""
    shape = ("N", config.heads, length, config.d_model // config.heads)
    return {f"{prefix}_{i}_{kv}": Input("float32", shape) for i in range(config.layers) for kv in "kv"}


def _pairs(arrays) -> list:
    """[k, v, k, v, ...] -> [(k, v), (k, v), ...]."""
    return list(zip(arrays[::2], arrays[1::2]))


def _step(stack, x, table, past, **options):
    """x (N, 1, D), one token -> (logits (N, V), keys and values of every block with this token's)."""
    caches = [Past(k, v) for k, v in _pairs(past)]
    h = stack(x, causal=True, caches=caches, **options)[:, -1]  # (N, D)
    return F.linear(h, table), *(a for cache in caches for a in cache.present)


TOKEN = {"ids": Input("int64", ("N", 1)), "position": Input("int64", (1,))}


def gpt(trainer) -> dict:
    model, past = trainer.model, _past_inputs(trainer.config)

    def step(ids, position, *past):
        return _step(model.stack, model.wte(ids) + model.wpe(position), model.wte.weight, past)  # (N, 1, D) + (1, D)

    about = f"one token and its position, 0 to {trainer.config.context - 1} -> logits of the next token"
    return {"step": Part(about, step, {**TOKEN, **past}, ("logits", *_present(past)))}


def _present(past) -> list:
    return [name.replace("past", "present") for name in past]


def _words(graph):
    """True where `source` is a word: PAD is 0. (N, T) -> (N, 1, 1, T)."""
    return graph.node("Unsqueeze", [graph.node("Cast", ["source"], to=9), graph.integers([1, 2])])  # 9 is bool


def seq2seq(trainer) -> dict:
    model, c = trainer.model, trainer.config
    past, memory = _past_inputs(c), _past_inputs(c, "memory", c.length)
    source, mask = {"source": Input("int64", ("N", c.length))}, {"mask": Input("bool", ("N", 1, 1, c.length))}

    def encode(source, mask):
        return tuple(a for pair in model.memories(source, mask) for a in pair)

    def step(ids, position, source, mask, *arrays):
        memories, past = arrays[: 2 * c.layers], arrays[2 * c.layers :]
        x = model.embed(ids, F.embedding(position, model.target_positions))  # (N, 1, D)
        options = {"memories": _pairs(memories), "memory_mask": mask}
        return _step(model.decoder, x, model.table.weight, past, **options)

    about = "one token, its position and the encoder's memory -> logits of the next token"
    return {
        "encoder": Part(
            f"a sentence's tokens and the end mark, padded with 0 to {c.length} -> keys and values for the decoder",
            encode,
            source | mask,
            list(memory),
            {"mask": _words},
        ),
        "step": Part(
            about, step, {**TOKEN, **source, **mask, **memory, **past}, ("logits", *_present(past)), {"mask": _words}
        ),
    }


def diffusion(trainer) -> dict:
    c = trainer.config
    about = {"v": "v = a noise - s x0", "eps": "the noise"}[c.predict]
    about += f"; a^2 is alpha bar of the {c.schedule} schedule of {c.timesteps} steps, s^2 = 1 - a^2"
    return {
        "denoiser": Part(
            f"noisy images a x0 + s noise in [-1, 1], times from 1 to {c.timesteps}, classes (10: none) -> {about}",
            lambda x, t, labels: (trainer.model.average(x, t, labels),),
            {"x": Input("float32", ("N", 28, 28, 1)), "t": Input("int64", ("N",)), **LABELS},
            ("said",),
        )
    }


PARTS = {"gan": gan, "vae": vae, "gpt": gpt, "seq2seq": seq2seq, "diffusion": diffusion}


def models(trainer) -> dict:
    """{name: onnx.ModelProto} of a trainer on a CPU, checked by the onnx library."""
    if trainer.device != "cpu":
        raise ExportError(f"export: the trainer is on {trainer.device}, should be on cpu")
    with trainer.evaluating(), use("reference", half=False):
        constants = trainer.model.state_dict()
        return {name: part.model(constants) for name, part in PARTS[trainer.kind](trainer).items()}


def export(run, trainer) -> list:
    """Write everything into `run.folder`/export, each file atomically; the paths."""
    folder = Path(run.folder) / "export"
    folder.mkdir(exist_ok=True)
    made = models(trainer)
    paths = [_write(folder / f"{name}.onnx", model.SerializeToString()) for name, model in made.items()]
    weights = interop.to_torch_state_dict(trainer.model.state_dict())
    counterpart = COUNTERPARTS[trainer.kind]
    metadata = {"class": f"bench.torch_models.{counterpart}", "config": json.dumps(run.settings["config"])}
    paths.append(_write(folder / "weights.safetensors", checkpoint.to_bytes(weights, metadata)))
    if hasattr(trainer, "tokenizer"):
        paths.append(_write(folder / "tokenizer.json", trainer.tokenizer.to_json().encode("utf-8")))
    paths.append(_write(folder / "README.md", readme(trainer, made).encode("utf-8")))
    return paths


def _write(path, content):
    checkpoint.write_atomically(path, content)
    return path


def loading(trainer) -> str:
    """How PyTorch loads the weights, as Python code."""
    module, name = COUNTERPARTS[trainer.kind].split(".")
    config, size = type(trainer.config), f", {trainer.vocab}" if trainer.kind == "gpt" else ""
    return "\n".join(
        [
            "import json",
            "from safetensors import safe_open",
            "from safetensors.torch import load_file",
            f"from bench.torch_models.{module} import {name}",
            f"from {config.__module__} import {config.__name__}",
            'with safe_open("weights.safetensors", "pt") as f:',
            f'    config = {config.__name__}(**json.loads(f.metadata()["config"]))',
            f"model = {name}(config{size})",
            'model.load_state_dict(load_file("weights.safetensors"))',
        ]
    )


def readme(trainer, made) -> str:
    """What the files take and give."""
    lines = [f"# A {trainer.kind} at step {trainer.steps}, exported by Assay", ""]
    for name, model in made.items():
        lines += [f"## {name}.onnx", "", f"{model.graph.doc_string[0].upper()}{model.graph.doc_string[1:]}.", ""]
        lines += ["| | name | dtype | shape |", "|---|---|---|---|"]
        for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
            lines += [f"| {kind} | {v.name} | {_dtype(v)} | {_shape(v)} |" for v in values]
        lines.append("")
    lines += ["## weights.safetensors", "", "PyTorch's state_dict, in PyTorch's layouts:", ""]
    return "\n".join([*lines, "```", loading(trainer), "```", ""])


def _dtype(value):
    return {1: "float32", 7: "int64"}[value.type.tensor_type.elem_type]


def _shape(value):
    sizes = value.type.tensor_type.shape.dim
    return "(" + ", ".join(d.dim_param or str(d.dim_value) for d in sizes) + ("," if len(sizes) == 1 else "") + ")"

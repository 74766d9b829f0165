"""The shape of each public function's result as PyTorch's documentation gives it, from the arguments alone."""

import numpy as np

from tests.core.fuzzing import RECIPES, both


def _conv(a):
    k, d, p, s = a["w"].shape[:2], both(a["dilation"]), both(a["padding"]), both(a["stride"])
    size = ((n + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i, n in enumerate(a["x"].shape[1:3]))
    return (len(a["x"]), *size, a["w"].shape[3])


def _deconv(a):
    k, d, p, s, o = a["w"].shape[:2], *(both(a[n]) for n in ("dilation", "padding", "stride", "output_padding"))
    size = (s[i] * (n - 1) - 2 * p[i] + d[i] * (k[i] - 1) + o[i] + 1 for i, n in enumerate(a["x"].shape[1:3]))
    return (len(a["x"]), *size, a["w"].shape[2])


def _concatenated(a):
    shapes = [list(np.shape(t)) for t in a["tensors"]]
    shapes[0][a["axis"]] = sum(s[a["axis"]] for s in shapes)
    return tuple(shapes[0])


def _split(a):
    shapes = [list(np.shape(a["x"])) for _ in a["sizes"]]
    for shape, size in zip(shapes, a["sizes"]):
        shape[a["axis"]] = size
    return [tuple(s) for s in shapes]


def _broadcast(*names):
    return lambda a: np.broadcast_shapes(*(np.shape(a[n]) for n in names))


def _reduced(name, drop=0):
    return lambda a: np.shape(a[name])[: np.ndim(a[name]) - drop] if a["reduction"] == "none" else ()


def _matmul(a):
    return np.matmul(*(np.ones(np.shape(a[n])) for n in "xy")).shape


def _enlarged(a):
    n, height, width, channels = np.shape(a["x"])
    down, across = both(a["scale"])
    return (n, down * height, across * width, channels)


SHAPES = {
    **dict.fromkeys(RECIPES, lambda a: np.shape(a["x"])),
    **dict.fromkeys(("maximum", "minimum"), _broadcast("x", "y")),
    **dict.fromkeys(("discriminator_loss", "generator_loss"), lambda a: ()),
    "where": _broadcast("condition", "x", "y"),
    "upsample_nearest": _enlarged,
    "timestep_embedding": lambda a: (len(a["t"]), a["dim"]),
    "conv2d": _conv,
    "conv_transpose2d": _deconv,
    "matmul": _matmul,
    "concatenate": _concatenated,
    "split": _split,
    "broadcast_to": lambda a: tuple(np.atleast_1d(a["shape"])),
    "attention": lambda a: (*np.shape(a["q"])[:3], np.shape(a["v"])[3]),
    "linear": lambda a: (*np.shape(a["x"])[:-1], np.shape(a["w"])[0]),
    "embedding": lambda a: (*np.shape(a["ids"]), np.shape(a["w"])[1]),
    "add_layer_norm": lambda a: [np.shape(a["x"])] * 2,
    "cross_entropy": _reduced("logits", 1),
    "linear_cross_entropy": _reduced("x", 1),
    "bce_with_logits": _reduced("logits"),
    "gaussian_kl": _reduced("mu"),
    "reparameterize": lambda a: np.shape(a["mu"]),
    "elbo": lambda a: [(), (), ()] if a["parts"] else (),
}

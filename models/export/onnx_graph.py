"""A forward pass as an ONNX graph: every operation that runs becomes a few nodes, by one rule an operation.

    y = function(x)        is run twice, on inputs of two sizes, while core.observe.tracing writes down what runs;
    names                  an array that an operation made is known by its identity; any other is a constant;
    sizes                  what differs between the two runs depends on the input's size, and must not be baked in.

ONNX has images as (N, C, H, W), so a transposition stands before and after each convolution; runtimes remove those that
meet. Opset 20, and no operator outside the standard. # next: models/export/export.py, which functions are exported
"""

import math
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from core import no_grad
from core.observe import tracing

OPSET, IR = 20, 10
SIZES = ({"N": 2, "P": 3}, {"N": 5, "P": 7})  # of the axes that may have any length, in the two runs: batch and past
FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels first, channels last


class Input(NamedTuple):
    """A graph's input: its dtype, and its lengths, "N" (batch) or "P" (tokens before) where any will do."""

    dtype: str
    shape: tuple


class ExportError(ValueError):
    """A forward pass that cannot be written as an ONNX graph."""


class Graph:
    """The nodes and constants of one ONNX graph while it is made."""

    def __init__(self, constants: dict):
        self.nodes: list = []
        self.constants: dict = {}  # name -> array, those that are used
        self.known = {id(array): (name, array) for name, array in constants.items()}
        self.names: dict = {}  # id of an array in the first run -> name

    def node(self, kind, inputs, outputs=1, **attributes):
        """Add a node; the name of its result, or a tuple of names where it has several outputs."""
        names = tuple(f"{kind}_{len(self.nodes)}" + (f".{i}" if outputs > 1 else "") for i in range(outputs))
        self.nodes.append(helper.make_node(kind, [name or "" for name in inputs], names, **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, array) -> str:
        """The name of an array that does not depend on the inputs; a parameter keeps its own."""
        name, _ = self.known.get(id(array), (f"constant_{len(self.constants)}", None))
        self.constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        return name

    def integers(self, values) -> str:
        return self.constant(np.array(values, np.int64))

    def named(self, first, second):
        """The name of an operation's input, which was `first` in one run and `second` in the other; None for None."""
        if first is None or id(first) in self.names:
            return None if first is None else self.names[id(first)]
        if np.shape(first) != np.shape(second) or not np.array_equal(first, second):
            raise ExportError("export: an operation takes an array that was made outside the graph from its inputs")
        return self.constant(first)


def merged(first: dict, second: dict) -> dict:
    """The options of one operation in both runs; None where they differ."""
    result = {}
    for key, a in first.items():
        b = second[key]
        whole = isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and key == "shape"
        result[key] = tuple(x if x == y else None for x, y in zip(a, b)) if whole else (a if a == b else None)
    return result


def to_onnx(function, inputs: dict, outputs, constants: dict, about: str, replaced=None) -> onnx.ModelProto:
    """function(*arrays) -> Tensors, as an ONNX model that was checked.

    inputs: {name: Input}; outputs: names; constants: {name: array} of the parameters; replaced: {name of an input:
    f(graph) -> name}, nodes that make it from the others, so that it is none. Raises ExportError where a pass cannot
    be written.
    """
    replaced = replaced or {}
    runs = [_run(function, inputs, sizes) for sizes in SIZES]
    graph = Graph(constants)
    arrays, trace, results = runs[0]
    for name, array in zip(inputs, arrays):
        graph.names[id(array)] = replaced[name](graph) if name in replaced else name
    if [t[0] for t in trace] != [t[0] for t in runs[1][1]]:
        raise ExportError("export: other operations run for other sizes")
    for (name, ins, attrs, outs), (_, others, other_attrs, _) in zip(trace, runs[1][1]):
        if name not in RULES:
            raise ExportError(f"export: {name} has no rule, should be one of {', '.join(sorted(RULES))}")
        known = [graph.named(a, b) for a, b in zip(ins, others)]
        shapes = [np.shape(a) for a in ins]
        made = RULES[name](graph, known, shapes, merged(attrs, other_attrs))
        graph.names.update(zip(map(id, outs), made if isinstance(made, tuple) else (made,)))
    for name, tensor in zip(outputs, results):
        graph.nodes.append(helper.make_node("Identity", [graph.names[id(tensor.data)]], [name]))
    shapes = [_symbols(a.shape, b.shape) for a, b in zip(results, runs[1][2])]
    made = [_info(name, Input(str(t.dtype), shape)) for name, t, shape in zip(outputs, results, shapes)]
    return _model(graph, [_info(n, i) for n, i in inputs.items() if n not in replaced], made, about)


def _run(function, inputs, sizes):
    """(input arrays, trace, outputs) of one run on zeros, evaluation mode and no graph."""
    shapes = [tuple(sizes.get(n, n) for n in i.shape) for i in inputs.values()]
    arrays = [np.zeros(shape, i.dtype) for shape, i in zip(shapes, inputs.values())]
    with no_grad(), tracing() as trace:
        results = function(*arrays)
    return arrays, trace, results


def _symbols(first, second):
    """An output's lengths, by name where they differ between the runs: "P+1" where one token was appended."""
    letter = {(SIZES[0][k] + more, SIZES[1][k] + more): k + ("+1" if more else "") for k in "NP" for more in (0, 1)}
    return tuple(a if a == b else letter[a, b] for a, b in zip(first, second))


def _info(name, described):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(described.dtype))
    return helper.make_tensor_value_info(name, kind, described.shape)


def _model(graph, inputs, outputs, about):
    initial = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    made = helper.make_graph(graph.nodes, "assay", inputs, outputs, initial, doc_string=about)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="Assay")
    model.ir_version = IR  # what runtimes of the opset's time can read
    onnx.checker.check_model(model, full_check=True)
    return model


# --- rules: (graph, names of the inputs, their shapes, options) -> the result's name, or a tuple of names ----------


def _activation(g, x, attrs):
    act = attrs.get("act")
    if act is None:
        return x
    if act == "leaky_relu":
        return g.node("LeakyRelu", [x], alpha=float(attrs["negative_slope"]))
    if act == "silu":
        return g.node("Mul", [x, g.node("Sigmoid", [x])])
    if act in ("gelu", "gelu_tanh"):
        return g.node("Gelu", [x], approximate="none" if act == "gelu" else "tanh")
    return g.node({"relu": "Relu", "tanh": "Tanh"}[act], [x])


def _elementwise(kind):
    return lambda g, names, shapes, attrs: g.node(kind, names)


def _acting(act):
    return lambda g, names, shapes, attrs: _activation(g, names[0], {**attrs, "act": act})


def _linear(g, names, shapes, attrs):
    x, w, b = names
    y = g.node("MatMul", [x, g.node("Transpose", [w], perm=[1, 0])])
    return _activation(g, y if b is None else g.node("Add", [y, b]), attrs)


def _conv(kind):
    """ONNX's weights are PyTorch's: (Cout, Cin, KH, KW), transposed (Cin, Cout, KH, KW)."""

    def rule(g, names, shapes, attrs):
        x, w, b = names
        first, turned = g.node("Transpose", [x], perm=FIRST), g.node("Transpose", [w], perm=[3, 2, 0, 1])
        options = {"strides": attrs["stride"], "dilations": attrs["dilation"], "pads": attrs["padding"] * 2}
        if kind == "ConvTranspose":
            options["output_padding"] = attrs["output_padding"]
        y = g.node(kind, [first, turned, b], kernel_shape=shapes[1][:2], **options)
        return _activation(g, g.node("Transpose", [y], perm=LAST), attrs)

    return rule


def _batch_norm(g, names, shapes, attrs):
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last axis."""
    x, mean, var, weight, bias = names
    std = g.node("Sqrt", [g.node("Add", [var, g.constant(np.float32(attrs["eps"]))])])
    y = g.node("Div", [g.node("Sub", [x, mean]), std])
    y = y if weight is None else g.node("Mul", [y, weight])
    return _activation(g, y if bias is None else g.node("Add", [y, bias]), attrs)


def _group_norm(g, names, shapes, attrs):
    """Over an image's pixels and a group's channels, from centred values."""
    x, weight, bias = names
    *pixels, channels = shapes[0][1:]
    groups = attrs["num_groups"]
    grouped = g.node("Reshape", [x, g.integers([0, math.prod(pixels), groups, channels // groups])])
    mean = lambda a: g.node("ReduceMean", [a, g.integers([1, 3])])
    centred = g.node("Sub", [grouped, mean(grouped)])
    var = g.node("Add", [mean(g.node("Mul", [centred, centred])), g.constant(np.float32(attrs["eps"]))])
    y = g.node("Reshape", [g.node("Div", [centred, g.node("Sqrt", [var])]), g.integers([0, *pixels, channels])])
    y = y if weight is None else g.node("Mul", [y, weight])
    return _activation(g, y if bias is None else g.node("Add", [y, bias]), attrs)


def _layer_norm(g, names, shapes, attrs):
    x, w, b = names
    w = g.constant(np.ones(shapes[0][-1], np.float32)) if w is None else w
    return g.node("LayerNormalization", [x, w, b], axis=-1, epsilon=attrs["eps"])


def _add_layer_norm(g, names, shapes, attrs):
    total = g.node("Add", names[:2])
    return _layer_norm(g, [total, *names[2:4]], shapes, attrs), total


def _attention(g, names, shapes, attrs):
    """softmax(scale q k^T, where the mask allows) v. Causality is for one query here, the last, which sees all keys."""
    q, k, v, mask, bias = names
    last = shapes[0][2] == 1 and attrs["causal_offset"] is None  # the offset grows with the past, as decoding has it
    if attrs["causal"] and not last:
        raise ExportError("export: causal attention of several queries has no rule, should be one token at a time")
    scores = g.node("MatMul", [q, g.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = g.node("Mul", [scores, g.constant(np.float32(attrs["scale"]))])
    scores = scores if bias is None else g.node("Add", [scores, bias])
    if mask is not None:
        scores = g.node("Where", [mask, scores, g.constant(np.float32(-np.inf))])
    return g.node("MatMul", [g.node("Softmax", [scores], axis=-1), v])


def _reshape(g, names, shapes, attrs):
    """A length that depends on the input's is copied from the same axis (0), or inferred (-1)."""
    old = [*shapes[0], *[None] * len(attrs["shape"])]
    kept = {SIZES[0][k] for k in "NP"}
    shape = [(0 if old[i] in kept else -1) if n is None else n for i, n in enumerate(attrs["shape"])]
    return g.node("Reshape", [names[0], g.integers(shape)])


def _getitem(g, names, shapes, attrs):
    """Integers and slices of constants; what the source of an operation takes from its input's size is refused."""
    if attrs["index"] is None:
        raise ExportError("export: an index depends on the input's size")
    y, axis = names[0], 0
    for part in attrs["index"]:
        if isinstance(part, slice):
            start, stop, step = (part.start or 0), (math.inf if part.stop is None else part.stop), part.step or 1
            if step < 0:
                raise ExportError(f"export: a slice goes backwards, by {step}")
            if (start, stop, step) != (0, math.inf, 1):
                stop = 2**62 if stop == math.inf else stop
                y = g.node("Slice", [y, *(g.integers([v]) for v in (start, stop, axis, step))])
            axis += 1
        elif isinstance(part, int | np.integer):
            y = g.node("Gather", [y, g.constant(np.array(part, np.int64))], axis=axis)
        else:
            raise ExportError(f"export: an index is {part!r}, should be integers and slices")
    return y


def _split(g, names, shapes, attrs):
    sizes = attrs["sizes"]
    return g.node("Split", [names[0], g.integers(sizes)], outputs=len(sizes), axis=attrs["axis"])


def _timestep_embedding(g, names, shapes, attrs):
    """Angles in float64, as the reference has them; cosines, then sines."""
    half = attrs["dim"] // 2
    periods = attrs["max_period"] ** (np.arange(half) / half)
    t = g.node("Unsqueeze", [g.node("Cast", names, to=DOUBLE), g.integers([1])])
    turns = g.node("Mul", [t, g.constant(1 / (2 * math.pi * periods))])  # of whole ones nothing depends
    angles = g.node("Mul", [g.node("Sub", [turns, g.node("Floor", [turns])]), g.constant(np.float64(2 * math.pi))])
    angles = g.node("Cast", [angles], to=FLOAT)  # runtimes have cosines in float32 alone
    return g.node("Concat", [g.node("Cos", [angles]), g.node("Sin", [angles])], axis=-1)


def _embedding(g, names, shapes, attrs):
    ids, w = names
    return g.node("Gather", [w, ids], axis=0)


RULES = {
    **{name: _elementwise(kind) for name, kind in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"))},
    **{name: _elementwise(kind) for name, kind in (("neg", "Neg"), ("exp", "Exp"), ("sqrt", "Sqrt"))},
    **{name: _elementwise(kind) for name, kind in (("sigmoid", "Sigmoid"), ("matmul", "MatMul"))},
    **{name: _acting(name) for name in ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh")},
    "linear": _linear,
    "conv2d": _conv("Conv"),
    "conv_transpose2d": _conv("ConvTranspose"),
    "batch_norm_eval": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "add_layer_norm": _add_layer_norm,
    "attention": _attention,
    "embedding": _embedding,
    "timestep_embedding": _timestep_embedding,
    "reshape": _reshape,
    "getitem": _getitem,
    "split": _split,
    "transpose": lambda g, names, shapes, attrs: g.node("Transpose", names, perm=attrs["axes"]),
    "concatenate": lambda g, names, shapes, attrs: g.node("Concat", names, axis=attrs["axis"]),
}

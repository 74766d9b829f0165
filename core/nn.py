"""Layers: modules that hold the parameters of core.functional's operations.

Default initial values are PyTorch's, drawn from the current generator on its device; the models set their own where the
papers do. Module and Parameter are core/module.py's.

# next: core/optim.py
"""

import math

import numpy as np

import core.functional as F
from core import check, random
from core.engine import Tensor
from core.functional.group_norm import GROUP_NORM_ACTS
from core.module import Module, Parameter
from core.reference.pointwise import ACTIVATIONS


def uniform(shape, bound: float) -> Parameter:
    """A parameter drawn evenly from [-bound, bound)."""
    check.number("uniform", "bound", bound, 0)
    return Parameter((random.uniform(shape) * 2 - 1) * np.float32(bound))


def normal(shape, std: float) -> Parameter:
    """A parameter drawn from N(0, std^2)."""
    check.number("normal", "std", std, 0)
    return Parameter(random.normal(shape) * np.float32(std))


def zeros(shape) -> Parameter:
    return Parameter(random.current().xp.zeros(check.shape("zeros", shape), np.float32))


def ones(shape) -> Parameter:
    return Parameter(random.current().xp.ones(check.shape("ones", shape), np.float32))


def _counts(module, **lengths):
    """Channels, widths and the like are positive integers."""
    for name, n in lengths.items():
        check.count(type(module).__name__, name, n)


def _default_weights(weight_shape, fan_in, bias, channels):
    """PyTorch's default: weight and bias from [-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    return uniform(weight_shape, bound), uniform((channels,), bound) if bias else None


class Linear(Module):
    """act(x @ weight.T + bias): x (..., d_in) -> (..., d_out); weight (d_out, d_in)."""

    def __init__(self, d_in, d_out, bias=True, *, act=None):
        _counts(self, d_in=d_in, d_out=d_out)
        check.flag("Linear", "bias", bias)
        check.one_of("Linear", "act", act, ACTIVATIONS)
        self.weight, self.bias = _default_weights((d_out, d_in), d_in, bias, d_out)
        self.act = act

    def forward(self, x):
        return F.linear(x, self.weight, self.bias, act=self.act)


class Conv2d(Module):
    """(N, H, W, c_in) -> (N, OH, OW, c_out); weight (K, K, c_in, c_out). Options as F.conv2d's."""

    def __init__(self, c_in, c_out, kernel, bias=True, **options):
        _counts(self, c_in=c_in, c_out=c_out, kernel=kernel)
        check.flag("Conv2d", "bias", bias)
        self.weight, self.bias = _default_weights((kernel, kernel, c_in, c_out), kernel * kernel * c_in, bias, c_out)
        self.options = options

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, **self.options)


class ConvTranspose2d(Module):
    """(N, H, W, c_in) -> (N, OH, OW, c_out); weight (K, K, c_out, c_in). Options as F.conv_transpose2d's."""

    def __init__(self, c_in, c_out, kernel, bias=True, **options):
        _counts(self, c_in=c_in, c_out=c_out, kernel=kernel)
        check.flag("ConvTranspose2d", "bias", bias)
        self.weight, self.bias = _default_weights((kernel, kernel, c_out, c_in), kernel * kernel * c_out, bias, c_out)
        self.options = options

    def forward(self, x):
        return F.conv_transpose2d(x, self.weight, self.bias, **self.options)


class BatchNorm(Module):
    """Batch norm over the last axis (channels), then `act`, then dropout: options as F.batch_norm's.

    In training the batch is what this process sees; core/runtime/sync_batch_norm.py has one for several processes."""

    moving = True  # whether training moves the running statistics
    normalise = staticmethod(F.batch_norm)

    def __init__(self, channels, momentum=0.1, eps=1e-5, **options):
        _counts(self, channels=channels)
        check.number("BatchNorm", "momentum", momentum, 0, 1)
        check.number("BatchNorm", "eps", eps, 0)
        self.weight, self.bias = ones(channels), zeros(channels)
        xp = random.current().xp
        self.running_mean = Tensor(xp.zeros(channels, np.float32))
        self.running_var = Tensor(xp.ones(channels, np.float32))
        self.momentum, self.eps, self.options = momentum, eps, options

    def forward(self, x):
        moved = self.moving or not self.training
        mean, var = (self.running_mean, self.running_var) if moved else (None, None)
        shared = (mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
        return self.normalise(x, *shared, **self.options)


class LayerNorm(Module):
    """Layer norm over the last axis, of length d."""

    def __init__(self, d, eps=1e-5):
        _counts(self, d=d)
        check.number("LayerNorm", "eps", eps, 0)
        self.weight, self.bias, self.eps = ones(d), zeros(d), eps

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)

    def after_add(self, x, residual, dropout_p=0.0):
        """(layer_norm(r), r) with r = residual + dropout(x), in one operation."""
        p = dropout_p if self.training else 0.0
        return F.add_layer_norm(x, residual, self.weight, self.bias, eps=self.eps, dropout_p=p)


class GroupNorm(Module):
    """Group norm over pixels and the channels of a group, then `act`: options as F.group_norm's."""

    def __init__(self, num_groups, num_channels, eps=1e-5, act=None):
        _counts(self, num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            check.fail("GroupNorm", "num_groups", num_groups, f"a divisor of num_channels = {num_channels}")
        check.number("GroupNorm", "eps", eps, 0)
        check.one_of("GroupNorm", "act", act, GROUP_NORM_ACTS)
        self.weight, self.bias = ones(num_channels), zeros(num_channels)
        self.num_groups, self.eps, self.act = num_groups, eps, act

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, act=self.act)


class Embedding(Module):
    """Integers (...) in [0, count) -> (..., d), rows of weight (count, d); initial values N(0, 1)."""

    def __init__(self, count, d, std=1.0):
        _counts(self, count=count, d=d)
        check.number("Embedding", "std", std, 0)
        self.weight = normal((count, d), std)

    def forward(self, ids):
        return F.embedding(ids, self.weight)


class Dropout(Module):
    def __init__(self, p=0.5):
        check.probability("Dropout", "p", p)
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, self.training)


class MultiHeadAttention(Module):
    """Attention in h heads of width d = D / h (Vaswani et al. 2017, section 3.2.2), for self- and cross-attention.

    Keys have no bias: it would add the same number to all scores of a row, which softmax ignores. Values have none
    either: softmax sums to one, so that it would be part of the output's.
    """

    def __init__(self, d_model, heads):
        _counts(self, d_model=d_model, heads=heads)
        if d_model % heads:
            raise ValueError(f"MultiHeadAttention: d_model is {d_model}, should be a multiple of heads = {heads}")
        self.heads = heads
        self.q = Linear(d_model, d_model)
        self.kv = Linear(d_model, 2 * d_model, bias=False)
        self.out = Linear(d_model, d_model)

    def _split(self, x):
        b, t, d = x.shape
        return x.reshape(b, t, self.heads, d // self.heads).transpose(0, 2, 1, 3)  # (B, h, T, d)

    def keys_values(self, memory):
        """memory (B, Tk, D) -> keys and values, each (B, h, Tk, d)."""
        kv = self.kv(memory)
        half = kv.shape[-1] // 2
        k, v = F.split(kv, (half, half))  # (B, Tk, D) each
        return self._split(k), self._split(v)

    def forward(self, x, kv=None, **options):
        """x (B, T, D) attends to itself, or to kv = keys_values(memory); options as F.attention's -> (B, T, D)."""
        k, v = self.keys_values(x) if kv is None else kv
        y = F.attention(self._split(self.q(x)), k, v, **options)  # (B, h, T, d)
        return self.out(y.transpose(0, 2, 1, 3).reshape(x.shape))  # (B, T, h, d) -> (B, T, D)


class Sequential(Module):
    """Modules one after the other."""

    def __init__(self, *layers):
        if not all(isinstance(layer, Module) for layer in layers):
            check.fail("Sequential", "layers", check.shown(layers), "Modules", TypeError)
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

"""The Transformer's block, which GPT and the encoder-decoder share (Vaswani et al. 2017; pre-norm: Xiong et al. 2020).

    x = x + attention(norm1(x))
    x = x + attention(norm3(x), memory)        in a decoder that looks at an encoder's output
    x = x + mlp(norm2(x))

Every `x + branch` is followed by a norm, if only the next block's, so a block takes and returns the pair (branch, x)
with the sum still to be made: adding, dropping out and normalising are then one operation, F.add_layer_norm.

B batch, T tokens, h heads, d head width, D model width. # next: core/nn.py (MultiHeadAttention), models/gpt.py
"""

import math

import numpy as np

import core.functional as F
from core import Tensor, nn, random
from core.arrays import array_module
from core.dispatch import run_


class MLP(nn.Module):
    """D -> 4 D, exact GELU, -> D."""

    def __init__(self, d_model):
        self.up = nn.Linear(d_model, 4 * d_model, act="gelu")
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        return self.down(self.up(x))  # (B, T, 4 D) -> (B, T, D)


class Block(nn.Module):
    """Self-attention, cross-attention if `cross`, and an MLP."""

    def __init__(self, d_model, heads, dropout, cross=False):
        self.dropout = dropout
        self.norm1, self.attn = nn.LayerNorm(d_model), nn.MultiHeadAttention(d_model, heads)
        if cross:
            self.norm3, self.cross = nn.LayerNorm(d_model), nn.MultiHeadAttention(d_model, heads)
        self.norm2, self.mlp = nn.LayerNorm(d_model), MLP(d_model)

    def forward(self, branch, x, *, causal=False, mask=None, memory=None, memory_mask=None, cache=None):
        """branch and x (B, T, D), branch None in the first block -> (branch, x).

        mask and memory_mask: (B, 1, 1, Tk), True where a key may be seen; memory: keys and values of the encoder's
        output for the cross-attention; cache: a Cache that this block's keys and values are appended to.
        """
        h, x = (self.norm1(x), x) if branch is None else self.norm1.after_add(branch, x, self.dropout)
        kv, offset = self.attn.keys_values(h), 0
        if cache is not None:
            kv, offset = cache.append(*kv)
        branch = self.attn(h, kv, causal=causal, causal_offset=offset, mask=mask)
        if memory is not None:
            h, x = self.norm3.after_add(branch, x, self.dropout)
            branch = self.cross(h, memory, mask=memory_mask)
        h, x = self.norm2.after_add(branch, x, self.dropout)
        return self.mlp(h), x


class Stack(nn.Module):
    """Blocks one after the other, and the final norm."""

    def __init__(self, layers, d_model, heads, dropout, cross=False):
        self.dropout = dropout
        self.blocks = [Block(d_model, heads, dropout, cross) for _ in range(layers)]
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x, *, memories=None, caches=None, **options):
        """x (B, T, D) -> (B, T, D); memories and caches: one per block; options as Block's."""
        branch = None
        for i, block in enumerate(self.blocks):
            memory, cache = (None if v is None else v[i] for v in (memories, caches))
            branch, x = block(branch, x, memory=memory, cache=cache, **options)
        return self.norm.after_add(branch, x, self.dropout)[0]


class Cache:
    """Keys and values of the tokens one block has seen, (B, h, Tmax, d) each, so that decoding looks at each once."""

    def __init__(self, batch, heads, length, width):
        xp = random.current().xp
        self.k, self.v = (xp.zeros((batch, heads, length, width), np.float32) for _ in range(2))
        self.length = 0

    def append(self, k, v):
        """((all keys, all values), causal offset for these queries)."""
        offset = self.length
        for buffer, new in ((self.k, k), (self.v, v)):
            run_("cache_", buffer, new.data, offset)
        self.length += k.shape[2]
        return (Tensor(self.k[:, :, : self.length]), Tensor(self.v[:, :, : self.length])), offset

    def reorder(self, index):
        """Row i becomes what row index[i] was: beam search follows its survivors."""
        index = array_module(self.k).asarray(index)
        self.k, self.v = self.k[index], self.v[index]


def initialise(model: nn.Module, layers: int, std: float = 0.02):
    """GPT-2's initial values: N(0, std^2) weights, zero biases; the `layers` residual branches end 1/sqrt(layers)
    smaller, so that the sum's variance does not grow with depth (Radford et al. 2019, section 2.3)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.assign_(random.normal(module.weight.shape) * np.float32(std))
            if module.bias is not None:
                module.bias.assign_(np.zeros(module.bias.shape, np.float32))
    for module in model.modules():
        if isinstance(module, nn.MultiHeadAttention | MLP):
            end = module.out if isinstance(module, nn.MultiHeadAttention) else module.down
            end.weight.assign_(end.weight.data * np.float32(1 / math.sqrt(layers)))


def sinusoids(length, d_model):
    """Fixed positions (T, D): sines and cosines of wavelengths from 2 pi to 20,000 pi, in turn (Vaswani et al. 2017,
    3.5)."""
    cos, sin = np.split(F.timestep_embedding(np.arange(length), d_model).data, 2, axis=1)  # (T, D / 2) each
    return np.stack([sin, cos], axis=-1).reshape(length, d_model)

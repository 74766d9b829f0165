"""GPT and the encoder-decoder in PyTorch: the same pre-norm block, written the usual way."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from bench.torch_models.base import Counterpart, Dropout, cosine, schedule

PAD = 0


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d, bias=False), nn.Linear(d, d)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, T, d)

    def forward(self, x, memory=None, mask=None, causal=False, cache=None):
        k, v = self.kv(x if memory is None else memory).chunk(2, -1)
        q, k, v = self.split(self.q(x)), self.split(k), self.split(v)
        if cache is not None:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Cache:
    """Keys and values that one block has seen, (B, h, Tmax, d) each."""

    def __init__(self, like, batch, heads, length, width):
        self.k, self.v = (like.new_zeros(batch, heads, length, width) for _ in range(2))
        self.length = 0

    def append(self, k, v):
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class MLP(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, d, heads, dropout, cross):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(d), Attention(d, heads)
        if cross:
            self.norm3, self.cross = nn.LayerNorm(d), Attention(d, heads)
        self.norm2, self.mlp, self.drop = nn.LayerNorm(d), MLP(d), Dropout(dropout)

    def forward(self, x, mask=None, causal=False, memory=None, memory_mask=None, cache=None):
        x = x + self.drop(self.attn(self.norm1(x), mask=mask, causal=causal, cache=cache))
        if memory is not None:
            x = x + self.drop(self.cross(self.norm3(x), memory, memory_mask))
        return x + self.drop(self.mlp(self.norm2(x)))


class Stack(nn.Module):
    def __init__(self, c, cross=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(c.d_model, c.heads, c.dropout, cross) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.d_model)

    def forward(self, x, caches=None, **options):
        for i, block in enumerate(self.blocks):
            x = block(x, cache=None if caches is None else caches[i], **options)
        return self.norm(x)


class GPT(nn.Module):
    def __init__(self, c, vocab):
        super().__init__()
        self.config = c
        self.wte, self.wpe = nn.Embedding(vocab, c.d_model), nn.Embedding(c.context, c.d_model)
        self.drop, self.stack = Dropout(c.dropout), Stack(c)

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V)"""
        x = self.drop(self.wte(ids) + self.wpe.weight[: ids.shape[1]])
        return F.linear(self.stack(x, causal=True), self.wte.weight)

    def caches(self, batch):
        c = self.config
        size = batch, c.heads, c.context, c.d_model // c.heads
        return [Cache(self.wte.weight, *size) for _ in range(c.layers)]

    def next_logits(self, ids, caches):
        """Logits (B, V) of the token after ids (B, T): a prompt while the caches are empty, then one token a call."""
        start = caches[0].length
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        return F.linear(self.stack(x, causal=start == 0, caches=caches)[:, -1], self.wte.weight)


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.table, self.drop = nn.Embedding(c.vocab, c.d_model), Dropout(c.dropout)
        self.scale = math.sqrt(c.d_model) if c.positions == "sinusoidal" else 1.0
        for name in ("source_positions", "target_positions"):
            positions = torch.zeros(c.length, c.d_model)
            if c.positions == "sinusoidal":
                self.register_buffer(name, positions)
            else:
                self.register_parameter(name, nn.Parameter(positions))
        self.encoder, self.decoder = Stack(c), Stack(c, cross=True)

    def embed(self, ids, positions):
        return self.drop(self.table(ids) * self.scale + positions[: ids.shape[1]])

    def forward(self, source, target):
        """source (B, Ts), target (B, Tt) -> logits (B, Tt, V)"""
        mask = (source != PAD)[:, None, None]
        memory = self.encoder(self.embed(source, self.source_positions), mask=mask)
        y = self.embed(target, self.target_positions)
        return F.linear(self.decoder(y, causal=True, memory=memory, memory_mask=mask), self.table.weight)


class TokenCounterpart(Counterpart):
    METRICS, PARTS = ("loss", "grad_norm"), ("loss",)

    def learning_rate(self):
        """step -> learning rate."""
        raise TypeError(f"{type(self).__name__} has no learning rate")

    def optimisation(self):
        c, parameters = self.config, list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": c.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.rate(c.lr), betas=(0.9, c.beta2), **self.adam)
        return {"all": optimizer}, {"all": schedule(optimizer, self.learning_rate())}

    def train_step(self, *batch):
        with self.autocast():
            loss = self.loss(*batch)
        self.backward("all", loss)
        self.scaler.unscale_(self.optimizers["all"])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizers["all"])
        self.scaler.update()
        return loss.detach(), norm

    def loss(self, *batch):
        *inputs, target = batch
        logits = self.model(*inputs)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), **self.loss_options())

    def loss_options(self) -> dict:
        return {}


class GPTCounterpart(TokenCounterpart):
    def build(self, trainer):
        return GPT(trainer.config, trainer.vocab)

    def learning_rate(self):
        c = self.config
        return cosine(c.lr, c.steps, c.warmup, c.floor)


class Seq2SeqCounterpart(TokenCounterpart):
    def build(self, trainer):
        return Transformer(trainer.config)

    def learning_rate(self):
        c = self.config
        return lambda step: c.lr * min((step + 1) / c.warmup, math.sqrt(c.warmup / (step + 1)))

    def loss_options(self):
        return {"ignore_index": PAD, "label_smoothing": self.config.label_smoothing}

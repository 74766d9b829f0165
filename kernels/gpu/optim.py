"""State operations: optimiser steps and gradient clipping on all tensors in one launch; the random step, the KV cache.

    Adam     m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;  p -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
    SGD      b = mu b + g;  p -= lr b      (nesterov: p -= lr (g + mu b))
    average  a += (1 - decay)(p - a)
    clip     norm = sqrt(sum of g^2);  g *= min(max_norm / (norm + 1e-6), 1)
    unscale  g /= scale, or 0 where any g is not finite; the scale grows or falls

Shapes      lists of arrays of any shape; lr, step, norm, scale and flags are 0-dimensional and stay on the device
Plan        arrays of one role have addresses in a table (tensors, 1 + roles): length, then one address for each role. A
            list of chunks (programs, 2) gives each program its tensor and its first element; it updates BLOCK elements
            there. Both are built on the host once for a set of addresses and copied to the device. clip: each program
            sums its squares, one program adds the sums in order and takes the root, then all scale. unscale: each
            counts what is not finite, one adds the counts and writes flag and scale, then all write 0 where the flag is
            0. A step whose flag `taken` is 0 stores nothing
Cost        Adam 28 bytes a parameter (reads p, g, m, v; writes p, m, v), SGD, average, clip 12, unscale 8
Precision   float32, bias corrections and the norm in float64: b^t by exp, in each program, costs nothing beside memory
Versions    one launch for each tensor: 5 to 10 microseconds of the host for each. One flat buffer for all parameters:
            no table, but parameters would no longer be arrays of their own
Limits      one dtype: arrays of another dtype or layout are copied, and copied back where they change. A captured graph
            has the tables' addresses: it holds them, and they are copied beside it (core/runtime/capture.py)
Source      multi-tensor apply is NVIDIA apex's (multi_tensor_apply.cuh)
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/launch.py, how kernels are started
"""

import functools
import math

import numpy as np
import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.runtime.capture import hold, upload
from kernels.gpu.common import address, contiguous, write_back
from kernels.launch import blocks, launch

TYPES = {"float32": tl.float32, "float16": tl.float16}


# --- all tensors in one launch ----------------------------------------


@triton.jit
def _chunk(table_ptr, chunks_ptr, ROLES: tl.constexpr, BLOCK: tl.constexpr):
    """This program's row of the table, its offsets into the tensor, and which of them are inside."""
    chunk = chunks_ptr + 2 * tl.program_id(0)
    row_ptr = table_ptr + tl.load(chunk) * (1 + ROLES)
    o = tl.load(chunk + 1) + tl.arange(0, BLOCK)
    return row_ptr, o, o < tl.load(row_ptr)


@triton.jit
def _array(row_ptr, ROLE: tl.constexpr, TYPE: tl.constexpr):
    """Where the tensor of this role starts."""
    return tl.load(row_ptr + 1 + ROLE).to(tl.pointer_type(TYPE))


@triton.jit
def _if_taken(inside, taken_ptr):
    """What to store of the elements `inside`: all, or none where a flag is given and is 0."""
    if taken_ptr is not None:
        inside = tl.where(tl.load(taken_ptr) != 0.0, inside, False)
    return inside


@triton.jit
def _adam(
    table_ptr, chunks_ptr, lr_ptr, step_ptr, taken_ptr, log_b1, log_b2, new1, new2, b2, eps, decay,
    DECAY: tl.constexpr, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step on BLOCK elements of one parameter; DECAY is None, "l2" or "decoupled"; new1 = 1 - b1, new2 = 1 - b2."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    p_ptr, m_ptr = _array(row_ptr, 0, TYPE) + o, _array(row_ptr, 2, TYPE) + o
    g_ptr, v_ptr = _array(row_ptr, 1, TYPE) + o, _array(row_ptr, 3, TYPE) + o
    lr, t = tl.load(lr_ptr).to(tl.float64), tl.load(step_ptr).to(tl.float64)
    rate = (lr / (1.0 - tl.exp(t * log_b1))).to(tl.float32)
    root = tl.sqrt(1.0 - tl.exp(t * log_b2)).to(tl.float32)
    p = tl.load(p_ptr, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(g_ptr, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(m_ptr, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr, mask=inside, other=0.0).to(tl.float32)
    if DECAY == "decoupled":
        p *= (1.0 - lr * decay).to(tl.float32)
    elif DECAY == "l2":
        g += decay * p
    m += (g - m) * new1
    v = v * b2 + g * g * new2
    inside = _if_taken(inside, taken_ptr)
    tl.store(p_ptr, p - rate * m / (tl.sqrt(v) / root + eps), mask=inside)
    tl.store(m_ptr, m, mask=inside)
    tl.store(v_ptr, v, mask=inside)


@triton.jit
def _sgd(
    table_ptr, chunks_ptr, lr_ptr, taken_ptr, momentum, decay, MOMENTUM: tl.constexpr, DECAY: tl.constexpr,
    NESTEROV: tl.constexpr, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step on BLOCK elements of one parameter."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    p_ptr, g_ptr = _array(row_ptr, 0, TYPE) + o, _array(row_ptr, 1, TYPE) + o
    p = tl.load(p_ptr, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(g_ptr, mask=inside, other=0.0).to(tl.float32)
    if DECAY:
        g += decay * p
    stored = _if_taken(inside, taken_ptr)
    if MOMENTUM:
        b_ptr = _array(row_ptr, 2, TYPE) + o
        b = tl.load(b_ptr, mask=inside, other=0.0).to(tl.float32) * momentum + g
        tl.store(b_ptr, b, mask=stored)
        if NESTEROV:
            g += momentum * b
        else:
            g = b
    tl.store(p_ptr, p - tl.load(lr_ptr).to(tl.float32) * g, mask=stored)


@triton.jit
def _ema(table_ptr, chunks_ptr, taken_ptr, new, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK elements of one average move towards their parameter; new = 1 - decay."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    a_ptr = _array(row_ptr, 0, TYPE) + o
    a = tl.load(a_ptr, mask=inside, other=0.0).to(tl.float32)
    p = tl.load(_array(row_ptr, 1, TYPE) + o, mask=inside, other=0.0).to(tl.float32)
    tl.store(a_ptr, a + (p - a) * new, mask=_if_taken(inside, taken_ptr))


@triton.jit
def _squares(table_ptr, chunks_ptr, part_ptr, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr):
    """part[program] = the sum of the squares of its BLOCK elements."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    g = tl.load(_array(row_ptr, 0, TYPE) + o, mask=inside, other=0.0).to(tl.float64)
    tl.store(part_ptr + tl.program_id(0), tl.sum(g * g, 0))


@triton.jit
def _norm(part_ptr, norm_ptr, n, BLOCK: tl.constexpr):
    """norm = the root of the sum of n partial sums: one program, in a fixed order."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, n, BLOCK):
        o = start + tl.arange(0, BLOCK)
        total += tl.load(part_ptr + o, mask=o < n, other=0.0)
    tl.store(norm_ptr, tl.sqrt(tl.sum(total, 0)))


@triton.jit
def _scale(table_ptr, chunks_ptr, norm_ptr, most, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK elements times min(most / norm, 1); a norm that is nan spreads."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    factor = most / (tl.load(norm_ptr) + 1e-6)
    factor = tl.where(factor >= 1.0, 1.0, factor).to(tl.float32)
    g_ptr = _array(row_ptr, 0, TYPE) + o
    tl.store(g_ptr, tl.load(g_ptr, mask=inside, other=0.0).to(tl.float32) * factor, mask=inside)


@triton.jit
def _unscale(
    table_ptr, chunks_ptr, scale_ptr, part_ptr, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """BLOCK elements over the scale; part[program] = how many of them are not finite then."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    g_ptr = _array(row_ptr, 0, TYPE) + o
    g = tl.load(g_ptr, mask=inside, other=0.0).to(tl.float32) * (1.0 / tl.load(scale_ptr))
    tl.store(g_ptr, g, mask=inside)
    tl.store(part_ptr + tl.program_id(0), tl.sum(tl.where(tl.abs(g) < float("inf"), 0, 1), 0))


@triton.jit
def _next_scale(
    part_ptr, scale_ptr, good_ptr, taken_ptr, n, growth, backoff, interval, BLOCK: tl.constexpr
):  # fmt: skip
    """taken = whether none of the n counts found anything; the scale and the good steps that follow: one program."""
    bad = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, n, BLOCK):
        o = start + tl.arange(0, BLOCK)
        bad += tl.load(part_ptr + o, mask=o < n, other=0)
    finite = tl.sum(bad, 0) == 0
    scale, good = tl.load(scale_ptr), tl.where(finite, tl.load(good_ptr) + 1, 0)
    larger = tl.where((good >= interval) & (scale * growth < float("inf")), scale * growth, scale)
    tl.store(taken_ptr, tl.where(finite, 1.0, 0.0))
    tl.store(scale_ptr, tl.where(finite, larger, scale * backoff))
    tl.store(good_ptr, tl.where(good >= interval, 0, good))


@triton.jit
def _clear(table_ptr, chunks_ptr, taken_ptr, TYPE: tl.constexpr, ROLES: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK elements become 0 where the flag is 0."""
    row_ptr, o, inside = _chunk(table_ptr, chunks_ptr, ROLES, BLOCK)
    tl.store(
        _array(row_ptr, 0, TYPE) + o, tl.zeros((BLOCK,), TYPE), mask=tl.where(tl.load(taken_ptr) == 0.0, inside, False)
    )


class Tensors:
    """Lists of arrays, one list a role, made ready for launches over all of them: `flat` holds C-contiguous arrays of
    one dtype, the given ones where they are that already. Where the first role is None the tensor is left out."""

    def __init__(self, *roles):
        self.roles = roles
        dtype = result_dtype(*roles[0]) or np.dtype(np.float32)
        self.flat = [[contiguous(a.astype(dtype, copy=False)) for a in role] for role in roles]
        config = blocks("optim", "each", dtype)
        xp, sizes = array_module(*roles[0]), tuple(a.size for a in roles[0])
        self.chunks = _chunks(xp, sizes, config["BLOCK"])
        addresses = tuple(tuple(map(address, of_one)) for of_one in zip(*self.flat))
        self.table = _table(xp, sizes, addresses, len(roles))
        hold(self.table, self.chunks)
        self.constants = {"TYPE": TYPES[str(dtype)], "ROLES": len(roles), **config}

    def launch(self, kernel, *arguments, **flags):
        launch(kernel, (len(self.chunks),), self.table, self.chunks, *arguments, **flags, **self.constants)

    def write_back(self, *changed):
        """The results of these roles to the arrays that had to be copied."""
        for role in changed:
            write_back(self.roles[role], self.flat[role])


@functools.lru_cache(maxsize=64)
def _chunks(xp, sizes, block):
    """(programs, 2): the tensor of each program and its first element there."""
    rows = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, block)]
    return upload(xp, np.array(rows, np.int64).reshape(len(rows), 2))


@functools.lru_cache(maxsize=64)
def _table(xp, sizes, addresses, roles):
    """(tensors, 1 + roles): length, and the address in each role."""
    rows = [(size, *a) for size, a in zip(sizes, addresses)]
    return upload(xp, np.array(rows, np.int64).reshape(len(rows), 1 + roles))


def _with_gradient(grads, *roles):
    """The lists without the tensors that have no gradient."""
    return [[a for a, g in zip(role, grads) if g is not None] for role in roles]


def adam_(params, grads, ms, vs, lr, step, taken=None, *, betas, eps, weight_decay, decoupled):
    """One step on lists of parameters; `step` counts this one already. Where a gradient is None nothing moves."""
    b1, b2 = betas
    tensors = Tensors(*_with_gradient(grads, params, grads, ms, vs))
    logs = (math.log(b) if b else -math.inf for b in betas)
    decay = ("decoupled" if decoupled else "l2") if weight_decay else None
    numbers = (*logs, 1 - b1, 1 - b2, b2, eps, weight_decay)
    tensors.launch(_adam, lr, step, taken, *map(float, numbers), DECAY=decay)
    tensors.write_back(0, 2, 3)


def sgd_(params, grads, buffers, lr, taken=None, *, momentum, weight_decay, nesterov):
    """One step of gradient descent; buffers that start at zero make the first step's momentum g itself, as in torch."""
    tensors = Tensors(*_with_gradient(grads, params, grads, buffers))
    flags = {"MOMENTUM": bool(momentum), "DECAY": bool(weight_decay), "NESTEROV": nesterov}
    tensors.launch(_sgd, lr, taken, float(momentum), float(weight_decay), **flags)
    tensors.write_back(0, 2)


def ema_(averages, params, taken=None, *, decay):
    """Moving averages of parameters: a += (1 - decay) (p - a)."""
    tensors = Tensors(averages, params)
    tensors.launch(_ema, taken, float(1 - decay))
    tensors.write_back(0)


def clip_grad_norm_(grads, *, max_norm):
    """Scale all gradients in place so that their joint 2-norm is at most max_norm; returns the norm before."""
    xp, tensors = array_module(*grads), Tensors(grads)
    parts, norm = xp.empty(len(tensors.chunks), "float64"), xp.empty((), "float64")
    tensors.launch(_squares, parts)
    launch(_norm, (1,), parts, norm, parts.size, **blocks("optim", "norm", "any"))
    tensors.launch(_scale, norm, float(max_norm))
    tensors.write_back(0)
    return norm


def unscale_(grads, scale, good, taken, *, growth, backoff, interval):
    """Divide all gradients by `scale` in place, or make them 0 where one is not finite; `taken` becomes 1, or 0."""
    tensors = Tensors(grads)
    parts = array_module(scale).empty(len(tensors.chunks), "int32")
    tensors.launch(_unscale, scale, parts)
    numbers = parts.size, float(growth), float(backoff), interval
    launch(_next_scale, (1,), parts, scale, good, taken, *numbers, **blocks("optim", "norm", "any"))
    tensors.launch(_clear, taken)
    tensors.write_back(0)

"""Optimisers and learning-rate schedules, with PyTorch's semantics.

Everything that changes from step to step (moments, step, learning rate) lives in arrays that are allocated once and
updated in place, and nothing branches on a device value: a captured step can be replayed.
"""

import numpy as np

from core import check
from core.arrays import array_module, module_for
from core.dispatch import run_
from core.engine import Tensor


class Optimizer:
    """Base: named parameters, a step count and a learning rate.

    parameters: {name: Parameter}; lr: a number, or a schedule, a function of the number of steps already taken.
    """

    def __init__(self, parameters: dict, lr):
        own = type(self).__name__
        if not isinstance(parameters, dict) or not all(isinstance(p, Tensor) for p in parameters.values()):
            check.fail(own, "parameters", f"a {type(parameters).__name__}", "a dict of Parameters", TypeError)
        if not parameters:
            check.fail(own, "parameters", "empty", "a dict of one Parameter or more")
        if not callable(lr):
            check.number(own, "lr", lr, 0)
        self.parameters = parameters
        xp = array_module(*(p.data for p in parameters.values()))
        self.steps = xp.zeros((), np.int64)
        self.lr = xp.zeros((), np.float64)
        self.schedule = lr if callable(lr) else lambda step: lr
        self.moments: dict = {}  # suffix -> {name: array}

    def moment(self, suffix):
        """One array of zeros per parameter, saved as <name>.<suffix>."""
        xp = array_module(self.steps)
        self.moments[suffix] = {name: xp.zeros_like(p.data) for name, p in self.parameters.items()}
        return self.moments[suffix]

    def state(self) -> dict:
        """{key: array}, the arrays themselves: `step`, and `<name>.m`, `<name>.v`."""
        arrays = {f"{name}.{suffix}": a for suffix, group in self.moments.items() for name, a in group.items()}
        return {"step": self.steps, **arrays}

    def step(self, taken=None):
        """Update every parameter that has a gradient, in place. `taken`: what LossScale.unscale_ gave; at 0 parameters,
        moments and the step count keep every bit."""
        self.lr[...] = self.schedule(self.steps)
        self.steps += 1 if taken is None else taken.astype(np.int64)
        params = list(self.parameters.values())
        self._update([p.data for p in params], [p.grad for p in params], taken, *self._moment_lists())
        for p in params:
            p.bump_()

    def _moment_lists(self):
        return [list(group.values()) for group in self.moments.values()]

    def _update(self, params, grads, taken, *moments):
        raise TypeError(f"{type(self).__name__} has no update of its own")

    def zero_grad(self):
        for p in self.parameters.values():
            p.grad = None


class SGD(Optimizer):
    """Gradient descent with momentum and L2 penalty (Sutskever et al. 2013), as torch.optim.SGD."""

    def __init__(self, parameters, lr=1e-3, momentum=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(parameters, lr)
        check.number("SGD", "momentum", momentum, 0)
        check.number("SGD", "weight_decay", weight_decay, 0)
        check.flag("SGD", "nesterov", nesterov)
        if nesterov and not momentum:
            check.fail("SGD", "momentum", momentum, "above 0 with nesterov")
        self.options = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        self.moment("m")

    def _update(self, params, grads, taken, ms):
        run_("sgd_", params, grads, ms, self.lr, taken, **self.options)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), as torch.optim.Adam: weight decay is an L2 penalty.

    One step count serves all parameters (PyTorch keeps one each): they differ only where a parameter goes without a
    gradient for some steps.
    """

    decoupled = False

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(parameters, lr)
        own = type(self).__name__
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            check.fail(own, "betas", check.shown(betas), "two numbers in [0, 1)")
        for b in betas:
            check.number(own, "betas", b, 0, 1, without_high=True)
        check.number(own, "eps", eps, 0)
        check.number(own, "weight_decay", weight_decay, 0)
        self.options = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "decoupled": self.decoupled}
        self.moment("m")
        self.moment("v")

    def _update(self, params, grads, taken, ms, vs):
        run_("adam_", params, grads, ms, vs, self.lr, self.steps, taken, **self.options)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW."""

    decoupled = True

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(parameters, lr, betas, eps, weight_decay)


def clip_grad_norm_(parameters, max_norm: float):
    """Scale the gradients of `parameters` in place so that their joint 2-norm is at most `max_norm`.

    Returns the norm before, a 0-dimensional array; nothing is read from the device."""
    check.number("clip_grad_norm_", "max_norm", max_norm, 0)
    parameters = list(parameters)
    if not all(isinstance(p, Tensor) for p in parameters):
        check.fail("clip_grad_norm_", "parameters", check.shown(parameters), "Parameters", TypeError)
    return run_("clip_grad_norm_", [p.grad for p in parameters if p.grad is not None], max_norm=max_norm)


def ema_(averages, parameters, decay: float, taken=None):
    """Move `averages`, Tensors like `parameters`, in place towards them: a = decay a + (1 - decay) p (Polyak & Juditsky
    1992 took the plain mean). `taken` as for `Optimizer.step`: at 0 they keep every bit."""
    check.number("ema_", "decay", decay, 0, 1)
    averages, parameters = list(averages), list(parameters)
    check.matches("ema_", "averages", [a.shape for a in averages], [p.shape for p in parameters])
    run_("ema_", [a.data for a in averages], [p.data for p in parameters], taken, decay=decay)
    for a in averages:
        a.bump_()


class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018, section 3.2), so that small gradients survive float16.

        loss.backward(scale.scale)             # gradients `scale` times as large
        taken = scale.unscale_(parameters)     # divided again, or all 0 where one overflowed
        optimizer.step(taken)                  # which then changes nothing

    Numbers and rules are torch.amp.GradScaler's: an overflow halves the scale, `interval` steps without one double it.
    All of it stays on the device and nothing branches on it, so that a step can be captured. One LossScale serves one
    loss; several optimisers may follow. A float16 loss holds scales to 2**15, which the first step finds out.
    """

    def __init__(self, device="cpu", *, initial=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        if not 0 < initial < np.inf:
            check.fail("LossScale", "initial", check.shown(initial), "a finite number above 0")
        if not growth > 1 or not 0 < backoff < 1:
            check.fail("LossScale", "growth, backoff", (growth, backoff), "above 1, and between 0 and 1")
        check.count("LossScale", "interval", interval)
        xp = module_for(device)
        self.scale = xp.full((), initial, np.float32)
        self.good = xp.zeros((), np.int64)  # steps taken since the scale last changed
        self.taken = xp.ones((), np.float32)
        self.options = {"growth": growth, "backoff": backoff, "interval": interval}

    def state(self) -> dict:
        """{key: array}, the arrays themselves: what a checkpoint keeps."""
        return {"scale": self.scale, "good": self.good}

    def unscale_(self, parameters):
        """Divide the gradients by the scale in place and choose the next scale; gives the flag for `Optimizer.step`: 1,
        or 0 where a gradient was not finite, and then all are made 0."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if any(g.dtype == np.float16 for g in grads):  # it would underflow again
            check.fail(
                "LossScale", "a gradient", "float16", "that of a float32 parameter, cast where it is used", TypeError
            )
        run_("unscale_", grads, self.scale, self.good, self.taken, **self.options)
        return self.taken


# --- schedules: the learning rate as a function of the steps already taken, without a branch -----------------


def constant(lr: float, warmup: int = 0):
    """Rise in `warmup` steps, lr/warmup first, then stay at `lr`."""
    check.number("constant", "lr", lr, 0)
    check.count("constant", "warmup", warmup, 0)

    def schedule(step):
        return lr * array_module(step).minimum((step + 1) / max(warmup, 1), 1.0)

    return schedule


def cosine(lr: float, total: int, warmup: int = 0, floor: float = 0.0):
    """Rise in `warmup` steps, then fall along half a cosine to `floor` at step `total` (Loshchilov & Hutter 2017)."""
    for name, value in (("lr", lr), ("floor", floor)):
        check.number("cosine", name, value, 0)
    for name, value, least in (("total", total, 1), ("warmup", warmup, 0)):
        check.count("cosine", name, value, least)

    def schedule(step):
        xp = array_module(step)
        done = xp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
        rise = xp.minimum((step + 1) / max(warmup, 1), 1.0)
        return rise * (floor + (lr - floor) * 0.5 * (1 + xp.cos(np.pi * done)))

    return schedule


def inverse_sqrt(lr: float, warmup: int):
    """Rise in `warmup` steps to `lr`, then fall as 1/sqrt(step) (Vaswani et al. 2017, equation 3)."""
    check.number("inverse_sqrt", "lr", lr, 0)
    check.count("inverse_sqrt", "warmup", warmup)

    def schedule(step):
        t = step + 1
        return lr * array_module(step).minimum(t / warmup, (warmup / t) ** 0.5)

    return schedule

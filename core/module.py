"""Modules: what holds parameters, finds them by name, and gives and takes them as one dictionary.

A module's parameters, buffers and children are its attributes, found in the order in which they were set, so the names
in `state_dict` are the attribute names joined by dots ("blocks.0.attn.q.weight"), as in PyTorch.

# next: core/nn.py, the layers
"""

import contextlib

from core import check
from core.arrays import as_array
from core.engine import Tensor


class Parameter(Tensor):
    """A tensor that training changes."""

    __slots__ = ()

    def __init__(self, array):
        super().__init__(array, requires_grad=True)


class Module:
    """Base of all layers and models: set Parameters, Tensors (buffers) and Modules as attributes, or lists of them."""

    training = True

    def forward(self, *args, **options):
        raise TypeError(f"{type(self).__name__} has no forward of its own")

    def __call__(self, *args, **options):
        return self.forward(*args, **options)

    def members(self):
        """(name, value) of every attribute; what is in a list or dictionary is called name.0, name.key, ..."""
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", v) for key, v in value.items())
            else:
                yield name, value

    def modules(self):
        """This module and all below it."""
        yield self
        for _, value in self.members():
            if isinstance(value, Module):
                yield from value.modules()

    def named_tensors(self, prefix=""):
        """(name, tensor) of every parameter and buffer, here and below."""
        for name, value in self.members():
            if isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_tensors(f"{prefix}{name}.")

    def named_parameters(self) -> dict:
        """{name: Parameter}; a parameter that is shared (a tied table) comes once, under its first name."""
        found: dict = {}
        for name, t in self.named_tensors():
            if isinstance(t, Parameter) and not any(t is u for u in found.values()):
                found[name] = t
        return found

    def parameters(self) -> list:
        return list(self.named_parameters().values())

    def state_dict(self) -> dict:
        """{name: array} of parameters and buffers: the arrays themselves, not copies."""
        return {name: t.data for name, t in self.named_tensors()}

    def load_state_dict(self, arrays: dict):
        """Write `arrays` into the module's own memory. Nothing is written unless names, shapes and dtypes all fit."""
        check.mapping("load_state_dict", "arrays", arrays)
        own = dict(self.named_tensors())
        if own.keys() != arrays.keys():
            missing, extra = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
            raise ValueError(f"load_state_dict: missing {missing or 'none'}, unexpected {extra or 'none'}")
        for name, t in own.items():
            a = as_array(arrays[name], f"load_state_dict: {name}")
            if (a.shape, a.dtype) != (t.shape, t.dtype):
                raise ValueError(
                    f"load_state_dict: {name} is {a.dtype} of shape {a.shape}, should be {t.dtype} of {t.shape}"
                )
        for name, t in own.items():
            t.assign_(arrays[name])

    def train(self, mode: bool = True):
        """Dropout drops and batch norm uses the batch's statistics (mode True), or neither does (False)."""
        check.flag("train", "mode", mode)
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        return self.train(False)

    def zero_grad(self):
        for p in self.parameters():
            p.grad = None

    @contextlib.contextmanager
    def seen(self):
        """`with model.seen():` what passes has passed before: batch norms leave their running statistics alone."""
        norms = [m for m in self.modules() if hasattr(m, "moving")]
        for norm in norms:
            norm.moving = False
        try:
            yield self
        finally:
            for norm in norms:
                norm.moving = True

    @contextlib.contextmanager
    def frozen(self):
        """`with model.frozen():` gradients pass through the module, but its parameters get none."""
        before = [(p, p.requires_grad) for p in self.parameters()]
        for p, _ in before:
            p.requires_grad = False
        try:
            yield self
        finally:
            for p, wanted in before:
                p.requires_grad = wanted

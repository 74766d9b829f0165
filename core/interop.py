"""Weights to and from PyTorch's layouts, without importing torch: both sides are arrays here.

Names agree already. Layouts differ for 4-dimensional weights only: ours are (KH, KW, Cin, Cout) for conv2d and
(KH, KW, Cout, Cin) for conv_transpose2d; PyTorch's are (Cout, Cin, KH, KW) and (Cin, Cout, KH, KW). One permutation,
which swaps the two pairs and the members of the channel pair, serves both.
"""

import numpy as np

from core import check
from core.arrays import array_module, as_array


def to_torch(array):
    """One of our weights in PyTorch's layout, a copy."""
    array = as_array(array, "to_torch: array")
    return array_module(array).array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array, order="C")


def from_torch(array):
    """One of PyTorch's weights in our layout, a copy."""
    array = as_array(array, "from_torch: array")
    return array_module(array).array(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array, order="C")


def to_torch_state_dict(state: dict) -> dict:
    """Our state_dict as PyTorch's, still NumPy arrays (torch.from_numpy makes tensors of them).

    PyTorch's batch norms also count their batches; the count, which only momentum=None reads, is 0."""
    check.mapping("to_torch_state_dict", "state", state)
    counters = {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in state if _is_statistic(name)}
    return {**{name: to_torch(a) for name, a in state.items()}, **{name: np.array(0) for name in counters}}


def _is_statistic(name):
    return name.rpartition(".")[2] == "running_mean"


def from_torch_state_dict(state: dict) -> dict:
    """PyTorch's state_dict (tensors or arrays) as ours, without batch norm's step counters."""
    check.mapping("from_torch_state_dict", "state", state)
    return {name: from_torch(a) for name, a in state.items() if not name.endswith("num_batches_tracked")}

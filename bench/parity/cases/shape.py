"""Moving numbers: reshape, transpose, indexing, joining, splitting, other dtypes."""

import numpy as np
import torch

from bench.parity.cases.inputs import Case, F, ids, normal

NAN = float("nan")
ROWS = np.array([2, 0, 2, 2])  # one row three times: its gradients add up
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, True, False]])


def same(name, f, *make, **options):
    """A case whose expression reads the same on our Tensors and on torch's."""
    return Case(name, f, f, make, **options)


CASES = [
    same("reshape/flat", lambda x: x.reshape(12), normal(3, 4)),
    same("reshape/minus-one", lambda x: x.reshape(2, -1), normal(3, 4)),
    same("reshape/tuple", lambda x: x.reshape((1, 4, 3, 1)), normal(3, 4)),
    same("reshape/to-0d", lambda x: x.reshape(()), normal(1, 1)),
    same("reshape/from-0d", lambda x: x.reshape(1, 1), normal()),
    same("reshape/empty", lambda x: x.reshape(3, 0), normal(0, 2)),
    same("reshape/of-transposed", lambda x: x.T.reshape(12), normal(3, 4)),
    same("transpose/default", lambda x: x.T, normal(3, 4)),
    Case("transpose/cycle", lambda x: x.transpose(1, 2, 0), lambda x: x.permute(1, 2, 0), (normal(2, 3, 4),)),
    Case("transpose/negative", lambda x: x.transpose((0, -1, 1)), lambda x: x.permute(0, -1, 1), (normal(2, 3, 4),)),
    Case("transpose/0d", lambda x: x.transpose(), lambda x: x, (normal(),)),
    Case(
        "broadcast_to/rows",
        lambda x: F.broadcast_to(x, (3, 2, 4)),
        lambda x: x.broadcast_to((3, 2, 4)),
        (normal(2, 1),),
    ),
    Case("broadcast_to/0d", lambda x: F.broadcast_to(x, (3,)), lambda x: x.broadcast_to((3,)), (normal(),)),
    Case("broadcast_to/empty", lambda x: F.broadcast_to(x, (0, 2)), lambda x: x.broadcast_to((0, 2)), (normal(1, 2),)),
    Case(
        "astype/narrow",
        lambda x: x.astype("float32") * 1.5,
        lambda x: x.to(torch.float32) * 1.5,
        (normal(3, 4),),
        smooth=False,
    ),
    Case("astype/widen", lambda x: x.astype("float64") * 1.5, lambda x: x.to(torch.float64) * 1.5, (normal(3, 4),)),
    same("getitem/row", lambda x: x[1], normal(3, 4)),
    same("getitem/element", lambda x: x[1, -1], normal(3, 4)),
    same("getitem/slice", lambda x: x[1:, ::2], normal(3, 5)),
    same("getitem/empty-slice", lambda x: x[3:], normal(3, 4)),
    same("getitem/ellipsis", lambda x: x[..., 1], normal(2, 3, 4)),
    same("getitem/new-axis", lambda x: x[:, None, 1:], normal(3, 4)),
    Case("getitem/reversed", lambda x: x[::-1], lambda x: x.flip(0), (normal(3, 4),)),
    same("getitem/rows-repeated", lambda x: x[ROWS], normal(3, 4)),
    same("getitem/list", lambda x: x[[0, 0, 2]], normal(3, 4)),
    same("getitem/pairs", lambda x: x[[0, 1, 1], [2, 0, 0]], normal(3, 4)),
    same("getitem/rows-of-columns", lambda x: x[1:, ROWS], normal(3, 4)),
    same("getitem/mask", lambda x: x[MASK], normal(3, 4)),
    same("getitem/mask-of-rows", lambda x: x[MASK[:, 0]], normal(3, 4)),
    same("getitem/ids-as-input", lambda x, i: x[i], normal(5, 2), ids(5, 2, 3)),
    Case(
        "concatenate/first",
        lambda x, y: F.concatenate([x, y]),
        lambda x, y: torch.cat([x, y]),
        (normal(2, 3), normal(4, 3)),
    ),
    Case(
        "concatenate/last-with-empty",
        lambda x, y, z: F.concatenate((x, y, z), axis=-1),
        lambda x, y, z: torch.cat((x, y, z), -1),
        (normal(2, 3), normal(2, 0), normal(2, 1)),
    ),
    Case("concatenate/one", lambda x: F.concatenate([x], 1), lambda x: torch.cat([x], 1), (normal(2, 3),)),
    Case("concatenate/same-twice", lambda x: F.concatenate([x, x], 1), lambda x: torch.cat([x, x], 1), (normal(2, 3),)),
    Case("split/last", lambda x: F.split(x, (1, 3, 2)), lambda x: torch.split(x, (1, 3, 2), -1), (normal(2, 6),)),
    Case(
        "split/first-with-empty",
        lambda x: F.split(x, [2, 0, 1], axis=0),
        lambda x: torch.split(x, [2, 0, 1], 0),
        (normal(3, 2),),
    ),
]

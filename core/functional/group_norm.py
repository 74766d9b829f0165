"""Group norm."""

from core import check
from core.dispatch import run
from core.functional.arguments import norm_arguments

GROUP_NORM_ACTS = (None, "silu")


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, act=None):
    """act(normalised x) over each image's pixels and the channels of a group (Wu & He 2018): x (N, ..., C), weight and
    bias (C,) or None; num_groups divides C; act is None or "silu"."""
    op = "group_norm"
    x, weight, bias = norm_arguments(op, x, weight, bias, eps, ("weight", "bias"))
    if x.ndim < 2:
        check.fail(op, "x", f"of shape {x.shape}", "(N, ..., C)")
    check.count(op, "num_groups", num_groups)
    if x.shape[-1] % num_groups:
        check.fail(op, "num_groups", num_groups, f"a divisor of x's {x.shape[-1]} channels")
    check.one_of(op, "act", act, GROUP_NORM_ACTS)
    return run(op, x, weight, bias, num_groups=int(num_groups), eps=eps, act=act)

"""Batch norm over a batch that several processes share: in training it normalises by the statistics of all ranks.

The x of all ranks have the same shape. Results, running statistics and gradients are those of one process that holds
the whole batch, but for rounding; each rank's gradients of weight and bias are its own, to be summed with all others.

# why: docs/distributed.md
"""

from core import nn
from core.functional.batch_norm import by_operation
from core.runtime.distributed import a_process_group


def sync_batch_norm(x, *arguments, group, **options):
    """F.batch_norm of x (..., C), one rank's share, by the statistics of all ranks of `group`; arguments as there."""
    a_process_group("sync_batch_norm", group)
    return by_operation("sync_batch_norm", x, *arguments, **options, ranks=group.size, group=group)


class SyncBatchNorm(nn.BatchNorm):
    """SyncBatchNorm(norm, group): takes the place of a BatchNorm, with its parameters, statistics and options."""

    def __init__(self, norm: nn.BatchNorm, group):
        vars(self).update(vars(norm))
        self.group = group

    def normalise(self, *arguments, **options):
        return sync_batch_norm(*arguments, group=self.group, **options)


def convert(module: nn.Module, group):
    """Make every batch norm in `module` a SyncBatchNorm, as torch.nn.SyncBatchNorm.convert_sync_batchnorm does."""
    for part in list(module.modules()):
        for name, value in list(vars(part).items()):
            if isinstance(value, nn.BatchNorm):
                setattr(part, name, SyncBatchNorm(value, group))

"""The public functions: they check their arguments, and each builds one operation.

    import core.functional as F

Arguments are Tensors or arrays; names, options and defaults are PyTorch's, with `axis` for `dim`. Images are
(N, H, W, C). Every function raises ValueError, TypeError or IndexError with the argument's name, what it was and what
it should be. What an operation computes is written in core/reference, file by file.
"""

from core import operators  # noqa: F401  (attached to Tensor where its functions are used)
from core.functional.adversarial import discriminator_loss, generator_loss
from core.functional.attention import attention
from core.functional.batch_norm import batch_norm
from core.functional.conv import conv2d, conv_transpose2d
from core.functional.cross_entropy import cross_entropy, linear_cross_entropy
from core.functional.embedding import embedding, timestep_embedding
from core.functional.group_norm import group_norm
from core.functional.layer_norm import add_layer_norm, layer_norm
from core.functional.matmul import linear, matmul
from core.functional.pointwise import (
    abs,
    clip,
    exp,
    gelu,
    leaky_relu,
    log,
    maximum,
    minimum,
    relu,
    sigmoid,
    silu,
    softplus,
    sqrt,
    tanh,
    where,
)
from core.functional.random import dropout
from core.functional.reparameterize import reparameterize
from core.functional.shape import broadcast_to, concatenate, split
from core.functional.softmax import log_softmax, softmax
from core.functional.upsample import upsample_nearest
from core.functional.variational import bce_with_logits, elbo, gaussian_kl

__all__ = [
    "abs",
    "add_layer_norm",
    "attention",
    "batch_norm",
    "bce_with_logits",
    "broadcast_to",
    "clip",
    "concatenate",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "discriminator_loss",
    "dropout",
    "elbo",
    "embedding",
    "exp",
    "gaussian_kl",
    "gelu",
    "generator_loss",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "matmul",
    "maximum",
    "minimum",
    "relu",
    "reparameterize",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "tanh",
    "timestep_embedding",
    "upsample_nearest",
    "where",
]

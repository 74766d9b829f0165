"""The shapes that time is spent on: the models' own layers, at the sizes of the presets `demo` and `paper`.

Kept apart from the cases of the tests: these are large and regular where those are small and fit no block. The benches
time them; `make test-all` tests them too, because rounding errors grow with the length of a sum."""

import math

import torch.nn.functional as TF

from bench.parity.cases.attention import attention
from bench.parity.cases.batch_norm import train
from bench.parity.cases.conv import conv, deconv
from bench.parity.cases.cross_entropy import classes
from bench.parity.cases.embedding import timesteps
from bench.parity.cases.group_norm import group
from bench.parity.cases.inputs import Case, F, coin, ids, normal, unit
from bench.parity.cases.layer_norm import add_norm, norm
from bench.parity.cases.upsample import upsample
from bench.parity.cases.variational import BCE, elbo


def fan(shape, fan_in):
    """Weights of the size that keeps a layer's output at unit scale."""
    return normal(*shape, scale=1 / math.sqrt(fan_in))


GAN = {"stride": 2, "padding": 2, "output_padding": 1, "bias": False}

IMAGES = [
    deconv("gan-up1-demo", (32, 7, 7, 32), (5, 5, 32, 32), padding=2, bias=False),
    deconv("gan-up2-demo", (32, 7, 7, 32), (5, 5, 32, 32), **GAN),
    deconv("gan-up3-demo", (32, 14, 14, 32), (5, 5, 32, 32), **GAN),
    deconv("gan-up2-paper", (32, 7, 7, 128), (5, 5, 128, 128), **GAN),
    deconv("gan-up3-paper", (32, 14, 14, 128), (5, 5, 128, 128), **GAN),
    deconv("vae-up2", (64, 14, 14, 64), (4, 4, 64, 64), stride=2, padding=1, act="leaky_relu"),
    deconv("vae-up3", (64, 28, 28, 64), (3, 3, 32, 64), padding=1, act="leaky_relu"),
    conv("gan-out-demo", (32, 28, 28, 32), (5, 5, 32, 1), padding=2, bias=False, act="tanh"),
    conv("gan-down1-demo", (32, 28, 28, 1), (5, 5, 1, 32), stride=2, padding=2, act="leaky_relu"),
    conv("gan-down2-demo", (32, 14, 14, 32), (5, 5, 32, 32), stride=2, padding=2, act="leaky_relu"),
    conv("gan-down2-paper", (32, 14, 14, 128), (5, 5, 128, 128), stride=2, padding=2, act="leaky_relu"),
    conv("vae-down2", (64, 14, 14, 32), (3, 3, 32, 64), stride=2, padding=1, act="leaky_relu"),
    train("gan-norm3-demo", (32, 28, 28, 32), act="leaky_relu"),
    train("gan-norm3-paper", (64, 28, 28, 128)),
    train("gan-norm3-paper-leaky", (64, 28, 28, 128), act="leaky_relu"),
    train("gan-norm0-paper", (256, 6272), act="leaky_relu"),
    group("unet-28", (64, 28, 28, 64), 8, act="silu"),
    group("unet-14", (64, 14, 14, 64), 8, act="silu"),
    group("unet-7", (64, 7, 7, 128), 32, act="silu"),
    group("unet-attention", (64, 7, 7, 128), 8),
    upsample("unet-7", (64, 7, 7, 128)),
    upsample("unet-14", (64, 14, 14, 64)),
    timesteps("unet", 128, 128),
]

SHAPES = ((12, 4, 64, 32), (32, 8, 128, 32), (8, 6, 256, 64), (4, 8, 1024, 64))  # (B, h, T, d)

TOKENS = [
    *(attention(f"{'x'.join(map(str, q))}", q=q) for q in SHAPES),
    *(attention(f"{'x'.join(map(str, q))}-causal", q=q, causal=True) for q in SHAPES),
    attention("gpt-demo", q=(16, 4, 64, 32), causal=True),
    attention("gpt-small", q=(8, 8, 128, 32), causal=True),
    attention("gpt-paper", q=(1, 12, 1024, 64), causal=True),
    attention("seq2seq-cross-demo", q=(32, 4, 40, 32), mask=coin(32, 1, 1, 40, p=0.6)),
    norm("gpt-small", 4096, 256),
    norm("gpt-demo", 768, 128),
    add_norm("gpt-small-dropped", 4096, 256, p=0.1),
    Case(
        "linear/gpt-small-up",
        lambda x, w, b: F.linear(x, w, b, act="gelu"),
        lambda x, w, b: TF.gelu(TF.linear(x, w, b)),
        (normal(4096, 256), fan((1024, 256), 256), normal(1024)),
    ),
    Case(
        "embedding/seq2seq-demo", lambda i, w: F.embedding(i, w), TF.embedding, (ids(4000, 32, 40), normal(4000, 128))
    ),
]

LOSSES = [
    elbo("vae", (64, 28, 28, 1), 20),
    *classes("gpt-demo", (1024, 61), None, width=128),
    *classes("seq2seq-demo", (1280, 4000), None, width=128, label_smoothing=0.1),
    Case(
        "bce_with_logits/vae-pixels",
        lambda x, t: F.bce_with_logits(x, t, reduction="sum"),
        lambda x, t: BCE(x, t, reduction="sum"),
        (normal(64, 784, scale=3.0), unit(64, 784)),
        fixed=(1,),
    ),
]

CASES = [*IMAGES, *TOKENS, *LOSSES]

"""The shapes that only a GPU is asked: too large for a CPU to compute, or to test, in a test.

They are those of the targets (bench/gpu/targets.py) whose published figures are for such sizes. `make gpu-check` tests
and times them in float16, against float64 by torch on the GPU; no test on a CPU makes their arrays.
"""

import numpy as np

from bench.parity.cases.attention import attention
from bench.parity.cases.conv import deconv
from bench.parity.cases.cross_entropy import classes


def quick(*shape, scale=1.0):
    """As `normal`, in float32 from the start: a thousand million numbers take half the time and memory."""
    return lambda rng: rng.standard_normal(shape, np.float32) * np.float32(scale)


WIDE = (4, 16, 4096, 128)  # (B, h, T, d)
UP = {"stride": 2, "padding": 1, "bias": False}

CASES = [
    attention("4x16x4096x128", q=WIDE, maker=quick),
    attention("4x16x4096x128-causal", q=WIDE, maker=quick, causal=True),
    deconv("large-512-256", (32, 32, 32, 512), (4, 4, 256, 512), scale=512**-0.5, **UP),
    deconv("large-256-128", (32, 64, 64, 256), (4, 4, 128, 256), scale=256**-0.5, **UP),
    next(classes("8192x131072", (8192, 131072), None, maker=quick)),
]

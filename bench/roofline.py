"""The least time that a GPU could take: the work a case cannot do without, over what the device is sold for.

Work is counted from shapes: flops of products that nothing spares (taps inside the image only, keys that a causal mask
leaves), bytes of every input read once and every result written once, and no more, whatever our kernels or the
baselines read again. A floor is the larger of the two times. Peaks are the vendors' own, dense, at boost clocks."""

import math
from typing import NamedTuple

import numpy as np


class Peaks(NamedTuple):
    """Of one device: flops a second in tensor cores, and bytes a second of its memory."""

    float16: float
    tf32: float
    memory: float


PEAKS = {  # by what is in the device's name, of which the first that fits holds
    "h200": Peaks(989.5e12, 494.7e12, 4.8e12),
    "h100-80gb-hbm3": Peaks(989.5e12, 494.7e12, 3.35e12),
    "a100-sxm4-80gb": Peaks(312e12, 156e12, 2.039e12),
    "a100-sxm4-40gb": Peaks(312e12, 156e12, 1.555e12),
    "dry": Peaks(1e12, 1e12, 1e12),  # no device: so that a dry run comes through here
}


def peaks(name) -> Peaks | None:
    return next((found for part, found in PEAKS.items() if part in name), None)


def floor_ms(work, precision, peak) -> dict:
    """{"floor_ms", "of": "flops" or "bytes"} of (flops, bytes). A float32 product is three TF32 ones: the fastest way
    known to have its digits, 2.5 times as fast as the ordinary cores."""
    rate = peak.float16 if precision.dtype == "float16" else peak.tf32 / (1 if precision.tf32 else 3)
    times = {"flops": work[0] / rate, "bytes": work[1] / peak.memory}
    of = max(times, key=lambda name: times[name])
    return {"floor_ms": 1e3 * times[of], "of": of}


def work(case, arrays, results) -> dict:
    """{"forward": (flops, bytes), "forward and backward": ...}, and of a convolution "weight gradient"; `results` are
    (outputs, gradients) as arrays."""
    outputs, gradients = results
    size = lambda some: sum(a.nbytes for a in some if a is not None)
    forward, backward = flops(case, arrays, outputs)
    there = size(arrays) + size(outputs)
    back = size(gradients) + size(outputs)  # dy has the outputs' size
    found = {"forward": (forward, there), "forward and backward": (forward + backward, there + back)}
    if case.op in ("conv2d", "conv_transpose2d"):  # as many products as forward; x and dy are read, dw is written
        found["weight gradient"] = forward, size((arrays[0], outputs[0], arrays[1]))
    return found


def flops(case, arrays, outputs) -> tuple[int, int]:
    """Of the products in the forward and in the backward pass; (0, 0) where there are none."""
    if case.op in ("conv2d", "conv_transpose2d"):
        images = (arrays[0], outputs[0]) if case.op == "conv2d" else (outputs[0], arrays[0])
        forward = 2 * len(arrays[0]) * math.prod(arrays[1].shape[2:]) * _links(*images, arrays[1], case.options)
        return forward, 2 * forward
    if case.op == "attention":
        q, k, v = arrays[:3]
        pairs = math.prod(q.shape[:2]) * _pairs(q.shape[2], k.shape[2], case.options)
        d, dv = q.shape[3], v.shape[3]
        return 2 * pairs * (d + dv), 2 * pairs * (3 * d + 2 * dv)
    if case.op in ("linear", "linear_cross_entropy"):
        forward = 2 * arrays[0].size * len(arrays[1])
        return forward, 2 * forward
    return 0, 0


def _links(large, small, w, options) -> int:
    """Pairs (pixel of the smaller image, tap) that meet inside the larger one."""
    found = 1
    for axis in (0, 1):
        step, padding, apart = (_axis(options.get(name, default), axis) for name, default in OPTIONS.items())
        at = step * np.arange(small.shape[1 + axis])[:, None] + apart * np.arange(w.shape[axis])[None, :] - padding
        found *= int(((at >= 0) & (at < large.shape[1 + axis])).sum())
    return found


OPTIONS = {"stride": 1, "padding": 0, "dilation": 1}


def _axis(option, axis) -> int:
    return option[axis] if isinstance(option, tuple) else option


def _pairs(queries, keys, options) -> int:
    """Pairs (query, key) that causality leaves; what a mask hides may be anywhere, so it is not taken off."""
    if not options.get("causal"):
        return queries * keys
    seen = np.arange(queries) + 1 + options.get("causal_offset", 0)
    return int(np.clip(seen, 0, keys).sum())

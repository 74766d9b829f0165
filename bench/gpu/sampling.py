"""Who samples on a GPU: ours and torch eager, images and text. As with training, all are held to ours on the CPU.

A call makes a batch of images from noise, or the rest of a context from a prompt, a token at a time with kept keys and
values; it ends with the results on the host. Ours picks each token on the host, as `generate` does, torch on the
device. Tokens are the likeliest ones: choosing by chance would time the choosing.
"""

from typing import Any

import numpy as np

from bench.gpu.steppers import EAGER, IMAGES, Side, difference, on_device
from core import dispatch, random

CONTENDERS = "ours", EAGER
PROMPT = 8  # tokens


def made(t) -> int:
    """How many things a call makes one after the other: a batch of images at once, tokens one by one."""
    return 1 if t.kind in IMAGES else t.config.context - PROMPT


def make(device, who, t, batch, precision) -> Side:
    """The contender, once it was seen to make the same as `t`, which is on the CPU."""
    return (_images if t.kind in IMAGES else _text)(device, who, t, batch, precision)


# --- images ----------------------------------------


def _images(device, who, t, batch, precision) -> Side:
    with dispatch.use("reference"), random.record() as draws:
        wanted = {"images": t.sample(batch)}
    if who == "ours":
        other = on_device(device, t)

        def sample():
            with dispatch.use(tf32=precision.tf32):
                return other.sample(batch)

        return Side(difference(wanted, {"images": sample()}), lambda: sample)
    counterpart, draw = _counterpart(device, t), draws[-1]
    images = _without_gradients(lambda z: counterpart.images(z).cpu().numpy())
    return Side(
        difference(wanted, {"images": images(counterpart.tensor(draw))}),
        lambda: lambda: images(counterpart.normal(*draw.shape)),
    )


def _counterpart(device, t) -> Any:
    import torch

    from bench.torch_models import COUNTERPARTS

    form = torch.channels_last if t.kind in IMAGES else torch.contiguous_format
    counterpart = COUNTERPARTS[t.kind](t, memory_format=form, device=device.torch)
    counterpart.model.eval()
    return counterpart


def _without_gradients(f):
    import torch

    return torch.inference_mode()(f)


# --- text ----------------------------------------


def _text(device, who, t, batch, precision) -> Side:
    prompt = np.resize(next(t.batches("test"))[0][0, :PROMPT], (batch, PROMPT))
    with dispatch.use("reference"):
        wanted = {"logits": _two_logits(t, prompt)}
    if who == "ours":
        other = on_device(device, t)

        def write():
            with dispatch.use(tf32=precision.tf32):
                return _written(other, prompt)

        with dispatch.use(tf32=precision.tf32):
            return Side(difference(wanted, {"logits": _two_logits(other, prompt)}), lambda: write)
    counterpart = _counterpart(device, t)
    found = _without_gradients(_two_logits_of_counterpart)(counterpart, prompt)
    return Side(
        difference(wanted, {"logits": found}),
        lambda: lambda: _without_gradients(_written_by_counterpart)(counterpart, prompt),
    )


def _two_logits(t, prompt):
    """Logits after the prompt, and after its last token once more: with keys and values kept."""
    with t.evaluating():
        caches = t.model.caches(len(prompt))
        return np.stack([t.model.next_logits(t.xp.asarray(ids), caches) for ids in (prompt, prompt[:, -1:])])


def _two_logits_of_counterpart(counterpart, prompt):
    caches = counterpart.model.caches(len(prompt))
    return np.stack(
        [counterpart.model.next_logits(counterpart.tensor(ids), caches).cpu() for ids in (prompt, prompt[:, -1:])]
    )


def _written(t, prompt):
    with t.evaluating():
        caches, ids, new = t.model.caches(len(prompt)), [], prompt
        for _ in range(made(t)):
            new = t.model.next_logits(t.xp.asarray(new), caches).argmax(-1)[:, None]
            ids.append(new)
    return np.concatenate(ids, axis=1)


def _written_by_counterpart(counterpart, prompt):
    import torch

    caches, ids, new = counterpart.model.caches(len(prompt)), [], counterpart.tensor(prompt)
    for _ in range(counterpart.config.context - PROMPT):
        new = counterpart.model.next_logits(new, caches).argmax(-1)[:, None]
        ids.append(new)
    return torch.cat(ids, 1).cpu().numpy()

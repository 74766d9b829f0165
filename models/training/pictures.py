"""What people would rather look at: grids of images, loss curves, samples of text."""

import io
import json
import math
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from core.checkpoint import write_atomically

ZOOM = 3  # screen pixels a pixel


def grid(images, columns=None):
    """Images (n, H, W) in [0, 1] side by side as one image, a white line between them."""
    n, h, w = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1), np.float32)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = image
    return sheet


def save_grid(path, images, columns=None):
    """Write images (n, H, W) in [0, 1] as a PNG."""
    sheet = grid(np.clip(images, 0, 1), columns).repeat(ZOOM, 0).repeat(ZOOM, 1)
    content = io.BytesIO()
    plt.imsave(content, sheet, cmap="gray", vmin=0, vmax=1, format="png")
    write_atomically(path, content.getvalue())


def save_set(path, images):
    """Write images (n, H, W) in [0, 1] as bytes, the array `images` of a packed .npz."""
    content = io.BytesIO()
    np.savez_compressed(content, images=(np.clip(images, 0, 1) * 255).round().astype(np.uint8))
    write_atomically(path, content.getvalue())


def save_samples(path, samples, columns=None) -> Path:
    """Write what a trainer's `sample` returned: images as path.png, texts and translations as path.txt."""
    path = Path(path)
    if isinstance(samples, np.ndarray):
        path = _ending(path, ".png")
        save_grid(path, samples, columns)
        return path
    path = _ending(path, ".txt")
    write_atomically(path, as_text(samples).encode("utf-8"))
    return path


def _ending(path, suffix):
    """`path` with `suffix`, where it has none."""
    if path.suffix not in ("", suffix):
        raise ValueError(f"{path}: its ending is {path.suffix}, should be {suffix}")
    return path if path.suffix else path.with_suffix(suffix)


def as_text(samples) -> str:
    if isinstance(samples[0], tuple):
        names = ("source", "ours", "reference")
        samples = ["\n".join(f"{n:<10} {part}" for n, part in zip(names, sample)) for sample in samples]
        return "\n\n".join(samples) + "\n"
    return f"\n{'-' * 80}\n".join(s.strip("\n") for s in samples) + "\n"


def save_losses(path, lines):
    """Draw metrics.jsonl: each figure faintly, and its moving average over a fiftieth of the run."""
    records = [json.loads(line) for line in lines]
    if not records:
        return
    steps = np.array([r["step"] for r in records])
    names = [n for n in records[0] if n not in ("step", "seconds")]
    figure, axes = plt.subplots(len(names), 1, figsize=(7, 2.2 * len(names) + 0.6), sharex=True, squeeze=False)
    width = max(1, len(records) // 50)
    for axis, name in zip(axes[:, 0], names):
        values = np.array([r[name] for r in records], np.float64)
        axis.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axis.plot(steps[len(steps) - len(smooth) :], smooth, color="tab:blue")
        # The first steps' height would flatten all that follows.
        low, high = np.percentile(values[len(values) // 10 :], [0, 99.5])
        margin = 0.08 * (high - low) or 1
        axis.set_ylim(low - margin, high + margin)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    write_atomically(path, png(figure))


def png(figure) -> bytes:
    """A matplotlib figure as a PNG; the figure is closed."""
    figure.tight_layout()
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    plt.close(figure)
    return content.getvalue()

"""Draws the figures of docs/kernels: `python docs/figures.py` writes them into docs/images/kernels.

Every number in a figure comes from the arithmetic in this file or from the constants of the kernels, none from a
measurement. The same input gives the same bytes.
"""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

FOLDER = Path(__file__).parent / "images" / "kernels"
BLUE, ORANGE, GREEN, PINK = "#8fb8de", "#f3bf7f", "#9fd0a8", "#e3a6c0"
PHASES = {(0, 0): BLUE, (0, 1): ORANGE, (1, 0): GREEN, (1, 1): PINK}
INK, PALE = "#222222", "#eeeeee"


def _save(figure, name):
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, bbox_inches="tight")
    plt.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MEDIANCUT)  # a third of the bytes
    few.save(FOLDER / f"{name}.png", optimize=True)


def _cell(axis, x, y, colour, text="", width=1.0, height=1.0, size=8, weight="normal"):
    """One box whose upper left corner is (x, y), y downwards."""
    axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=1.2))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK, weight=weight)


def _frame(axis, width, height, title="", left=0.0, top=0.0):
    axis.set_xlim(left, width)
    axis.set_ylim(height, top)
    axis.set_aspect("equal")
    axis.axis("off")
    axis.set_title(title, fontsize=9)


def _arrow(axis, start, stop):
    axis.add_patch(FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1))


# --- convolution ----------------------------------------


def transposed_phases(taps=5, stride=2, padding=2, size=4):
    """Along one axis every link of output, tap and input; in the plane which taps belong to which phase."""
    out = stride * size
    figure = plt.figure(figsize=(8.2, 6.2))
    axis = figure.add_axes((0.02, 0.53, 0.96, 0.43))
    apart, links = 1.6, []
    for h in range(out):
        for i in range(taps):
            position = h + padding - i
            if position % stride == 0 and 0 <= position // stride < size:
                links.append((h, i, position // stride))
    for h, i, q in links:
        colour = "#3d7fb8" if h % stride == 0 else "#d08a2c"
        x0, x1 = apart * (h + 0.5), apart * (stride * q + 1)
        axis.plot((x0, x1), (3.2, 1.0), color=colour, linewidth=1.1, zorder=0)
        at = 0.27 if h % stride == 0 else 0.52
        label = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}
        axis.text(x0 + at * (x1 - x0), 3.2 - at * 2.2, f"{i}", bbox=box, **label)
    for q in range(size):
        _cell(axis, apart * (stride * q + 1) - 0.6, 0.2, PALE, f"input {q}", 1.2, 0.8)
    for h in range(out):
        colour = BLUE if h % stride == 0 else ORANGE
        _cell(axis, apart * (h + 0.5) - 0.6, 3.2, colour, f"output {h}", 1.2, 0.8)
    title = "one axis, kernel 5, stride 2, padding 2, output_padding 1: the number on a line is the tap"
    _frame(axis, apart * out, 4.1, title, top=0)
    axis.set_aspect("auto")

    left = figure.add_axes((0.05, 0.03, 0.28, 0.42))
    for h in range(6):
        for w in range(6):
            _cell(left, w, h, PHASES[h % 2, w % 2], f"{h},{w}")
    _frame(left, 6, 6, "output pixels, coloured by phase")
    middle = figure.add_axes((0.37, 0.03, 0.28, 0.42))
    for i in range(taps):
        for j in range(taps):
            _cell(middle, j, i, PHASES[(i + padding) % 2, (j + padding) % 2], f"{i},{j}")
    _frame(middle, 5, 5, "taps, coloured by the phase they serve")
    right = figure.add_axes((0.69, 0.03, 0.3, 0.42))
    for line, phase in enumerate(PHASES):
        counts = [sum((r + padding - i) % stride == 0 for i in range(taps)) for r in phase]
        _cell(right, 0, line * 1.2, PHASES[phase], f"rows {phase[0]}, columns {phase[1]}", 3.3, 1)
        right.text(
            3.5, line * 1.2 + 0.5, f"{counts[0]} × {counts[1]} = {counts[0] * counts[1]} taps", va="center", size=8
        )
    right.text(0, 5.3, "9 + 6 + 6 + 4 = 25:\neach tap serves exactly one phase", va="center", size=8)
    _frame(right, 6, 5.8, "taps per output pixel")
    _save(figure, "convolution-phases")


def split_pixels(shares=4):
    """The weight gradient: shares of the pixels, a float32 partial each, then one sum in a fixed order."""
    figure, axis = plt.subplots(figsize=(8.2, 3.5))
    colours = (BLUE, ORANGE, GREEN, PINK)
    for s in range(shares):
        _cell(axis, 3 * s, 0.9, colours[s], f"share {s}", 2.9, 0.7)
        _cell(axis, 3 * s + 0.45, 3.0, colours[s], "", 2.0, 1.3)
        for x in (1, 2, 3):
            axis.plot((3 * s + 0.45 + x / 2,) * 2, (3.0, 4.3), color="white", linewidth=1)
        axis.plot((3 * s + 0.45, 3 * s + 2.45), (3.65, 3.65), color="white", linewidth=1)
        axis.text(3 * s + 1.45, 3.65, f"part[{s}]", ha="center", va="center", fontsize=8, weight="bold")
        _arrow(axis, (3 * s + 1.45, 1.7), (3 * s + 1.45, 2.9))
    axis.text(0, 0.55, "pixels of y, all images in one line: x patches and y are read once per tile of dw", fontsize=8)
    axis.text(12.2, 1.25, "_weights: a program makes\none tile of one part", fontsize=8, va="center")
    axis.text(0, 4.75, "parts: (KH KW A) rows × B columns each, float32; the white lines are tiles", fontsize=8)
    _cell(axis, 13.5, 3.0, PALE, "dw", 2.0, 1.3, 9, "bold")
    _arrow(axis, (11.7, 3.65), (13.4, 3.65))
    axis.text(12.55, 2.85, "_add_parts:\na fixed order", fontsize=8, ha="center")
    _frame(axis, 15.8, 5.0)
    _save(figure, "convolution-split-pixels")


# --- attention ----------------------------------------


def causal_tiles():
    """Which tiles of the scores are full, cut by the diagonal, or skipped, as the bound `hi` of _forward has it."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.9), width_ratios=(1, 1.25))
    tile = 4
    for axis, queries, keys in ((axes[0], 16, 16), (axes[1], 10, 23)):
        offset, counts = keys - queries, {"full": 0, "diagonal": 0, "skipped": 0}
        for first in range(0, queries, tile):
            height = min(tile, queries - first)
            for start in range(0, keys, tile):
                width = min(tile, keys - start)
                hi = min(keys, first + tile + offset)
                seen = [start + width - 1 <= i + offset for i in range(first, first + height)]
                kind = "skipped" if start >= hi else "full" if all(seen) else "diagonal"
                counts[kind] += 1
                colour = {"full": BLUE, "diagonal": ORANGE, "skipped": PALE}[kind]
                _cell(axis, start, first, colour, kind, width, height, 7 if width == tile else 6)
                for i in range(first, first + height):  # hidden pairs inside a tile that is computed
                    hidden = start + width - max(start, i + offset + 1)
                    if kind == "diagonal" and hidden > 0:
                        at = max(start, i + offset + 1)
                        axis.add_patch(Rectangle((at, i), hidden, 1, facecolor="white", alpha=0.65, zorder=2))
        _frame(axis, keys, queries)
        axis.axis("on")
        axis.set_xticks([*range(0, keys + 1, tile)])
        axis.set_yticks([*range(0, queries + 1, tile)])
        axis.tick_params(labelsize=7, length=2)
        axis.set_xlabel("key j", fontsize=8)
        axis.set_ylabel("query i", fontsize=8)
        told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        axis.set_title(f"Tq = {queries}, Tk = {keys}, offset {offset}\n{told}", fontsize=9)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout()
    _save(figure, "attention-tiles")


def online_softmax(blocks=6, width=8):
    """One row of scores: the running maximum and sum after each block of keys."""
    scores = np.random.default_rng(3).normal(0, 1, (blocks, width)) + 0.6 * np.arange(blocks)[:, None]
    m, total, maxima, totals, shrinks = -np.inf, 0.0, [], [], []
    for s in scores:
        most = max(m, s.max())
        shrinks.append(np.exp(m - most))
        total = total * shrinks[-1] + np.exp(s - most).sum()
        m = most
        maxima.append(m)
        totals.append(total)
    whole = np.exp(scores - scores.max()).sum()
    assert abs(total - whole) < 1e-12 * whole
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8.2, 4.6), sharex=True)
    keys = np.arange(blocks * width).reshape(blocks, width)
    for b in range(blocks):
        if b % 2:
            for axis in (top, bottom):
                axis.axvspan(b * width - 0.5, (b + 1) * width - 0.5, color=PALE, zorder=0)
    top.plot(keys.ravel(), scores.ravel(), ".", color="#555555", markersize=4, label="scores of one query")
    edges = np.arange(blocks + 1) * width - 0.5
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    top.stairs(maxima, edges, color="#3d7fb8", linewidth=2, baseline=None, label="m, the largest score so far")
    bottom.stairs(totals, edges, color="#d08a2c", linewidth=2, baseline=None, label="l, the sum so far")
    for b in range(blocks):
        text = f"× {shrinks[b]:.3f} + {totals[b] - (totals[b - 1] * shrinks[b] if b else 0):.3f}\n= {totals[b]:.3f}"
        bottom.text((b + 0.5) * width - 0.5, totals[b] + 0.3, text, ha="center", va="bottom", fontsize=7, bbox=box)
    bottom.axhline(whole, color=INK, linewidth=0.8, linestyle=":", label="the sum of exp(s - m) over all keys")
    bottom.set_ylim(0, max(totals) * 1.75)
    bottom.set_xlabel("key j; shaded and white: blocks of 8 keys", fontsize=8)
    for axis in (top, bottom):
        axis.legend(fontsize=7, loc="lower right", framealpha=0.9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, "attention-online-softmax")


# --- losses and traffic ----------------------------------------


def chunked_logits(vocabulary=50_257, chunk=1 << 26):
    """Bytes of logits (and their gradient) against rows: all at once, or in chunks of at most 2^26 elements."""
    rows = np.arange(128, 16_385, 128)
    most = chunk // vocabulary // 128 * 128
    whole, chunked = 4 * rows * vocabulary, 4 * np.minimum(rows, most) * vocabulary
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    axis.plot(rows, 2 * whole / 1e9, color="#a04040", label="all logits and their gradient: 8 rows V bytes")
    axis.plot(rows, whole / 1e9, color="#d08a2c", label="all logits: 4 rows V bytes")
    axis.plot(rows, chunked / 1e9, color="#3d7fb8", linewidth=2, label=f"one chunk, at most {most} rows")
    at = 8192
    for y in (8e-9 * at * vocabulary, 4e-9 * at * vocabulary, 4e-9 * most * vocabulary):
        axis.plot(at, y, "o", color=INK, markersize=3)
        axis.text(at + 150, y - 0.06, f"{y:.2f} GB", fontsize=8, va="top")
    axis.axvline(at, color=INK, linewidth=0.6, linestyle=":")
    axis.set_xlabel("rows = batch × tokens; dotted: 8 × 1,024", fontsize=8)
    axis.set_ylabel("GB (10^9 bytes), float32", fontsize=8)
    axis.set_title(f"V = {vocabulary:,}", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, "losses-chunks")


# Operation by operation: (what, bytes an element read, bytes an element written), float32. A vector of rows or columns
# beside the matrix, and a number, count as nothing.
BCE = [
    ("max(x, 0)", 4, 4), ("x t", 4, 4), ("difference", 8, 4), ("|x|", 4, 4), ("negate", 4, 4), ("exp", 4, 4),
    ("log1p", 4, 4), ("sum of both", 8, 4), ("mean", 4, 0),
]  # fmt: skip
BCE_BACK = [("sigmoid", 4, 4), ("- t", 4, 4), ("times dy / n", 4, 4)]
NORM = [
    ("x + residual", 8, 4), ("mean", 4, 0), ("r - mean", 4, 4), ("square", 4, 4), ("mean", 4, 0), ("times rstd", 4, 4),
    ("times w", 4, 4), ("+ b", 4, 4),
]  # fmt: skip
NORM_BACK = [
    ("g = dy w", 4, 4), ("mean g", 4, 0), ("g x^", 8, 4), ("mean", 4, 0), ("g - mean", 4, 4), ("x^ mean", 4, 4),
    ("difference", 8, 4), ("times rstd", 4, 4), ("dy x^", 8, 4), ("dw", 4, 0), ("db", 4, 0), ("+ dr", 8, 4),
]  # fmt: skip


def traffic(name, bars, title=""):
    """Bars of bytes an element: [(label, [(what, read, written), ...])]."""
    figure, axis = plt.subplots(figsize=(8.2, 0.5 * len(bars) + 0.9))
    for line, (_label, passes) in enumerate(bars):
        at = 0
        for i, (_, read, written) in enumerate(passes):
            for amount, colour in ((read, BLUE), (written, ORANGE)):
                axis.barh(line, amount, left=at, color=colour, edgecolor="white", linewidth=0.3, height=0.62)
                at += amount
            if i + 1 < len(passes):
                axis.plot((at, at), (line - 0.31, line + 0.31), color=INK, linewidth=0.9)
        words = f"{at} bytes, {len(passes)} passes" if len(passes) > 1 else f"{at} bytes, one pass"
        axis.text(at + 0.8, line, words, va="center", fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axis.invert_yaxis()
    longest = max(sum(r + w for _, r, w in passes) for _, passes in bars)
    axis.set_xlim(0, longest * 1.25)
    axis.set_xlabel("bytes an element; blue read, orange written; a black line ends a pass", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, name)


# --- norms and products ----------------------------------------


def two_stages(rows=12, programs=3):
    """Column sums: who reads which rows, the partial sums, and the second launch."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 4.0))
    colours = (BLUE, ORANGE, GREEN)
    panels = (
        ("layer norm, backward: every P-th block of rows", lambda row: row % programs, "dw, db"),
        ("batch norm: strips of rows", lambda row: row * programs // rows, "dw, db;\nmean, var"),
    )
    for axis, (title, owner, result) in zip(axes, panels):
        for row in range(rows):
            p = owner(row)
            _cell(axis, 0, row * 0.5, colours[p], f"block {row} of rows: program {p}", 5, 0.5, 7)
        for p in range(programs):
            _cell(axis, 6.6, 1.2 + 1.3 * p, colours[p], f"part[:, {p}]", 2.2, 0.7, 8)
            mine = [row for row in range(rows) if owner(row) == p]
            middle = 0.25 + 0.5 * (p if mine[1] - mine[0] > 1 else sum(mine) / len(mine))
            _arrow(axis, (5.1, middle), (6.5, 1.55 + 1.3 * p))
            _arrow(axis, (8.85, 1.55 + 1.3 * p), (9.9, 2.75))
        _cell(axis, 10.0, 2.3, PALE, "sums", 1.6, 0.9, 8, "bold")
        axis.text(8.3, 5.6, "first launch: float32 parts\nsecond launch: added in order", ha="center", fontsize=7)
        axis.text(10.9, 3.4, result, ha="center", va="top", fontsize=7)
        _frame(axis, 12.4, 6.3, title, top=-0.1)
    figure.tight_layout()
    _save(figure, "norms-two-stages")


def grouped_order(tiles_m=6, tiles_n=6, group=3, running=9):
    """The order of programs in _gemm, and which strips of the operands the first few of them read."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 4.0))
    for axis, height in zip(axes, (1, group)):
        for program in range(tiles_m * tiles_n):
            first = program // (height * tiles_n) * height
            tall, within = min(tiles_m - first, height), program % (height * tiles_n)
            row, column = first + within % tall, within // tall
            _cell(axis, column, row, BLUE if program < running else PALE, f"{program}")
        n = range(running)
        rows = {p // (height * tiles_n) * height + p % (height * tiles_n) % height for p in n}
        columns = {p % (height * tiles_n) // height for p in n}
        told = f"the first {running} programs read\n{len(rows)} strips of a and {len(columns)} of b"
        _frame(axis, tiles_n, tiles_m, f"GROUP = {height}: {told}")
    figure.tight_layout()
    _save(figure, "others-grouped-order")


def main():
    transposed_phases()
    split_pixels()
    causal_tiles()
    online_softmax()
    chunked_logits()
    fused = [("bce_with_logits", 4, 0)], [("its backward", 4, 4)]
    bars = zip(("forward, by operation", "forward, fused", "backward, by operation", "backward, fused"),
               (BCE, fused[0], BCE_BACK, fused[1]))  # fmt: skip
    traffic("losses-traffic", list(bars), "bce_with_logits, its mean, the target one number, float32")
    traffic(
        "norms-traffic",
        [
            ("forward, by operation", NORM),
            ("forward, add then layer norm", [("add", 8, 4), ("layer_norm", 4, 4)]),
            ("forward, fused", [("add_layer_norm", 8, 8)]),
            ("backward, by operation", NORM_BACK),
            ("backward, layer norm then add", [("layer_norm", 8, 4), ("add", 8, 4)]),
            ("backward, fused", [("add_layer_norm", 12, 4)]),
        ],
    )
    two_stages()
    grouped_order()


if __name__ == "__main__":
    main()

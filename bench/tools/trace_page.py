"""A recorded run (trace.py) as one HTML page: every array a grid of cells, every program a frame.

All geometry is made here, with the first program's frame drawn in, so that the page says something without JavaScript.
The script only moves classes and numbers: frames are lists of [first cell, how many, kind, opacity], in the order of
the page's pictures. Nothing is fetched: style, script and data lie in the page.
"""

import json
from html import escape
from typing import NamedTuple

import numpy as np

from bench.tools.trace_style import PAGE

READ, WRITTEN = 1, 2  # kinds of a cell, which add up
KINDS = ("", "r", "w", "b")
WIDEST = 80  # cells on an axis; a longer one is drawn in cells of several elements
CHANNELS = 16  # that share a cell in the pictures of a convolution
WIDTH, HEIGHT = 480, 240  # pixels of a picture, about
ROW = 3  # the row of a tile whose running values are shown first
IMAGES, WEIGHTS = ["images", "rows", "columns", "channels"], ["taps", "taps", "channels", "channels"]
# Arrays with taps among the arrays of a convolution; the others with four axes are images.
TAPS = {("conv._gather", "w"), ("conv_weight._weights", "part"), ("conv_weight._add_parts", "part")}
TAPS |= {("conv_weight._add_parts", "y")}


class View(NamedTuple):
    """How an array becomes cells: which axes go down and across, how long a cell is on each axis, what the axes are."""

    shape: tuple
    down: int
    across: int
    lengths: tuple
    names: tuple

    def counts(self):
        return tuple(-(-n // length) for n, length in zip(self.shape, self.lengths))

    def words(self) -> str:
        """The axes, for the page."""
        ways = {"down": self.down, "across": self.across}
        said = [f"{way}: {self._axis(i)}" for way, i in ways.items() if self.shape[i] > 1]
        rest = [i for i in range(len(self.shape)) if i not in (self.down, self.across) and self.shape[i] > 1]
        shared = [str(min(self.lengths[i], self.shape[i])) + " " + self.names[i] for i in rest if self.lengths[i] > 1]
        apart = [self._axis(i) for i in rest if self.counts()[i] > 1]
        said += ["a cell: " + " by ".join(shared)] if shared else []
        return "; ".join(said + (["a panel for each of " + ", ".join(apart)] if apart else []))

    def _axis(self, i):
        several = f", {self.lengths[i]} to a cell" if self.lengths[i] > 1 else ""
        return f"{self.names[i]} ({self.shape[i]}{several})"


class Figure(NamedTuple):
    """A picture: panels of rows and columns of cells, and what each frame lights up."""

    title: str
    words: list  # lines: what the axes are, how much is read and written
    size: tuple  # panels, rows, columns
    frames: list  # one a program
    everything: list  # all programs together


def view(kernel: str, name: str, shape) -> View:
    """Images by rows and columns, weights by taps, all else by its last two axes."""
    missing = min(len(shape) - 2, 0)  # a row or a number is drawn as an array of two axes
    shape = (*(1,) * -missing, *shape)
    n = len(shape)
    down, across, names = n - 2, n - 1, [f"axis {i + missing}" for i in range(n)]
    if kernel.startswith("conv") and n >= 4:
        taps = (kernel, name) in TAPS
        down, across = (n - 4, n - 3) if taps else (n - 3, n - 2)
        names = ["shares"] * (n - 4) + (WEIGHTS if taps else IMAGES)
    lengths = [CHANNELS if name == "channels" else 1 for name in names]
    for axis in (down, across):
        lengths[axis] = -(-shape[axis] // WIDEST)
    return View(shape, down, across, tuple(lengths), tuple(names))


def _cells(v: View):
    """((panels, rows, columns), the cell of each element)."""
    at = np.indices(v.shape).reshape(len(v.shape), -1) // np.array(v.lengths)[:, None]
    counts, panel = v.counts(), np.zeros(at.shape[1], int)
    for i in range(len(v.shape)):
        if i not in (v.down, v.across):
            panel = panel * counts[i] + at[i]
    rows, columns = counts[v.down], counts[v.across]
    return (int(panel.max()) + 1, rows, columns), (panel * rows + at[v.down]) * columns + at[v.across]


def _frame(kinds, shares) -> list:
    """[first cell, how many, kind, opacity] of cells that are touched; a faint cell is touched in part."""
    opacity = np.where(kinds > 0, np.round(0.2 + 0.8 * shares, 2), 0)
    edges = np.flatnonzero((np.diff(kinds) != 0) | (np.diff(opacity) != 0)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(kinds)]
    return [[a, b - a, int(kinds[a]), float(opacity[a])] for a, b in zip(starts, stops) if kinds[a]]


def _array_figure(launch, array) -> Figure:
    v = view(launch["kernel"], array["name"], array["shape"])
    size, cell = _cells(v)
    total = np.bincount(cell, minlength=int(np.prod(size)))
    frames = []
    for program in launch["programs"]:
        touched = {kind: _expanded(program[kind].get(array["name"], [])) for kind in ("reads", "writes")}
        read, written = (np.bincount(cell[touched[k]], minlength=len(total)) for k in ("reads", "writes"))
        frames.append(_frame(READ * (read > 0) + WRITTEN * (written > 0), np.maximum(read, written) / total))
    reads, writes = (np.bincount(cell, array[kind], len(total)) for kind in ("reads", "writes"))
    times = (reads + writes) / total
    everything = _frame(READ * (reads > 0) + WRITTEN * (writes > 0), times / max(times.max(), 1e-9))
    shape = " × ".join(map(str, array["shape"])) or "one number"
    return Figure(f"{array['name']}  {shape}  {array['dtype']}", [v.words(), traffic(array)], size, frames, everything)


def _expanded(runs):
    return np.concatenate([np.arange(first, first + n) for first, n in runs]) if runs else np.zeros(0, int)


def _walk_figure(launch) -> Figure:
    """Programs by blocks: which blocks each looked at."""
    walk, programs = launch["walk"], launch["programs"]
    blocks = -(-walk["length"] // walk["block"])
    seen = np.zeros((len(programs), len(programs), blocks), int)
    for i, program in enumerate(programs):
        for iteration in program["iterations"]:
            seen[i, i, iteration["start"] // walk["block"]] = READ
    frames = [_frame(one.reshape(-1), np.ones(one.size)) for one in seen]
    words = f"down: programs; across: blocks of {walk['block']} {walk['what']}; blank: skipped"
    together = _frame(seen.max(0).reshape(-1), np.ones(seen[0].size))
    return Figure("blocks that the loop visits", [words], (1, len(programs), blocks), frames, together)


# --- in HTML ----------------------------------------


def _svg(figure: Figure) -> str:
    """Cells in order, the first frame drawn in."""
    panels, rows, columns = figure.size
    px = max(4, min(14, WIDTH // columns, HEIGHT // rows))
    wide, high = columns * px + 6, rows * px + 6
    abreast = min(panels, max(1, WIDTH // wide))
    lit = {c: (kind, o) for first, n, kind, o in figure.frames[0] for c in range(first, first + n)}
    cells = []
    for i, (panel, row, column) in enumerate(np.ndindex(figure.size)):
        kind, opacity = lit.get(i, (0, 0))
        style = f' class="{KINDS[kind]}" style="fill-opacity:{opacity}"' if kind else ""
        x, y = panel % abreast * wide + column * px, panel // abreast * high + row * px
        cells.append(f'<path d="M{x} {y}h{px - 1}v{px - 1}h{1 - px}z"{style}/>')
    w, h = abreast * wide - 6, -(-panels // abreast) * high - 6
    box = f'viewBox="0 0 {w} {h}" width="{w}" role="img" aria-label="{escape(figure.title)}"'
    return f"<svg {box}>{''.join(cells)}</svg>"


def _amount(count: int) -> str:
    return f"{count / 1000:.1f} kB" if count >= 1000 else f"{count} bytes"


def traffic(array) -> str:
    """How much is read and written, against the size."""
    said, size = [], max(array["bytes"], 1)
    for kind, verb in (("reads", "read"), ("writes", "written")):
        times = array[kind]
        if any(times):
            moved = sum(times) * array["bytes"] // len(times)
            least, most = min(times), max(times)
            each = f"{most}" if least == most else f"{least} to {most}"
            said.append(f"{verb}: {_amount(moved)}, {moved / size:.3g} × its size; each element {each} ×")
    return "; ".join(said)


def _shown(figure: Figure) -> str:
    lines = "".join(f"<br>{escape(line)}" for line in figure.words if line)
    return f"<figure><figcaption><b>{escape(figure.title)}</b>{lines}</figcaption>{_svg(figure)}</figure>"


def _running(launch) -> str:
    """The table of values that run along with a loop, for one row of the tile; empty where there are none."""
    values = _values(launch)[0]
    if not values:
        return ""
    walk, rows = launch["walk"], len(next(iter(values.values()))[0])
    starts = range(0, walk["length"], walk["block"])
    head = "".join(f"<th>{walk['what']} {s} to {min(s + walk['block'], walk['length']) - 1}</th>" for s in starts)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{_text(column[ROW] if column else None)}</td>' for column in columns)}</tr>"
        for name, columns in values.items()
    )
    pick = f'<input type="range" class="row" min="0" max="{rows - 1}" value="{ROW}" aria-label="row of the tile">'
    title = f'Row <output class="which">{ROW}</output> of the tile after each block'
    meaning = "m is its largest score so far, l the sum of exp(score - m)"
    table = f"<table><tr><th></th>{head}</tr>{body}</table>"
    return f'<p>{title}: {meaning} <span class="js">{pick}</span></p>{table}'


def _text(value) -> str:
    return "skipped" if value is None else str(value)


def _values(launch) -> list:
    """For each program, {name: for each block the numbers of all rows, or None where it is skipped}."""
    walk, found = launch.get("walk"), []
    for program in launch["programs"]:
        names = [n for n in program["iterations"][0] if n != "start"] if program["iterations"] else []
        blocks = range(-(-walk["length"] // walk["block"])) if walk else ()
        iterations = {iteration["start"] // walk["block"]: iteration for iteration in program["iterations"]}
        found.append({n: [_rounded(iterations[b][n]) if b in iterations else None for b in blocks] for n in names})
    return found


def _rounded(numbers) -> list:
    return [float(f"{v:.4g}") if np.isfinite(v) else str(v) for v in numbers]


def _source(launch) -> str:
    """The kernel's lines, those that load or store marked."""
    lines = []
    for number, line in enumerate(launch["source"], launch["first"]):
        found = launch["lines"].get(str(number))
        text = f"{number:4} {escape(line.rstrip())}"
        lines.append(f"<mark>{text}  ← {', '.join(found)}</mark>" if found else text)
    last = launch["first"] + len(launch["source"]) - 1
    where = f"{launch['file']}, lines {launch['first']} to {last}"
    return f"<details><summary>{where}</summary><pre>" + "\n".join(lines) + "</pre></details>"


def _says(launch, number) -> str:
    program = launch["programs"][number]
    own = ", ".join(f"{name} {value}" for name, value in program["numbers"].items())
    return f"program {tuple(program['at'])}" + (f": {own}" if own else "")


def _section(launch, number, figures) -> str:
    """One launch: its head, its pictures, the running values, the source."""
    read = sum(sum(a["reads"]) * a["bytes"] // len(a["reads"]) for a in launch["arrays"])
    size = sum(a["bytes"] for a in launch["arrays"] if any(a["reads"]))
    given = ", ".join(f"{name} {value}" for name, value in {**launch["constants"], **launch["numbers"]}.items())
    grid = " × ".join(map(str, launch["grid"]))
    return (
        f"<section><h2>{number + 1}. {escape(launch['kernel'])}</h2><p>Grid {grid}. All programs together read "
        f"{_amount(read)} of arrays that hold {_amount(size)}.</p><p class=small>{escape(given)}</p>"
        f"<p class=says>{escape(_says(launch, 0))}</p>{_running(launch)}<div class=figures>"
        f"{''.join(map(_shown, figures))}</div>{_source(launch)}</section>"
    )


def _frames(launch, figures) -> dict:
    """What the script needs of one launch."""
    programs = [
        {"says": _says(launch, i), "cells": [f.frames[i] for f in figures], "values": values}
        for i, values in enumerate(_values(launch))
    ]
    return {"kernel": launch["kernel"], "programs": programs, "all": [f.everything for f in figures]}


def page(recording: dict) -> str:
    """The whole page."""
    sections, frames = [], []
    for number, launch in enumerate(recording["launches"]):
        figures = [_walk_figure(launch)] if "walk" in launch else []
        figures += [_array_figure(launch, array) for array in launch["arrays"]]
        sections.append(_section(launch, number, figures))
        frames.append(_frames(launch, figures))
    data = json.dumps(frames, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = f"{recording['op']}, {recording['case']}: {recording['what']}"
    parts = {"@TITLE@": escape(title), "@SECTIONS@": "\n".join(sections), "@DATA@": data}
    text = PAGE
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text

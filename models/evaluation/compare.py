"""All image models of several runs beside real images: one picture, one table."""

import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from core.checkpoint import write_atomically
from models.evaluation.report import shown, title
from models.training.pictures import grid, png

COLUMNS, ROWS = 14, 2  # images shown of each model
SHOWN = ("frechet", "precision", "recall", "density", "coverage")


def check_comparable(runs):
    """Figures in the features of two classifiers cannot be compared: all image runs must have the same data."""
    first, titles = runs[0], [title(run) for run in runs]
    for run, name in zip(runs, titles):
        if titles.count(name) > 1:
            raise ValueError(f"{run.folder}: another run is called {name!r}, too; runs of one picture need names")
    for run in runs[1:]:
        if run.settings["data"]["sha256"] != first.settings["data"]["sha256"]:
            raise ValueError(f"{run.folder}: its images are not those of {first.folder}; compare runs on the same data")


def table(reports) -> str:
    """The shown figures as a Markdown table, real images first."""
    lines = ["| images | " + " | ".join(SHOWN) + " |", "|---|" + "---:|" * len(SHOWN)]
    by_name = [{f.name: f for f in report.figures} for report in reports]
    real = "real, held out", [shown(by_name[0][name].beside) for name in SHOWN]
    ours = [(report.title, [shown(figures[name].ours) for name in SHOWN]) for report, figures in zip(reports, by_name)]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in (real, *ours)]
    settings = reports[0].settings
    return "\n".join(
        [*lines, "", *(f"{settings[name]}." for name in ("samples", "neighbours", "intervals", "classifier"))]
    )


def picture(reports, samples, real) -> bytes:
    """Images of each model in a row of their own, and the figures below with their intervals."""
    sets = [("real, held out", real), *((report.title, images) for report, images in zip(reports, samples))]
    figure = plt.figure(figsize=(10, 1.55 * len(sets) + 2.4))
    layout = figure.add_gridspec(len(sets) + 1, len(SHOWN), height_ratios=[*[1] * len(sets), 1.5])
    for row, (name, images) in enumerate(sets):
        axis = figure.add_subplot(layout[row, :])
        axis.imshow(grid(np.clip(images[: COLUMNS * ROWS], 0, 1), COLUMNS), cmap="gray", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    for column, name in enumerate(SHOWN):
        _dots(figure.add_subplot(layout[-1, column]), name, reports)
    return png(figure)


def _dots(axis, name, reports):
    figures = [next(f for f in report.figures if f.name == name) for report in reports]
    intervals = [figures[0].beside, *(f.ours for f in figures)]
    for at, (value, low, high) in enumerate(intervals):
        ends = np.maximum([[value - low], [high - value]], 0)
        axis.errorbar(value, -at, xerr=ends, fmt="o", capsize=3, color="tab:orange" if at else "tab:blue")
    axis.set_yticks([-i for i in range(len(figures) + 1)], ["real", *(r.title.split(",")[0] for r in reports)])
    axis.tick_params(labelleft=name == SHOWN[0], labelsize=8)
    axis.set_ylim(-len(figures) - 0.5, 0.5)
    axis.set_xlim(0, 1.1 * max(high for _, _, high in intervals))
    axis.grid(alpha=0.3)
    axis.set_title(f"{name} ({'lower' if name == 'frechet' else 'higher'} is better)", fontsize=8)


def write(folder, reports, samples, real):
    """comparison.png, comparison.md and comparison.json in `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "comparison.png", picture(reports, samples, real))
    write_atomically(folder / "comparison.md", (table(reports) + "\n").encode("utf-8"))
    runs = {r.title: {f.name: {"ours": f.ours, "real": f.beside} for f in r.figures} for r in reports}
    write_atomically(folder / "comparison.json", json.dumps(runs, indent=2, allow_nan=False).encode("utf-8"))

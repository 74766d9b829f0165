"""What an evaluation found: figures with intervals, what stands beside them, pictures; as a table, JSON and a page."""

import html
import json
from dataclasses import dataclass
from pathlib import Path

from core.checkpoint import write_atomically
from models.evaluation.bootstrap import Interval

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100%; image-rendering: pixelated } figure { margin: 1.5rem 0 } figcaption { color: #555 }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left; white-space: normal }
pre { background: #f5f5f2; padding: 1rem; overflow-x: auto }
"""


@dataclass
class Figure:
    """One figure of merit; `beside` is the same figure of what it is to be compared with, if that has one."""

    name: str
    ours: Interval | float
    meaning: str
    beside: Interval | float | None = None


@dataclass
class Report:
    """An evaluation of one run: `beside` says what the second column is, `settings` how it was measured."""

    title: str
    step: int
    beside: str
    settings: dict
    figures: list[Figure]
    pictures: list  # (caption, file name, PNG bytes)
    quick: dict  # what the trainer's own `evaluate` gives, without intervals

    @classmethod
    def of(cls, run, trainer, *, beside, settings, figures, pictures) -> "Report":
        """The report of a run at its newest checkpoint: what all models' reports say of it alike is filled in."""
        settings = {**settings, "data": str(run.settings["data"]["path"] or trainer.data.source.name)}
        return cls(title(run), trainer.steps, beside, settings, figures, pictures, trainer.evaluate())


def title(run) -> str:
    """What a run is called in a table: its model, and its folder where that has another name."""
    kind, name = run.settings["model"], run.folder.resolve().name
    return kind if name == kind else f"{kind}, {name}"


def shown(figure: Interval | float | None) -> str:
    """ "0.912 [0.900, 0.924]", with as many digits as the size of the figure asks for."""
    if figure is None:
        return "-"
    numbers = [figure] if isinstance(figure, int | float) else list(figure)
    digits = 0 if isinstance(figure, int) else 3 if abs(numbers[0]) < 10 else 2 if abs(numbers[0]) < 100 else 1
    value, *ends = (f"{v:.{digits}f}" for v in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def rows(report) -> list:
    return [(f.name, shown(f.ours), shown(f.beside), f.meaning) for f in report.figures]


def table(report) -> str:
    """The figures as plain text, a line each."""
    lines = [("", report.title, report.beside, ""), *rows(report)]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    text = [f"{a:{widths[0]}s}  {b:>{widths[1]}s}  {c:>{widths[2]}s}  {d}".rstrip() for a, b, c, d in lines]
    return "\n".join([*text, *(f"{name}: {value}" for name, value in notes(report).items())])


def notes(report) -> dict:
    """How it was measured, and the trainer's own quick figures."""
    quick = ", ".join(f"{name} {shown(value)}" for name, value in report.quick.items())
    return {**report.settings, "quick figures": quick}


def as_json(report) -> dict:
    def plain(figure):
        return figure._asdict() if isinstance(figure, Interval) else {"value": figure}

    figures = {
        f.name: {**plain(f.ours), **({} if f.beside is None else {"beside": plain(f.beside)}), "meaning": f.meaning}
        for f in report.figures
    }
    settings = {"title": report.title, "step": report.step, "beside": report.beside, "settings": report.settings}
    return {**settings, "figures": figures, "quick": report.quick}


def page(report) -> str:
    """evaluation.html: the table, how it was measured, and the pictures."""
    title = html.escape(report.title)
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}: evaluation</title>"]
    parts.append(f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>{title}</h1>")
    head = ("figure [95 % interval]", report.title, report.beside, "what it is")
    parts.append("<table>" + "".join(f"<th>{html.escape(h)}" for h in head))
    parts += ["<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows(report)]
    parts.append("</table><h2>How it was measured</h2><table>")
    parts += [f"<tr><td>{html.escape(str(k))}<td>{html.escape(str(v))}" for k, v in notes(report).items()]
    parts.append("</table>")
    for caption, name, _ in report.pictures:
        caption = html.escape(caption)
        parts.append(f'<figure><figcaption>{caption}</figcaption><img src="{name}" alt="{caption}"></figure>')
    return "\n".join([*parts, "</html>"])


def write(report, folder):
    """Pictures first, then the page and the JSON that speak of them, each all or nothing."""
    folder = Path(folder)
    for _, name, content in report.pictures:
        write_atomically(folder / name, content)
    write_atomically(folder / "evaluation.html", page(report).encode("utf-8"))
    write_atomically(folder / "evaluation.json", json.dumps(as_json(report), indent=2, allow_nan=False).encode("utf-8"))

"""Tables, pages and pictures from the recorded results: what `make parity` measured, for people to read.

assay bench report         everything below again, from the files in bench/results

parity.json          -> parity.md, parity.html, and the table of docs/results.md between its two marks
trajectories.json    -> docs/images/trajectory-<model>.png
"""

import html
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from bench.cpu.speed import put_block
from bench.parity.cases import BENCH, FAMILIES
from bench.parity.page import PAGE
from bench.parity.rule import Error, Verdict
from bench.parity.trajectories import Trajectory
from bench.parity.trajectories import load as load_trajectories

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
PARITY, PARITY_MD, PARITY_HTML = (RESULTS / f"parity.{ending}" for ending in ("json", "md", "html"))
IMAGES = ROOT / "docs" / "images"
MARKS = "<!-- parity: made by `make parity` -->", "<!-- end of parity -->"
WORST = 40  # rows of the Markdown table


class Row:
    """One comparison of the parity report, with the verdict's own ratio and ulps."""

    def __init__(self, columns, values):
        r = dict(zip(columns, values))
        self.case, self.what, self.backend, self.passed = r["case"], r["what"], r["backend"], r["passed"]
        theirs = None if r["torch_rms"] is None else Error(r["torch_max"], r["torch_rms"])
        self.verdict = Verdict("", r["dtype"], r["entries"], Error(r["max"], r["rms"]), theirs)
        self.op = self.case.partition("/")[0]
        self.family = "whole models" if self.op == "model" else next(f for f, ops in FAMILIES.items() if self.op in ops)

    @property
    def as_accurate(self) -> bool:
        """Whether our rms error is at most torch's."""
        return self.verdict.theirs is not None and self.verdict.ours.rms <= self.verdict.theirs.rms


def save_report(report: dict):
    """One row a line, so that a change shows as one."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(r) for r in report["rows"])
    head = json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1)
    PARITY.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n')


def load_report() -> tuple[dict, list[Row]]:
    """(what the parity report says of itself, its rows)"""
    report = json.loads(PARITY.read_text())
    return report, [Row(report["columns"], r) for r in report["rows"]]


# --- tables ----------------------------------------


def counted(rows):
    """Those with an entry to compare: an empty array has a shape and a dtype, but no error."""
    return [r for r in rows if r.verdict.entries]


def summary(rows) -> list[str]:
    """A Markdown table: one line a family in float32, one for each other dtype."""
    groups = defaultdict(list)
    for r in rows:
        single = r.verdict.dtype == "float32"
        groups[r.family if single else f"all operations, {r.verdict.dtype}"].append(r)
    lines = [
        "| what | comparisons | passed | at most PyTorch's error | median ratio | worst ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in [*FAMILIES, "whole models", "all operations, float16", "all operations, float64"]:
        lines.append(
            f"| {name} | {len(groups[name]):,} | {sum(r.passed for r in groups[name]):,} | {_figures(name, groups)} |"
        )
    return lines


def _figures(name, groups) -> str:
    """The last three cells of a line; in float64 torch is the oracle, and there is one error to tell."""
    measured = counted(groups[name])
    if name.endswith("float64"):
        return f"largest error {max(r.verdict.ours.max for r in measured):.0e} | | "
    ratios = [r.verdict.ratio for r in measured]
    share = sum(r.as_accurate for r in measured) / len(measured)
    return f"{share:.0%} | {np.median(ratios):.2f} | {max(ratios):.2f}"


def curves(found: list[Trajectory]) -> list[str]:
    """A Markdown table of the trajectories."""
    lines = [
        "| 200 training steps | steps tested | ours from the oracle | PyTorch's five runs | of what is allowed |",
        "|---|---:|---:|---:|---:|",
    ]
    for t in found:
        runs = [t.relative(losses) for losses in t.runs.values()]
        lines.append(
            f"| {t.kind}, {t.loss.replace('_', ' ')} | {t.until} | {t.relative(t.ours):.1e} | "
            f"{min(runs):.1e} to {max(runs):.1e} | {t.worst:.0%} |"
        )
    return lines


def sentence(report, rows) -> str:
    measured = [r for r in counted(rows) if r.verdict.dtype == "float32"]
    better = sum(r.as_accurate for r in measured)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"{len(rows):,} comparisons, {sum(not r.passed for r in rows):,} failed. Of {len(measured):,} in float32 our "
        f"error is at most PyTorch's in {better:,}. {report['date']}, {report['machine']}, {versions}."
    )


def results_block() -> str:
    """The parity tables of docs/results.md, marks included."""
    report, rows = load_report()
    parts = [sentence(report, rows), "\n".join(summary(rows)), "\n".join(curves(load_trajectories()))]
    return "\n\n".join([MARKS[0], *parts, MARKS[1]])


def markdown(report, rows, trajectories) -> str:
    worst = sorted(counted(rows), key=lambda r: (r.passed, -r.verdict.ratio if r.verdict.dtype != "float64" else 0))
    lines = [
        "# The parity report\n",
        sentence(report, rows) + "\n",
        "e is the error against the float64 oracle; ratio is rms e of ours over rms e of PyTorch's (at least eps / 8), "
        "ulp our largest e over eps. The rule is in `bench/parity/rule.py`; `parity.html`, which `make report` makes, "
        f"has all rows. Commit {report['commit']}.\n",
        *summary(rows),
        "",
        *curves(trajectories),
        f"\n## The {WORST} worst ratios\n",
        "| case | array | dtype | backend | our rms e | PyTorch's | ratio | ulp |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for r in worst[:WORST]:
        v = r.verdict
        theirs = f"{v.theirs.rms:.2e}" if v.theirs else "none"
        lines.append(
            f"| {r.case}{'' if r.passed else ' **failed**'} | {r.what} | {v.dtype} | {r.backend} | {v.ours.rms:.2e} | "
            f"{theirs} | {v.ratio:.2f} | {v.ulps:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _cells(line, tag):
    return "<tr>" + "".join(f"<{tag}>{html.escape(c.strip())}</{tag}>" for c in line.strip("|").split("|")) + "</tr>"


def html_table(lines) -> str:
    """A Markdown table's lines as HTML."""
    return f"<table>{_cells(lines[0], 'th')}{''.join(_cells(line, 'td') for line in lines[2:])}</table>"


def page(report, rows, trajectories) -> str:
    """The HTML page: the tables, the pictures, and every row, to be sorted and searched."""
    bench = {case.name for case in BENCH}
    data = [[*_numbers(r), "model sizes" if r.case in bench else r.family] for r in rows]
    pictures = "".join(
        f'<img src="../../docs/images/trajectory-{kind}.png" alt="losses of {kind}, ours and PyTorch\'s">'
        for kind in dict.fromkeys(t.kind for t in trajectories)
    )
    parts = {
        "SENTENCE": html.escape(sentence(report, rows)),
        "SUMMARY": html_table(summary(rows)),
        "CURVES": html_table(curves(trajectories)) + pictures,
        "DATA": json.dumps(data, separators=(",", ":")),
    }
    text = PAGE
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _numbers(r: Row) -> list:
    v = r.verdict
    errors = v.ours.rms, v.theirs.rms if v.theirs else None, round(v.ratio, 3), round(v.ulps, 2)
    return [r.case, r.what, v.dtype, r.backend, v.entries, *errors, r.passed]


# --- pictures ----------------------------------------


def draw(kind, found: list[Trajectory]):
    """One picture a model: the curves on each other, and how far each is from the oracle."""
    fig, axes = plt.subplots(len(found), 2, figsize=(11, 3.2 * len(found)), squeeze=False, layout="constrained")
    for (left, right), t in zip(axes, found):
        steps = np.arange(1, len(t.oracle) + 1)
        for (name, losses), color in zip(t.runs.items(), ("tab:blue", "tab:cyan", "tab:green", "tab:purple", "black")):
            left.plot(steps, losses, color="0.6", lw=1)
            right.semilogy(steps, _visible(t.parting(losses)), color, lw=1, ls="--", label=f"PyTorch, {name}")
        left.plot(steps, t.oracle, color="black", lw=2.5, label="PyTorch in float64, the oracle")
        left.plot([], [], color="0.6", label="PyTorch in float32, five runs")
        left.plot(steps, t.ours, color="tab:orange", lw=1, label="Assay")
        right.semilogy(steps, _visible(t.allowed()), color="0.7", lw=3, label="allowed")
        right.semilogy(steps, _visible(t.parting(t.ours)), color="tab:orange", lw=2, label="Assay")
        left.set(title=f"{kind}: {t.loss.replace('_', ' ')}", xlabel="step")
        right.set(title="largest distance from the oracle so far", xlabel="step")
        for side in (left, right):
            side.legend(fontsize=7)
            if t.until < len(steps):
                side.axvline(t.until, color="tab:red", lw=1)
    fig.savefig(IMAGES / f"trajectory-{kind}.png", dpi=90, metadata={"Software": None})
    plt.close(fig)


def _visible(x):
    """Zeros have no place on a logarithmic axis."""
    return np.where(np.asarray(x) > 0, x, np.nan)


def write_parity():
    """The report, its page, pictures and the block of docs/results.md, from the two recorded files."""
    report, rows = load_report()
    trajectories = load_trajectories()
    PARITY_MD.write_text(markdown(report, rows, trajectories), encoding="utf-8")
    PARITY_HTML.write_text(page(report, rows, trajectories), encoding="utf-8")
    for kind in dict.fromkeys(t.kind for t in trajectories):
        draw(kind, [t for t in trajectories if t.kind == kind])
    put_block(ROOT / "docs" / "results.md", MARKS, results_block())

"""What `make gpu-check` measured, as tables: bench/results/<gpu>/README.md, and the block in docs/results.md.

Where no device has left results, the block says so: it is made from what is there, and cannot claim more.
"""

import json
from pathlib import Path

from bench.cpu.speed import ROOT, put_block
from bench.gpu import targets
from bench.gpu.kernels import PASSES

RESULTS = ROOT / "bench" / "results"
PARTS = "smoke", "parity", "sanitizer", "kernels", "steps", "graph"
MARKS = "<!-- gpu: made by `make report` -->", "<!-- end of gpu -->"
NOTHING = (
    "**Not measured on a GPU yet.** No device has left results in `bench/results`: no kernel has run on one, and "
    "nothing is claimed of its speed."
)
MACHINE = ("driver_version", "torch", "cudnn", "triton", "cupy-cuda13x", "cupy-cuda12x", "numpy", "clocks.sm")


class Device:
    """One device's results: what the parts wrote into its folder."""

    def __init__(self, folder: Path):
        self.folder, self.parts = folder, {}
        for name in PARTS:
            path = folder / f"{name}.json"
            if path.exists():
                self.parts[name] = json.loads(path.read_text(encoding="utf-8"))
        heads = list(self.parts.values())
        self.name = heads[-1]["device"] if heads else ""
        self.machine = heads[-1]["machine"] if heads else {}

    def rows(self, part) -> list:
        return self.parts[part]["rows"] if part in self.parts else []

    def ours(self, part) -> list:
        """Our rows of a part; a part that did not run at all has one row that names nobody."""
        return [r for r in self.rows(part) if r.get("who") == "ours"]


def devices(results=RESULTS) -> list[Device]:
    """All that were measured; a dry run's are nobody's."""
    found = [Device(path) for path in sorted(results.iterdir()) if path.is_dir()]
    return [d for d in found if d.parts and d.name != "dry"]


# --- cells ----------------------------------------


def ratio(figures) -> str:
    """The best baseline's name, and the ratio to it."""
    return f"{figures['best_baseline']} | **{figures['ratio']:.2f}**" if "ratio" in figures else "none | "


def verdicts(row, rows, only=None) -> str:
    """What our row makes of its targets: "met 1.50 x SDPA cudnn (1.62)"."""
    return "; ".join(verdict(t, f) for t, f in targets.every(row, rows) if only in (None, t.of))


def verdict(target, found) -> str:
    held = "" if found.share is None else f", {found.share:.2f} of its memory"
    word = "met" if found.met else "**missed**"
    return f"{word} {target.goal:.2f} x {target.over} ({found.ratio:.2f}{held})"


def others(row, rows) -> str:
    """The baselines' own times, or why there are none."""
    same = [r for r in rows if targets.key(r) == targets.key(row) and r["who"] != "ours"]
    return "; ".join(f"{r['who']} {r['ms']:.3f}" if r["passed"] else f"{r['who']}: {r['fault']}" for r in same)


def work(row) -> str:
    return f"{row['model']} {row['preset']}, batch {row['batch']} | {row['precision']}"


# --- tables ----------------------------------------


def kernels_table(d: Device) -> list[str]:
    """Single operations, a line for each pass."""
    lines = [
        "| operation | precision | pass | ours | of the floor | best baseline | baseline / ours | error | memory | "
        "targets |",
        "|---|---|---|---:|---:|---|---:|---:|---:|---|",
    ]
    for row in d.ours("kernels"):
        head = f"| {row['case']} | {row['precision']}"
        if not row["passed"]:
            lines.append(f"{head} | {row['fault']} | | | | | | | |")
            continue
        for name in (name for name in PASSES if name in row):
            r, marks = row[name], verdicts(row, d.rows("kernels"), name)
            if name == PASSES[1]:
                marks = "; ".join(m for m in (marks, verdicts(row, d.rows("kernels"), targets.BACKWARD)) if m)
            floor = f"{r['of_floor']:.0%} by {r['of']}" if "of" in r else ""
            lines.append(
                f"{head} | {name} | {r['ms']:.4f} ms | {floor} | {ratio(r)} | {row['error']:.1e} | "
                f"{r['mib']:.1f} MiB | {marks} |"
            )
    return lines


def steps_table(d: Device, full: bool) -> list[str]:
    """Training steps; `full` with all baselines and targets."""
    more = ("", "") if not full else (" all baselines, ms | targets |", "---|---|")
    lines = [
        f"| training step | precision | ours | host | memory | best baseline | baseline / ours |{more[0]}",
        f"|---|---|---:|---:|---:|---|---:|{more[1]}",
    ]
    for row in d.ours("steps"):
        if row["task"] != "step":
            continue
        if row["passed"]:
            cells = f"{row['ms']:.3f} ms | {row['host_ms']:.3f} ms | {row['mib']:.0f} MiB | {ratio(row)}"
        else:
            cells = f"{row['fault']} | | | | "
        rest = f" {others(row, d.rows('steps'))} | {verdicts(row, d.rows('steps'))} |" if full else ""
        lines.append(f"| {work(row)} | {cells} |{rest}")
    return lines


def samples_table(d: Device) -> list[str]:
    """Sampling: images of the GAN and the VAE, tokens of the GPT."""
    lines = ["| sampling | precision | ours, a second | best baseline | baseline / ours |", "|---|---|---:|---|---:|"]
    for row in d.ours("steps"):
        if row["task"] == "sample":
            what = "tokens" if row["model"] == "gpt" else "images"
            cells = f"{row['per_second']:,.0f} {what} | {ratio(row)}" if row["passed"] else f"{row['fault']} | | "
            lines.append(f"| {work(row)} | {cells} |")
    return lines


def targets_table(d: Device) -> list[str]:
    """Every target: how many of our rows met it."""
    lines = ["| target | goal | rows | met | worst |", "|---|---|---:|---:|---:|"]
    for target in targets.TARGETS:
        part = "steps" if target.of == "step" else "kernels"
        rows = [r for r in d.ours(part) if targets.applies(target, r)]
        found = [f for f in (targets.measured(target, r, d.rows(part)) for r in rows) if f is not None]
        held = f", {target.memory:g} of its memory" if target.memory else ""
        goal = f"{target.of}, {target.goal:.2f} x {target.over}{held}"
        met = f"{sum(f.met for f in found)} | {min(f.ratio for f in found):.2f}" if found else "no row measures it | "
        lines.append(f"| {target.what} | {goal} | {len(found)} | {met} |")
    return lines


def checks(d: Device) -> list[str]:
    """How the parts went."""
    lines = []
    for name in PARTS:
        rows = d.rows(name)
        missing = sum(not r["passed"] and r["fault"].startswith("not run") for r in rows)
        failed = sum(not r["passed"] for r in rows) - missing
        counts = f"{len(rows)} rows, {failed} failed, {missing} not run"
        lines.append(f"- {name}: {counts if rows else 'not run'}")
    return lines


# --- pages ----------------------------------------


def machine(d: Device) -> str:
    return ", ".join(f"{name} {d.machine[name]}" for name in MACHINE if name in d.machine)


def page(d: Device) -> str:
    """Everything about one device."""
    text = [
        f"# Speed on {d.name}\n",
        f"{machine(d)}. Made by `make gpu-check` and `make report`; [how to read it](../../../docs/gpu.md). Where "
        "baseline / ours is above 1 we are faster; losing rows stay.\n",
        *checks(d),
        *("\n## Training steps\n", *steps_table(d, full=True)),
        *("\n## Sampling\n", *samples_table(d)),
        *("\n## Operations\n", *kernels_table(d)),
        *("\n## Targets\n", *targets_table(d)),
    ]
    return "\n".join(text) + "\n"


def results_block(results=RESULTS) -> str:
    """The block of docs/results.md, marks included."""
    found = devices(results)
    parts = [] if found else [NOTHING]
    for d in found:
        where = f"../bench/results/{d.folder.name}/README.md"
        parts.append(f"On {d.name} ({machine(d)}); [all rows]({where}), operations and losing ones included:")
        parts.append("\n".join(steps_table(d, full=False)))
    return "\n\n".join([MARKS[0], *parts, MARKS[1]])


def write(page_of_all=ROOT / "docs" / "results.md", results=RESULTS):
    """A page for each device, and the block of docs/results.md."""
    for d in devices(results):
        (d.folder / "README.md").write_text(page(d), encoding="utf-8")
    put_block(page_of_all, MARKS, results_block(results))

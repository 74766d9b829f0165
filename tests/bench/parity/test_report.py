"""The recorded results are those of this source, they pass, and docs/results.md quotes them."""

import numpy as np

from bench.parity import tables
from bench.parity.cases import BENCH, CASES
from bench.parity.report import DTYPES
from bench.parity.trajectories import LOSSES, STEPS
from bench.parity.trajectories import load as load_trajectories
from bench.parity.whole_models import SETTINGS

REPORT, ROWS = tables.load_report()
COMPARED = ("convolution", "attention", "matrix products", "normalisation", "losses")


def test_every_case_stands_in_the_parity_report_and_no_other():
    wanted = {(c.name, d) for c in CASES for d in DTYPES} | {(c.name, "float32") for c in BENCH}
    wanted |= {(f"model/{label}", "float32") for label in SETTINGS}
    found = {(r.case, r.verdict.dtype) for r in ROWS}
    assert wanted == found, f"run make parity: {len(wanted - found)} missing, {len(found - wanted)} no longer there"


def test_every_row_passed():
    assert not [(r.case, r.what) for r in ROWS if not r.passed]


def test_we_are_as_accurate_as_torch():
    """The median of our rms error over PyTorch's, over the operations that round."""
    ratios = [r.verdict.ratio for r in tables.counted(ROWS) if r.family in COMPARED and r.verdict.dtype == "float32"]
    assert len(ratios) > 500 and np.median(ratios) <= 1.2


def test_the_trajectories_recorded_lie_on_each_other():
    found = load_trajectories()
    assert {(t.kind, t.loss) for t in found} == {(kind, loss) for kind, losses in LOSSES.items() for loss in losses}
    for t in found:
        assert len(t.ours) == len(t.oracle) == STEPS and all(len(run) == STEPS for run in t.runs.values())
        assert len(t.runs) == 5 and t.worst <= 1
        assert t.until == STEPS or t.kind == "gan"


def test_the_page_of_results_is_not_stale():
    page = (tables.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tables.results_block() in page, "its table is not that of bench/results/parity.json: run make report"


def test_the_markdown_page_is_not_stale():
    assert tables.PARITY_MD.read_text(encoding="utf-8") == tables.markdown(REPORT, ROWS, load_trajectories())


def test_the_html_page_holds_every_row_and_names_failures():
    text = tables.page(REPORT, ROWS, load_trajectories())
    assert "@" not in text.replace("@media", "") and text.count('"float16"') == sum(
        r.verdict.dtype == "float16" for r in ROWS
    )
    failed = tables.Row(REPORT["columns"], [*REPORT["rows"][0][:-1], False])
    assert "**failed**" in tables.markdown(REPORT, [failed, *ROWS], load_trajectories())

"""The tables of what a GPU was measured to do, from a made-up device's results; and what stands there without any."""

import json

import pytest

from bench.gpu import report, targets
from tests import ROOT
from tests.bench.gpu import unopened


def kernel(case, who, precision="float16", forward=(1.0, 8.0), both=(3.0, 16.0), **more):
    figures = lambda ms, mib: {"ms": ms, "low": ms, "high": ms, "host_ms": 0.01, "mib": mib}
    head = {"case": case, "precision": precision, "who": who, "passed": True, "fault": "", "error": 2e-4, **more}
    return {**head, "forward": figures(*forward), "forward and backward": figures(*both)}


def step(who, ms, task="step", model="gan", batch=64, **more):
    head = {"task": task, "model": model, "preset": "paper", "batch": batch, "precision": "tf32", "who": who}
    return {**head, "passed": True, "fault": "", "ms": ms, "host_ms": 0.25, "mib": 310.4, **more}


def not_run(who, fault, **row):
    return {**row, "who": who, "passed": False, "fault": fault}


KERNELS = [
    kernel("attention/8x6x256x64", "ours"),
    kernel("attention/8x6x256x64", "SDPA cudnn", forward=(1.2, 8.0), both=(2.4, 16.0)),
    kernel("attention/8x6x256x64", "SDPA flash", forward=(0.9, 8.0), both=(3.3, 16.0)),
    kernel("linear_cross_entropy/gpt-demo", "ours", both=(3.0, 16.0)),
    kernel("linear_cross_entropy/gpt-demo", "torch eager", both=(3.6, 64.0)),
    not_run("ours", "not run: out of time", case="layer_norm/gpt-small", precision="float16"),
]
KERNELS[0]["forward"].update(of="flops", of_floor=0.42, ratio=0.9, best_baseline="SDPA flash")
KERNELS[0]["forward and backward"].update(of="bytes", of_floor=0.3, ratio=0.8, best_baseline="SDPA cudnn")
GAN = {"task": "step", "model": "gan", "preset": "paper", "batch": 64, "precision": "tf32"}
STEPS = [
    step("ours", 2.0, ratio=1.1, best_baseline="CUDA graph"),
    step("ours", 30.0, "sample", "gpt", 32, per_second=12345.0, ratio=1.25, best_baseline="torch eager"),
    step("torch eager", 7.0),
    step("CUDA graph", 2.2),
    step("torch.compile reduce-overhead", 2.8),
    not_run("torch.compile max-autotune", "not run: no answer in 150 s", **GAN),
]
MACHINE = {"driver_version": "570.1", "torch": "2.11", "numpy": "2.5", "power.draw": "70 W"}


@pytest.fixture
def results(tmp_path):
    for device, folder in (("some-gpu", "some-gpu"), ("dry", "rehearsal")):
        (tmp_path / folder).mkdir()
        for part, rows in (("kernels", KERNELS), ("steps", STEPS)):
            text = json.dumps({"device": device, "machine": MACHINE, "note": "", "rows": rows})
            (tmp_path / folder / f"{part}.json").write_text(text)
    return tmp_path


# fmt: off
KERNELS_TABLE = """\
| attention/8x6x256x64 | float16 | forward | 1.0000 ms | 42% by flops | SDPA flash | **0.90** | 2.0e-04 | 8.0 MiB | met 1.05 x SDPA cudnn (1.20) |
| attention/8x6x256x64 | float16 | forward and backward | 3.0000 ms | 30% by bytes | SDPA cudnn | **0.80** | 2.0e-04 | 16.0 MiB | **missed** 0.65 x * (0.60) |
| linear_cross_entropy/gpt-demo | float16 | forward | 1.0000 ms |  | none |  | 2.0e-04 | 8.0 MiB |  |
| linear_cross_entropy/gpt-demo | float16 | forward and backward | 3.0000 ms |  | none |  | 2.0e-04 | 16.0 MiB | **missed** 1.00 x torch eager (1.20, 0.25 of its memory) |
| layer_norm/gpt-small | float16 | not run: out of time | | | | | | | |"""  # noqa: E501
STEPS_TABLE = """\
| gan paper, batch 64 | tf32 | 2.000 ms | 0.250 ms | 310 MiB | CUDA graph | **1.10** | torch eager 7.000; CUDA graph 2.200; torch.compile reduce-overhead 2.800; torch.compile max-autotune: not run: no answer in 150 s | met 3.00 x torch eager* (3.50); **missed** 1.50 x torch.compile reduce-overhead (1.40) |"""  # noqa: E501
SAMPLES_TABLE = "| gpt paper, batch 32 | tf32 | 12,345 tokens | torch eager | **1.25** |"
TARGETS = [
    "| attention, heads of 64 | forward, 1.05 x SDPA cudnn | 1 | 1 | 1.20 |",
    "| attention, backward | backward, 0.65 x * | 1 | 0 | 0.60 |",
    "| a convolution's weight gradient | weight gradient, 0.90 x torch channels last | 0 | no row measures it |  |",
    "| linear cross entropy | forward and backward, 1.00 x torch eager, 0.2 of its memory | 1 | 0 | 1.20 |",
    "| GAN step | step, 1.50 x torch.compile reduce-overhead | 1 | 0 | 1.40 |",
    "| VAE step | step, 8.00 x torch eager* | 0 | no row measures it |  |",
]
README = """\
<!-- gpu: made by `make report` -->

On some-gpu (driver_version 570.1, torch 2.11, numpy 2.5); [all rows](../bench/results/some-gpu/README.md), operations and losing ones included:

| training step | precision | ours | host | memory | best baseline | baseline / ours |
|---|---|---:|---:|---:|---|---:|
| gan paper, batch 64 | tf32 | 2.000 ms | 0.250 ms | 310 MiB | CUDA graph | **1.10** |

<!-- end of gpu -->"""  # noqa: E501
# fmt: on


def test_the_tables_say_what_was_measured(results):
    (device,) = report.devices(results)  # a dry run's folder is no device's
    table = lambda lines: "\n".join(lines[2:])
    assert table(report.kernels_table(device)) == KERNELS_TABLE
    assert table(report.steps_table(device, full=True)) == STEPS_TABLE
    assert table(report.samples_table(device)) == SAMPLES_TABLE
    lines = report.targets_table(device)
    assert set(TARGETS) <= set(lines) and len(lines) == 2 + len(targets.TARGETS)
    assert report.checks(device) == [
        *(f"- {part}: not run" for part in ("smoke", "parity", "sanitizer")),
        *("- kernels: 6 rows, 0 failed, 1 not run", "- steps: 6 rows, 0 failed, 1 not run", "- graph: not run"),
    ]


def test_every_line_of_a_table_has_its_columns(results):
    (device,) = report.devices(results)
    for lines in (
        *(report.steps_table(device, full) for full in (True, False)),
        *(f(device) for f in (report.kernels_table, report.samples_table, report.targets_table)),
    ):
        assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_writing_makes_a_page_and_the_block_of_all_results(results):
    readme = results / "README.md"
    readme.write_text("before\n<!-- gpu: made by `make report` -->\nold\n<!-- end of gpu -->\nafter\n")
    report.write(readme, results)
    assert readme.read_text() == f"before\n{README}\nafter\n"
    page = (results / "some-gpu" / "README.md").read_text()
    assert page.startswith("# Speed on some-gpu\n\ndriver_version 570.1, torch 2.11, numpy 2.5. ")
    assert KERNELS_TABLE in page and STEPS_TABLE in page and not (results / "rehearsal" / "README.md").exists()
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        report.write(readme, results)


def test_without_results_the_page_says_so(tmp_path):
    """The committed page has what is made from the committed results, so that it cannot claim more."""
    assert "**Not measured on a GPU yet.**" in report.results_block(tmp_path)
    assert report.results_block() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_every_target_has_rows_baselines_and_a_pass_that_measure_it():
    """Of the rows that a run on a device is asked for; a dry run shows which passes they hold (test_interpreter.py)."""
    from bench.gpu import contenders, kernels, steps
    from bench.gpu.device import PRECISIONS
    from bench.parity.cases import BY_NAME

    gpu = unopened()
    rows = [
        {"case": c.name, "precision": p.name, "who": who}
        for p in PRECISIONS
        for c in kernels.chosen(gpu, p)
        for who in contenders.contenders(c)
    ]
    rows += steps.jobs(gpu)
    convolves = lambda row: "case" in row and BY_NAME[row["case"]].op in contenders.CONVOLUTIONS
    for target in targets.TARGETS:
        named = [r for r in rows if targets.applies(target, r) and targets.fnmatchcase(r["who"], target.over)]
        who = {r["who"] for r in named if target.of != "weight gradient" or convolves(r)} - {"ours"}
        assert who - {contenders.COMPILED} or (who and target.of == "step"), f"{target.what}: no row measures it"
        assert {r["precision"] for r in named} == set(target.precisions), target.what

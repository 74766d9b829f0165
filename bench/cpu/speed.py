"""What `make bench` measured on a CPU, as tables: bench/results/cpu.md, and the block in docs/results.md."""

import json

from bench.cpu import ops, step

ROOT = step.RESULTS.parent.parent.parent
SPEED_MD = step.RESULTS.parent / "cpu.md"
MARKS = "<!-- speed: made by `make bench` -->", "<!-- end of speed -->"


def rows(path) -> list:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def steps_table() -> list[str]:
    """Training steps, ours beside torch's."""
    lines = [
        "| training step | ours | PyTorch | PyTorch / ours | peak memory | PyTorch's, and its setting |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for r in rows(step.RESULTS):
        compiled = ", torch.compile" if r["compile"] else ""
        lines.append(
            f"| {r['model']} {r['preset']}, batch {r['batch']} | {r['ours_ms']:.1f} ms | {r['torch_ms']:.1f} ms | "
            f"**{r['ratio']:.2f}** ({r['low']:.2f} to {r['high']:.2f}) | {r['ours_mib']} MiB | "
            f"{r['torch_mib']} MiB; {r['torch']}{compiled} |"
        )
    return lines


def ops_table() -> list[str]:
    """Single operations; a pass is forward, or forward and backward."""
    lines = [
        "| operation | forward | PyTorch / ours | both passes | PyTorch / ours | of the limit | reference / ours |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows(ops.RESULTS):
        one, last = r["forward"], r.get("both", r["forward"])
        pair = lambda p: f"{p['ours_ms']:.3f} ms | {p['ratio']:.2f} ({p['low']:.2f} to {p['high']:.2f})"
        lines.append(
            f"| {r['case']} | {pair(one)} | {pair(last) if 'both' in r else ' | '} | "
            f"{last['limit']:.0%} of {last['of']} | {last['reference_ms'] / last['ours_ms']:.1f} |"
        )
    return lines


def markdown() -> str:
    text = [
        "# Speed on a CPU\n",
        "Medians of interleaved pairs, each side in a process of its own (`bench/cpu/interleaved.py`), with the 10 to "
        "90 % quantiles of the ratio: above 1 we are faster. torch 2.13 with fused Adam, the better of OMP_WAIT_POLICY "
        "active and passive and of both memory formats. The limit is what the flops of a large product or the bytes of "
        "a copy would take on the same machine.\n",
        *steps_table(),
        "",
        *ops_table(),
    ]
    return "\n".join(text) + "\n"


def results_block() -> str:
    return "\n".join([MARKS[0], "", *steps_table(), "", MARKS[1]])


def put_block(page, marks, block):
    """Write `block`, which has the two marks at its ends, in place of what stands between them on a page."""
    before, first, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, last, after = rest.partition(marks[1])
    if not first or not last:
        raise ValueError(f"{page}: lacks the marks {marks[0]} and {marks[1]}")
    page.write_text(before + block + after, encoding="utf-8")


def write():
    """The page, and the table of docs/results.md."""
    SPEED_MD.write_text(markdown(), encoding="utf-8")
    put_block(ROOT / "docs" / "results.md", MARKS, results_block())

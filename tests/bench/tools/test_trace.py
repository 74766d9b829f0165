"""A trace shows what happened: elements, blocks and running values against arithmetic that knows nothing of a kernel.

The recordings come from the process that `assay kernels trace` starts; the pages are read as a browser would.
"""

import functools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from bench.tools import trace, trace_cases, trace_page
from bench.tools.command import main
from tests import ROOT

STRIDE, PADDING, TAPS = 2, 2, 5  # of both cases of conv_transpose2d
EMPTY = {"meta", "input", "br"}  # tags that nothing closes
ALL = [(op, name) for op, cases in trace_cases.CASES.items() for name in cases]


@pytest.fixture(scope="module")
def conv():
    """conv(name): the recording of a case."""
    return functools.cache(functools.partial(trace.recorded, "conv_transpose2d"))


@pytest.fixture(scope="module")
def attention():
    return trace.recorded("attention", "causal")


def array(launch, name):
    return next(a for a in launch["arrays"] if a["name"] == name)


def elements(launch, program, kind, name):
    """Indices of the elements, one row for each."""
    flat = [at for first, n in program[kind].get(name, []) for at in range(first, first + n)]
    return np.array(np.unravel_index(flat, array(launch, name)["shape"])).T


def tile(program, out):
    """The output pixels of a program: 16 of one phase, in order. Of an odd size some lie beyond the edge: they are
    computed like the others, and not stored."""
    row, column = divmod(program % STRIDE**2, STRIDE)
    width = -(-out // STRIDE)
    q = range(16 * (program // STRIDE**2), width**2)[:16]
    return [(STRIDE * (i // width) + row, STRIDE * (i % width) + column) for i in q]


def links(pixel, size):
    """[(tap, input pixel, or None if it is outside the image)]: the taps at which an output pixel meets the input."""
    rows, columns = (
        [(i, (at + PADDING - i) // STRIDE) for i in range(TAPS) if (at + PADDING - i) % STRIDE == 0] for at in pixel
    )
    inside = range(size)
    return [((i, j), (ih, iw) if ih in inside and iw in inside else None) for i, ih in rows for j, iw in columns]


@pytest.mark.parametrize(
    ("name", "size", "out"), [("odd", 5, 9), pytest.param("stride-2", 4, 8, marks=pytest.mark.full)]
)
def test_a_phase_reads_the_pixels_and_taps_that_its_tile_needs(name, size, out, conv):
    launch = conv(name)["launches"][0]
    times, written = np.zeros((size, size), int), []
    for number, program in enumerate(launch["programs"]):
        pairs = [pair for pixel in tile(number, out) for pair in links(pixel, size)]
        reached = [pixel for _, pixel in pairs if pixel]
        read = elements(launch, program, "reads", "x")
        assert {(ih, iw) for _, ih, iw, _ in read} == set(reached) and len(read) == 16 * len(set(reached))
        taps = elements(launch, program, "reads", "w")
        assert {(i, j) for i, j, _, _ in taps} == {tap for tap, _ in pairs}
        assert len(taps) == 16 * 16 * len({tap for tap, _ in pairs})
        np.add.at(times, tuple(np.transpose(reached)), 1)
        stored = elements(launch, program, "writes", "y")
        assert {(oh, ow) for _, oh, ow, _ in stored} == {(oh, ow) for oh, ow in tile(number, out) if max(oh, ow) < out}
        written += map(tuple, stored)
    assert len(written) == len(set(written)) == 16 * out**2  # every element, once
    assert set(array(launch, "y")["writes"]) == {1} and not any(array(launch, "y")["reads"])
    assert (np.reshape(array(launch, "x")["reads"], (size, size, 16)) == times[:, :, None]).all()


def test_lines_are_those_of_the_file(conv):
    launch = conv("odd")["launches"][0]
    text = (ROOT / launch["file"]).read_text(encoding="utf-8").splitlines(keepends=True)
    assert text[launch["first"] - 1 :][: len(launch["source"])] == launch["source"]
    touching = {what: text[int(line) - 1].strip() for line, (what,) in launch["lines"].items()}
    assert touching.keys() == {"reads x", "reads w", "reads b", "writes y"}
    assert all("tl.load(" in line if "reads" in what else "tl.store(y_ptr" in line for what, line in touching.items())


@pytest.mark.parametrize(
    ("kernel", "own", "other", "seen"),
    [
        ("attention._forward", "y", "k", lambda own, n: range(own + 1)),
        ("attention_backward._queries", "dq", "k", lambda own, n: range(own + 1)),
        ("attention_backward._keys_and_values", "dk", "q", lambda own, n: range(own, n)),
    ],
)
def test_causal_programs_read_the_blocks_on_their_side_of_the_diagonal(kernel, own, other, seen, attention):
    launch = next(one for one in attention["launches"] if one["kernel"] == kernel)
    assert len(launch["programs"]) == 3
    for block, program in enumerate(launch["programs"]):
        assert {t // 16 for *_, t, _ in elements(launch, program, "writes", own)} == {block}
        expected = list(seen(block, 3))
        read = {tuple(e) for e in elements(launch, program, "reads", other)}
        assert read == {(0, 0, t, c) for t in range(48) if t // 16 in expected for c in range(16)}
        assert [iteration["start"] for iteration in program["iterations"]] == [16 * b for b in expected]


def test_running_maximum_and_sum_are_those_of_a_plain_softmax(attention):
    arrays = trace_cases.arrays_of(trace_cases.CASES["attention"]["causal"])
    q, k = (arrays[name][0, 0].astype(np.float64) for name in "qk")
    scores = np.where(np.tri(48, dtype=bool), q @ k.T / np.sqrt(16), -np.inf)
    for block, program in enumerate(attention["launches"][0]["programs"]):
        for iteration in program["iterations"]:
            rows = scores[16 * block : 16 * block + 16, : iteration["start"] + 16]
            top = rows.max(1)
            np.testing.assert_allclose(iteration["m"], top, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(iteration["l"], np.exp(rows - top[:, None]).sum(1), rtol=1e-5)


def test_arrays_behind_a_table_of_addresses_are_found():
    launch = trace.recorded("adam_")["launches"][0]
    for role, written in {"p": 1, "g": 0, "m": 1, "v": 1}.items():
        for i, size in enumerate((30, 12)):
            found = array(launch, f"{role}{i}")
            assert (found["reads"], found["writes"]) == ([1] * size, [written] * size)


def test_a_read_outside_every_array_is_named():
    """Ten numbers, of which a kernel is told that they are twenty."""
    code = """
import numpy as np
from bench.tools.trace import Recorder
from kernels.gpu.common import _add_up
from kernels.launch import launch
Recorder({}).watch()
launch(_add_up, (1,), np.ones(10, "f"), np.empty((), "f"), 20, 1.0, BLOCK=32)
"""
    environment = {**trace.os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "common._add_up: reads 10 elements of no array that it was given" in done.stderr


# --- pages ----------------------------------------


class Page(HTMLParser):
    """Sections, cells of each picture, lit cells, addresses; a tag closed out of turn is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.lit, self.links, self.sections, self.data = [], [], [], [], 0, ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [v for k, v in attributes.items() if k in ("src", "href", "srcset", "action")]
        self.sections += tag == "section"
        if tag == "svg":
            self.cells.append(0)
            self.lit.append({})
        if tag == "path":
            if "class" in attributes:
                self.lit[-1][self.cells[-1]] = attributes["class"]
            self.cells[-1] += 1
        if tag not in EMPTY:
            self.open.append((tag, attributes.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", "frames"):
            self.data += data


def check(recording):
    """The page of a recording, well-formed and self-contained, with a frame for every program: (parser, frames)."""
    text = trace_page.page(recording)
    page = Page(text)
    assert not page.links and not re.search(r"https?:|url\(|@import|fetch\(", text)
    frames = json.loads(page.data)
    assert page.sections == len(frames) == len(recording["launches"])
    pictures = iter(zip(page.cells, page.lit))
    for launch, drawn in zip(recording["launches"], frames):
        assert len(drawn["programs"]) == len(launch["programs"]) == np.prod(launch["grid"])
        for i in range(len(drawn["all"])):  # the first frame is drawn in; all are within the picture
            cells, lit = next(pictures)
            first = drawn["programs"][0]["cells"][i]
            assert {c: kind for at, n, kind, _ in first for c in range(at, at + n)} == {
                c: " rwb".index(kind) for c, kind in lit.items()
            }
            assert all(at + n <= cells for p in drawn["programs"] for at, n, *_ in p["cells"][i])
    assert next(pictures, None) is None
    return page, frames


def lit(frame, picture):
    """The cells that a frame lights up in a picture."""
    return {c for first, n, *_ in frame["cells"][picture] for c in range(first, first + n)}


def test_page_of_the_phases(conv):
    page, frames = check(conv("odd"))
    assert page.cells[:4] == [25, 25, 16, 81]  # x, w, b, y: channels share a cell
    for number, frame in enumerate(frames[0]["programs"]):
        assert lit(frame, 3) == {9 * oh + ow for oh, ow in tile(number, 9) if max(oh, ow) < 9}


def test_page_of_attention_shows_skipped_blocks_and_running_values(attention):
    _, frames = check(attention)
    triangle = [{3 * p + b for b in range(p + 1)} for p in range(3)]
    assert [lit(frame, 0) for frame in frames[0]["programs"]] == triangle
    for program, frame in enumerate(frames[0]["programs"]):
        iterations = attention["launches"][0]["programs"][program]["iterations"]
        for name in "ml":
            shown = frame["values"][name]
            assert [column is None for column in shown] == [b > program for b in range(3)]
            assert shown[: program + 1] == [
                [float(f"{v:.4g}") for v in iteration[name]] for iteration in iterations
            ]  # four digits


@pytest.mark.full
@pytest.mark.parametrize(("op", "name"), ALL)
def test_every_case_has_a_page(op, name):
    check(trace.recorded(op, name))


# --- the command ----------------------------------------


def test_the_command_writes_a_page_and_prints_where(tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["trace", "bce_with_logits", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "variational._bce_backward" in out.read_text(encoding="utf-8")
    assert main(["trace", "bce_with_logits", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.endswith(f"error: trace: --out is {tmp_path}, should be a file to write: Is a directory\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["softmaxx"], "error: trace: operation is 'softmaxx', should be one of adam_, attention, batch_norm, "),
        (["attention", "--case", "x"], "error: trace: case of attention is 'x', should be one of causal, full, split"),
    ],
)
def test_unknown_names_get_one_line_with_what_there_is(arguments, said, capsys):
    assert main(["trace", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1

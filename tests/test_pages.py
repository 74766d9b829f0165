"""The pages keep their word: every example prints what its page says, every link, path and name leads somewhere,
sizes are those of the files, and pages in two languages say the same."""

import ast
import functools
import math
import re
import subprocess
import sys
import textwrap

import pytest
import yaml

from tests import ROOT

PATTERNS = ("README*.md", "docs/**/*.md", "bench/results/*.md", "models/data/README.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOLE = re.compile(r"^( *)\.\.\.  # .+\n", re.MULTILINE)  # in an exercise, where the reader's lines go
SOLUTION = re.compile(r"^<details markdown>.*?^```python\n(.*?)^```$.*?^</details>$", re.MULTILINE | re.DOTALL)
FOLDERS = r"(?:core|models|kernels|bench|tests|docs|locks)"
by_path = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def text(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its code blocks."""
    return FENCE.sub("", text(page))


def examples(page):
    """(code, what it prints) of every Python block: what the next block says if that is text, else nothing. The hole of
    an exercise holds its solution, the next one on the page."""
    shut, solutions = SOLUTION.sub("", text(page)), iter(SOLUTION.findall(text(page)))
    blocks = list(FENCE.finditer(shut))
    for block, after in zip(blocks, [*blocks[1:], None]):
        if block[1] == "python":
            shown = after and after[1] == "text" and not shut[block.end() : after.start()].strip()
            code = HOLE.sub(lambda hole: textwrap.indent(next(solutions), hole[1]), block[2])
            yield code, after[2] if shown else ""
    assert next(solutions, None) is None, f"{page.name}: a solution has no hole"


def unique_examples():
    """Examples of all pages; one that stands in two languages runs once."""
    found = {}
    for page in PAGES:
        for i, example in enumerate(examples(page), 1):
            found.setdefault(example, f"{page.relative_to(ROOT).with_suffix('')}-{i}")
    return [pytest.param(*example, id=name) for example, name in found.items()]


@pytest.mark.parametrize(("code", "printed"), unique_examples())
def test_examples_print_what_the_pages_say(code, printed):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", printed)


def holes():
    for page in PAGES:
        for i, (_, code) in enumerate(FENCE.findall(text(page)), 1):
            if HOLE.search(code):
                yield pytest.param(code, id=f"{page.stem}-{i}")


@pytest.mark.parametrize("code", [*holes()])
def test_an_exercise_waits_for_its_solution(code):
    """With its hole it runs into an error, or prints something else than the page."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout not in {printed for page in PAGES for _, printed in examples(page)} - {""} or done.returncode


# --- links, paths, names ----------------------------------------


def anchors(page):
    """The anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """(path, anchor) of every link and picture that stays in the repository; either may be empty."""
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)$|src=\"([^\"]+)\"", prose(page), re.MULTILINE)
    targets = ["".join(target) for target in found]
    return [target.partition("#")[::2] for target in targets if not target.startswith("http")]


def leads_nowhere(page, path, anchor):
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


@by_path
def test_links_lead_somewhere(page):
    assert not [link for link in links(page) if leads_nowhere(page, *link)]
    named, given = (set(re.findall(p, prose(page), re.MULTILINE)) for p in (r"\]\[([^]]+)\]", r"^\[([^]]+)\]: "))
    assert named == given


@by_path
def test_paths_in_backticks_exist(page):
    paths = re.findall(rf"`({FOLDERS}/[\w/.*-]+)(?:: [\w.]+)?`", prose(page))
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


@functools.cache
def names(path):
    """What a file defines: functions, classes, their methods ("Class.method"), constants."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def named(page):
    """(file, name) of every `file: name`, and of every [`name`][link] and [`name`](link) to a source file."""
    links = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", prose(page), re.MULTILINE))
    linked = re.findall(r"\[`(\w+)`\](?:\[([^]]+)\]|\(([^)]+\.py)\))", prose(page))
    yield from ((ROOT / path, name) for path, name in re.findall(rf"`({FOLDERS}/[\w/]+\.py): ([\w.]+)`", prose(page)))
    yield from ((page.parent / (links[link] if link else path), name) for name, link, path in linked)


@by_path
def test_names_are_where_the_page_says(page):
    assert not [(str(path), name) for path, name in named(page) if name not in names(path.resolve())]


# --- what pages promise ----------------------------------------

DERIVATIONS = [page for page in PAGES if page.parent.name == "kernels" and page.stem not in ("README", "compiled")]


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda page: page.stem)
def test_a_derivation_leads_to_all_three_implementations_and_has_answered_exercises(page):
    folders = {path.resolve().parent.relative_to(ROOT).as_posix() for path, _ in named(page)}
    assert folders >= {"core/reference", "kernels/cpu", "kernels/gpu"}
    exercises = SOLUTION.sub("", text(page)).partition("## Exercises")[2]
    asked = re.findall(r"^\*\*\d+\.\*\*", exercises, re.MULTILINE)
    assert asked and len(asked) == exercises.count("```python\n") == exercises.count("```text\n")


def stops():
    """(title, lines and minutes as stated, files) of every stop of the reading order."""
    page = text(ROOT / "docs" / "reading-order.md")
    form = r"^(\d+)\. \*\*(.+?)\*\* \*([\d,]+) lines, (\d+) minutes\.\*(.*?)(?=^\d+\. |\Z)"
    for number, title, lines, minutes, body in re.findall(form, page, re.MULTILINE | re.DOTALL):
        paths = [ROOT / path for path in re.findall(rf"`({FOLDERS}/[\w/.]+)`", body)]
        files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
        yield pytest.param(int(lines.replace(",", "")), int(minutes), files, id=f"{number}-{title}")


@pytest.mark.parametrize(("lines", "minutes", "files"), [*stops()])
def test_the_reading_order_knows_how_long_its_files_are(lines, minutes, files):
    counted = sum(text(file).count("\n") for file in files)
    assert abs(lines - counted) <= 0.1 * counted, f"says {lines} lines, the files have {counted}"
    assert minutes == 5 * math.ceil(lines / 100)


def test_every_stop_is_counted():
    assert len([*stops()]) == len(re.findall(r"^\d+\. ", text(ROOT / "docs" / "reading-order.md"), re.MULTILINE)) >= 10


def test_the_readme_knows_how_long_the_files_of_a_row_are():
    rows = re.findall(r"^\| .*?([\d,]+) lines.*?\| (`.+`) \|$", text(ROOT / "README.md"), re.MULTILINE)
    assert rows
    for lines, files in rows:
        counted = sum(text(ROOT / path).count("\n") for path in re.findall(r"`([^`]+)`", files))
        assert abs(int(lines.replace(",", "")) - counted) <= 0.05 * counted, f"{files}: {lines}, they have {counted}"


@pytest.mark.parametrize("name", ["README", "docs/source-material"])
def test_the_chinese_page_says_what_the_english_one_says(name):
    english, chinese = (ROOT / f"{name}{ending}.md" for ending in ("", ".zh"))
    assert list(examples(chinese)) == list(examples(english))
    assert set(named(chinese)) == set(named(english))
    assert [chinese.name in text(english)[:200], english.name in text(chinese)[:200]] == [True, True]


def test_every_page_is_in_the_site():
    def leaves(entry):
        return [entry] if isinstance(entry, str) else [x for part in entry for v in part.values() for x in leaves(v)]

    nav = leaves(yaml.safe_load(text(ROOT / "mkdocs.yml"))["nav"])
    pages = {page for page in nav if not page.startswith("docs/api/")}
    assert pages == {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert len(nav) == len(set(nav)) > len(pages)

"""Other people's functions are tested as ours are: what docs/your-own-function.md shows is what comes out."""

import re
import subprocess
import sys

import pytest
import torch

import core.functional as F
from bench.command import main
from bench.parity.yours import cases_of, check
from tests import ROOT

PAGE = (ROOT / "docs" / "your-own-function.md").read_text(encoding="utf-8")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench.command", "parity", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def faults(rows):
    return [f"{name}: {c}" for name, found in rows for c in found if isinstance(found, str) or c.verdict.fault]


def test_the_page_shows_what_comes_out(tmp_path):
    code, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", PAGE, re.DOTALL).groups()
    (tmp_path / "mine.py").write_text(code)
    done = command("attention", f"{tmp_path}/mine.py:attention")
    assert done.returncode == 1
    assert done.stdout.splitlines()[:-1] == printed.splitlines()[:-1]
    assert re.fullmatch(r"median error where it passes: [01]\.\d\d of torch's", done.stdout.splitlines()[-1])


def test_the_right_function_passes():
    assert not faults(check(F.attention, "attention", takes="assay", pattern="mask"))
    relu = check(torch.relu, "relu", dtype="float16")
    assert len(relu) == len(cases_of("relu")) >= 5 and not faults(relu)


def test_forward_only_asks_for_no_gradient():
    detached = lambda x: torch.tanh(x.detach())
    assert faults(check(detached, "tanh"))
    assert not faults(check(detached, "tanh", forward_only=True))


def test_a_wrong_function_fails():
    assert faults(check(lambda x: torch.tanh(x) * (1 + 1e-5), "tanh"))
    assert faults(check(lambda x: torch.tanh(x).double(), "tanh"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["attenton", "mine.py:f"], "no function 'attenton'"),
        (["attention", "nowhere.py:f"], "nowhere.py: no such file"),
        (["attention", "torch:no_such_thing"], "torch has no no_such_thing"),
        (["attention", "no_such_module:f"], "No module named"),
        (["attention", "something"], "should be FILE.py:NAME or MODULE:NAME"),
        (["tanh", "torch:tanh", "--case", "absent"], "no case of tanh has 'absent' in its name"),
        ([], "give OP and FILE:FUNCTION"),
    ],
)
def test_bad_arguments_give_one_clear_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["parity", *arguments]))
    assert end.value.code and says in capsys.readouterr().err


def test_cases_are_listed(capsys):
    assert main(["parity", "conv_transpose2d", "--list"]) == 0
    assert "conv_transpose2d/stride-past-kernel\n" in capsys.readouterr().out

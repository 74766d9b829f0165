"""Random calls and damaged files: the outcome is a result of the right shape, or a documented error of one line.

Never another exception, a warning, a crash or a hang. The suite tries a sample, the functions by hypothesis, which
shows the smallest call that fails; `make test-all` tries 100,000 and more. Both draw the same each time.
"""

import inspect
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import core.functional as F
from core import Generator, Tensor, use
from tests.core.fuzz_shapes import SHAPES
from tests.core.fuzzing import RECIPES, STRANGE, Choices
from tests.models.training import reader_fuzz

DOCUMENTED = (ValueError, TypeError, IndexError)  # KernelLimit is a ValueError
CALLS, FILES = 1700, 4000  # of each function and of each kind of file, in the full run


def arguments(name, choices) -> tuple:
    """({parameter: value} of a call, how many of them were put there to be refused)"""
    positional, options = RECIPES[name](choices)
    bound = inspect.signature(getattr(F, name)).bind(*positional, **options)
    bound.apply_defaults()
    values, wrong = dict(bound.arguments), choices.pick(0, 1, 1, 2)
    for _ in range(wrong):
        values[choices.pick(*values)] = choices.pick(*STRANGE)
    return values, wrong


def check_call(name, values, wrong, mode):
    """Call, and go backward; an argument that does not belong may be refused, in one line that names the function."""
    with warnings.catch_warnings(), Generator(0):
        warnings.simplefilter("error")
        try:
            with use(mode):
                y = getattr(F, name)(**values)
        except DOCUMENTED as error:
            assert wrong or mode == "kernels", f"refused what it should take: {error}"
            assert str(error).startswith(f"{name}") and ": " in str(error) and "\n" not in str(error)
            return
        outputs = y if isinstance(y, tuple) else (y,)
        expected = SHAPES[name](values)
        assert [t.shape for t in outputs] == (expected if isinstance(expected, list) else [expected])
        for t in outputs:
            if t.requires_grad:
                t.backward(np.ones(t.shape, t.dtype), retain_graph=True)
    for x in values.values():
        if isinstance(x, Tensor) and x.grad is not None:
            assert (x.grad.shape, x.grad.dtype) == (x.shape, x.dtype)
            x.grad = None


MODES = ("auto", "auto", "reference", "kernels")


@pytest.mark.parametrize("name", RECIPES)
def test_functions(name):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def attempt(data):
        integer = lambda low, high: data.draw(st.integers(low, high))
        choices = Choices(integer, lambda options: options[integer(0, len(options) - 1)])
        check_call(name, *arguments(name, choices), choices.pick(*MODES))

    attempt()


def test_every_public_function_is_tried():
    assert set(RECIPES) == set(SHAPES) == set(F.__all__)


def check_file(read, content, documented, path):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(path)
        except documented as error:
            assert str(error) and "\n" not in str(error)


def files(folder, count):
    """Read `count` damaged files of each kind; how many there were."""
    rng, read = random.Random(20), 0
    for valid, reader, documented in reader_fuzz.kinds(folder).values():
        check_file(reader, valid, (), folder / "f")
        for _ in range(count):
            content = reader_fuzz.damaged(valid, rng)
            try:
                check_file(reader, content, documented, folder / "f")
            except BaseException as error:
                raise AssertionError(f"{reader.__name__} of {content!r}") from error
            read += 1
    return read


def test_readers(tmp_path):
    assert files(tmp_path, 200) == 9 * 200


@pytest.mark.full
def test_a_hundred_thousand_inputs(tmp_path):
    rng, called = random.Random(10), 0
    for name in RECIPES:
        for _ in range(CALLS):
            choices = Choices(rng.randint, rng.choice)
            check_call(name, *arguments(name, choices), choices.pick(*MODES))
            called += 1
    assert called + files(tmp_path, FILES) >= 100_000

"""Every operation at the models' sizes with pytest-benchmark: `.venv/bin/pytest bench/cpu/bench_ops.py -k conv2d`.

For a look at one's own changes: all providers share this process, one thread each. What the README quotes is measured
by `assay bench ops`, in processes that take turns.
"""

import pytest
import torch

from bench.cpu import ops
from bench.parity.cases import BENCH, case_id
from core.runtime import threads

PROVIDERS = ("ours", "reference", "torch")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 1)
    torch.set_num_threads(1)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("what", ops.PASSES)
@pytest.mark.parametrize("case", BENCH, ids=case_id)
def test_operation(benchmark, case, what, provider):
    run = ops.prepare(case.name, ops.contenders(case)[-1] if provider == "torch" else provider)
    assert not isinstance(run, str), run  # a wrong answer is not timed
    benchmark.group = f"{case.name} {what}"
    benchmark(getattr(run, what))

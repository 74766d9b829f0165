"""One operation, one file name: its reference, its kernels, its public function and its cases are in files of one name.

The name follows from the table. A kernel may have helper files beside its own, and a public function none: sums are
methods of Tensor, state operations are called by optimisers and layers.
"""

import importlib

import pytest

import core.functional as F
from bench.parity import cases
from core.engine import Op
from core.table import TABLE, Kernel

PUBLIC = {"relu", "exp"}  # two of core.functional, to see that it is looked at


def stem(module: str) -> str:
    return module.rpartition(".")[2]


def families():
    """{operation: {where: the name of the file}}."""
    found = {}
    for name, row in TABLE.items():
        reference = row.reference.forward if isinstance(row.reference, Op) else row.reference
        found[name] = {"core/reference": stem(reference.__module__)}
        for device, kernel in row.kernels.items():
            if isinstance(kernel, Kernel):
                found[name][f"the kernel for {device}"] = stem(kernel.where.partition(":")[0])
        if hasattr(F, name):
            found[name]["core/functional"] = stem(getattr(F, name).__module__)
    for files in cases.SECTIONS.values():
        for file in files:
            for op in {case.op for case in file.CASES}:
                found[op][f"bench/parity/cases/{stem(file.__name__)}"] = stem(file.__name__)
    return found


FAMILIES = families()


@pytest.mark.parametrize("operation", FAMILIES)
def test_an_operation_has_one_file_name(operation):
    assert len(set(FAMILIES[operation].values())) == 1, FAMILIES[operation]


def test_all_places_are_looked_at():
    places = {place.partition("/cases/")[0] for found in FAMILIES.values() for place in found}
    assert len(places) == 5 and {name for name, found in FAMILIES.items() if "core/functional" in found} >= PUBLIC


@pytest.mark.parametrize("operation", [name for name, row in TABLE.items() if "cpu" in row.kernels])
def test_a_kernel_is_found_where_the_table_says(operation):
    for kernel in TABLE[operation].kernels.values():
        if isinstance(kernel, Kernel) and kernel.where.startswith("kernels.cpu."):
            module, name = kernel.where.split(":")
            assert hasattr(importlib.import_module(module), name)

"""The cases of tests/specs.py, family by family; `inputs` says what a case is and makes its arrays."""

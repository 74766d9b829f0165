"""The cases of bench/parity/cases/__init__.py, family by family; `inputs` says what a case is and makes its arrays."""

"""The tests. A package, so that `from tests.cases import CASES` works however pytest is started."""

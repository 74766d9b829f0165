"""The tests. A package, so that `from tests.specs import CASES` works however pytest is started."""

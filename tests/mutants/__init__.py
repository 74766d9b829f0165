"""Mutation tests: one wrong line at a time is put into the source, and the tests must notice each."""

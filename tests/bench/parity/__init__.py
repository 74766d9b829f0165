"""Tests of `bench/parity`."""

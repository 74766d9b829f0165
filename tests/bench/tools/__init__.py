"""Tests of `bench/tools`."""

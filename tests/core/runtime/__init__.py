"""Tests of `core/runtime`."""

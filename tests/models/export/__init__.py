"""Tests of `models/export`."""

"""Tests of `models/layers`."""

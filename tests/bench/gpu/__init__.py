"""Tests of `bench/gpu`."""

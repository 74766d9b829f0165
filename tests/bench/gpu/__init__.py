"""Tests of `bench/gpu`."""

from bench.gpu.device import Device


def unopened():
    """The Device of a GPU machine, which has not looked for its GPU."""
    device = Device.__new__(Device)
    device.dry = False
    return device

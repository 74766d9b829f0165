"""Batches on their way to the device, while it still works on the last one.

    host      batch -> pinned memory, one of two places in turn; waits only if the copy of two batches ago still runs
    copying   pinned memory -> a place on the device, in a stream of its own, beside the step that is running
    compute   that place -> the fixed buffer, in the current stream, so after that step and before the next

# next: models/training/trainer.py (feed)
"""

from typing import Any


class Place:
    """Room for one batch on both sides; `copied` ends its way to the device, `taken` its way to the buffers."""

    def __init__(self, buffers):
        import cupy
        import cupyx

        self.form = [(b.shape, b.dtype) for b in buffers]
        self.pinned = [cupyx.empty_pinned(b.shape, b.dtype) for b in buffers]
        self.device = [cupy.empty_like(b) for b in buffers]
        self.copied, self.taken = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        cupy.cuda.get_current_stream().record(self.taken)  # what it was given may be in use there until now


class Uploads:
    """send(batch, buffers) copies NumPy arrays into device arrays of the same shapes and dtypes, without a wait."""

    def __init__(self):
        import cupy

        self.cupy, self.stream = cupy, cupy.cuda.Stream(non_blocking=True)
        self.places: list[Any] = [None, None]

    def send(self, batch, buffers):
        place = self._next(buffers)
        place.copied.synchronize()
        for pinned, array in zip(place.pinned, batch):
            pinned[...] = array
        self.stream.wait_event(place.taken)
        for device, pinned in zip(place.device, place.pinned):
            device.set(pinned, stream=self.stream)
        compute = self.cupy.cuda.get_current_stream()
        compute.wait_event(self.stream.record(place.copied))
        for buffer, device in zip(buffers, place.device):
            self.cupy.copyto(buffer, device)
        compute.record(place.taken)

    def _next(self, buffers):
        """The place whose turn it is, made anew where the buffers have another form."""
        self.places.reverse()
        if self.places[0] is None or self.places[0].form != [(b.shape, b.dtype) for b in buffers]:
            self.stream.synchronize()  # nothing is copied from what is given up here
            self.places[0] = Place(buffers)
        return self.places[0]

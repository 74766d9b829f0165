"""Device memory: the most that a call holds at once, by the library's own count, and what the driver has left."""

import gc
from typing import Any

MIB = 1 << 20


def peak(device, library, f) -> tuple[Any, float]:
    """(what f gives, the MiB that it held at most beyond what was there), as CuPy's or torch's allocator counts.

    CuPy's is told of every allocation by a hook, in whichever pool, which takes time: nothing is timed in here."""
    if device.dry:
        return f(), 0.0
    if library == "cupy":
        with _hook(device.xp.cuda.MemoryHook)() as hook:
            return f(), round(hook.most / MIB, 2)
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = f()
    return result, round((torch.cuda.max_memory_allocated() - before) / MIB, 2)


def _hook(base: Any) -> Any:
    class Held(base):
        """Bytes handed out since it began, and the most of them at once."""

        name, held, most = "held", 0, 0

        def malloc_postprocess(self, **call):
            self.held += call["mem_size"]
            self.most = max(self.most, self.held)

        def free_postprocess(self, **call):
            self.held -= call["mem_size"]

    return Held


def tidy(device, library):
    """The library gives back what nobody uses."""
    gc.collect()
    if device.dry:
        return
    if library == "cupy":
        device.xp.get_default_memory_pool().free_all_blocks()
        return
    import torch

    torch.cuda.empty_cache()


def free(device, library) -> float:
    """MiB that the driver has left: graphs, compiled code, workspaces and what allocators keep are gone from it."""
    if device.dry:
        return 0.0
    if library == "cupy":
        return device.xp.cuda.runtime.memGetInfo()[0] / MIB
    import torch

    return torch.cuda.mem_get_info()[0] / MIB

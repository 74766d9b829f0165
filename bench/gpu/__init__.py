"""What `make gpu-check` is made of. It runs by the machine's own Python: what that lacks is said before anything."""

import sys
from importlib.util import find_spec

NEEDED = ("numpy", "safetensors", "tokenizers", "threadpoolctl", "tqdm", "matplotlib", "torch", "triton")

_missing = [name for name in NEEDED if find_spec(name) is None]
if _missing:
    sys.exit(f"gpu-check: {sys.executable} has no {', '.join(_missing)}: nothing was run")

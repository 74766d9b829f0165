"""`make gpu-check DRY=1`: the GPU check without a GPU, with a fake in CuPy's place where steps are captured.

TRITON_INTERPRET=1 python -m tests.fakes.gpu_check [--part PART] [--out DIR]
"""

import sys

from bench.gpu.check import main
from tests.fakes import fake_cupy

if __name__ == "__main__":
    sys.exit(main(["--dry", *sys.argv[1:]], fake_cupy.without_a_gpu))

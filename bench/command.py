"""`assay`, the one command: its first word says which part of the project runs, and that part alone is imported.

So `assay train` and `assay kernels build` need no PyTorch. Each part has a `main(arguments)` of its own, which parses
what follows and answers --help.
"""

import importlib
import sys

PARTS = {  # name: (module of its main, what it does)
    "demo": (
        "models.training.demo",
        "train a GAN, a VAE and a GPT, and write a page of what they make",
    ),
    "train": ("models.__main__", "train a model into a run folder, or continue a run"),
    "sample": ("models.__main__", "images or text from a trained run"),
    "evaluate": ("models.__main__", "figures of trained runs, beside those of real data"),
    "export": ("models.__main__", "ONNX files and PyTorch weights of a trained run"),
    "parity": ("bench.parity.command", "test a function of yours, or all of ours, against a float64 oracle"),
    "bench": ("bench.cpu.command", "time training steps and operations beside PyTorch's"),
    "kernels": ("bench.tools.command", "list, compile, check, trace and tune the hand-written kernels"),
}
FOR_TESTS = ("torch", "triton", "pytest", "onnxruntime")  # packages that training does without


def usage() -> str:
    width = max(map(len, PARTS))
    rows = (f"  {name:<{width}}  {what}" for name, (_, what) in PARTS.items())
    return "\n".join(["usage: assay COMMAND ...", "", *rows, "", "assay COMMAND --help says more about each."])


def main(arguments=None) -> int:
    """Run `assay` with these arguments (those of the process unless given); its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in PARTS:
        what = f"no command {name!r}, should be" if name else "name a command,"
        print(f"error: {what} one of {', '.join(PARTS)} (see assay --help)", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(PARTS[name][0])
        return module.main([name, *rest], prog="assay") if PARTS[name][0] == "models.__main__" else module.main(rest)
    except ModuleNotFoundError as error:
        if error.name not in FOR_TESTS:
            raise
        print(f"error: assay {name} needs {error.name}: make .venv/test installs it", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

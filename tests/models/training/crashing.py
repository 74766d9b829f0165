"""python -m tests.models.training.crashing FAULT ARGUMENTS: `python -m models ARGUMENTS`, which one fault meets on its
way.

FAULT is "what:event:number:part". The event is the number-th time that the process writes a file under its temporary
name ("write"), forces one to disk ("fsync"), renames one ("replace") or takes a step ("update"). Of a write, `part` of
the bytes are written before the fault comes; it comes before any other event if part < 0.5, and after it else. What:

    SIGKILL, SIGINT, SIGTERM   the process sends itself this signal
    full                       no file may grow further than it has come: a write that fails in the middle
    readonly                   the run folder's permissions forbid writing, for root, too
    removed                    the run folder is deleted
    count                      nothing, but the number of events is printed at the end, as JSON
"""

import collections
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from core import checkpoint
from models import __main__
from models.training import trainer
from models.training.runs import Run
from tests import ROOT

TRAIN = ("train", "gan", "--batch", "4", "--steps", "12", "--save-every", "3")


def command(*arguments, module="models"):
    """A command for a process of its own."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def going_on(folder):
    """The arguments that continue a run, or start it again where it had not even come to its settings."""
    begun = (folder / "config.json").exists()
    return ("train", "--resume", folder, *TRAIN[-2:]) if begun else (*TRAIN, "--out", folder)


def finish(folder):
    """Continue a run to its end."""
    return subprocess.run(command(*going_on(folder)), cwd=ROOT, check=True, capture_output=True, text=True)


def meet(fault, folder):
    """Train in `folder`, or go on there, until `fault`."""
    arguments = command(fault, *going_on(folder), module="tests.models.training.crashing")
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


def last(folder):
    """{tensor: bytes} of a run's newest checkpoint."""
    arrays, _ = checkpoint.load(Run.open(folder).saved())
    return {name: a.tobytes() for name, a in arrays.items()}


def contents(folder):
    """{file: what in it may not depend on what happened to the run} of all that a run leaves."""
    found: dict = {}
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            found[path.name] = checkpoint.checksum(checkpoint.load(path)[0], "")
        elif path.suffix == ".jsonl":
            found[path.name] = [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()]
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


# --- inside the process ----------------------------------------


class Fault:
    """Counts events, and strikes at the chosen one."""

    def __init__(self, what, event="", number=0, part=0.0):
        self.what, self.event, self.number, self.part = what, event, int(number), float(part)
        self.seen: collections.Counter = collections.Counter()

    def meets(self, event) -> bool:
        self.seen[event] += 1
        return event == self.event and self.seen[event] == self.number

    def around(self, event, function):
        """`function`, before or after which the fault may come."""

        def wrapped(*arguments, **options):
            now = self.meets(event)
            if now and self.part < 0.5:
                self.strike(arguments)
            result = function(*arguments, **options)
            if now and self.part >= 0.5:
                self.strike(arguments)
            return result

        return wrapped

    def opened(self, path, mode):
        """The file that write_atomically writes to."""
        file = open(path, mode)  # noqa: SIM115 (it is closed where write_atomically leaves it)
        write = file.raw.write  # past Python's buffer, into the system's

        class Watched:
            fileno, flush = file.fileno, file.flush
            __enter__, __exit__ = lambda watched: watched, lambda watched, *error: file.close()

            @staticmethod
            def write(content):
                if self.meets("write"):
                    done = write(content[: int(self.part * len(content))])
                    self.strike((path,), done)
                    content = content[done:]
                file.write(content)

        return Watched()

    def strike(self, where, size=10):
        print(f"\n{self.what} at {self.event} {self.number}, {self.part}: {where}", file=sys.stderr, flush=True)
        folder = Path(sys.argv[sys.argv.index("--out" if "--out" in sys.argv else "--resume") + 1])
        if self.what == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        elif self.what == "readonly":
            folder.chmod(0o555)
            obey_permissions()
        elif self.what == "removed":
            shutil.rmtree(folder)
        else:
            os.kill(os.getpid(), signal.Signals[self.what])


def obey_permissions():
    """Give up root's right to write where permissions forbid it (CAP_DAC_OVERRIDE, number 1)."""
    libc, version = ctypes.CDLL(None, use_errno=True), 0x20080522
    header, sets = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()  # effective first
    if libc.capget(header, sets) == 0:
        sets[0] &= ~(1 << 1)
        libc.capset(header, sets)


def main(fault, *arguments):
    fault = Fault(*fault.split(":"))
    checkpoint.open = fault.opened
    os.fsync, os.replace = fault.around("fsync", os.fsync), fault.around("replace", os.replace)
    trainer.Trainer.update = fault.around("update", trainer.Trainer.update)
    code = __main__.main(arguments)
    if fault.what == "count":
        print(json.dumps(fault.seen))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

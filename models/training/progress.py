"""Progress of long work: a bar where somebody watches, a line now and then where standard error is a file or a pipe."""

import sys
import time

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines; work that is shorter says nothing


class Lines:
    """What is used here of tqdm, printed as lines."""

    def __init__(self, iterable=None, desc="", *, total=None, initial=0, unit="it", **_):
        self.iterable, self.desc, self.unit = iterable, desc, unit
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.first = self.n = self.printed = initial
        self.began = self.last = time.monotonic()
        self.postfix = ""

    def __iter__(self):
        with self:
            for x in self.iterable:
                yield x
                self.update()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def update(self, n=1):
        self.n += n
        if time.monotonic() - self.last >= EVERY:
            self._print()

    def set_description(self, text):
        self.desc = text

    def set_postfix(self, values, refresh=True):
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())

    def set_postfix_str(self, text):
        self.postfix = f", {text}"

    def close(self):
        if self.last > self.began and self.n > self.printed:
            self._print()

    def _print(self):
        self.last, self.printed = time.monotonic(), self.n
        speed = (self.n - self.first) / (self.last - self.began)
        of = f" of {self.total}" if self.total else ""
        line = f"{self.desc}: {self.n}{of} {self.unit}s, {speed:.3g} a second{self.postfix}"
        print(line, file=sys.stderr, flush=True)


def progress(iterable=None, desc="", *, disable=False, **options):
    """tqdm(iterable, desc, ...) where standard error is a terminal, Lines elsewhere."""
    if disable or sys.stderr is None or sys.stderr.isatty():
        return tqdm(iterable, desc, disable=disable, dynamic_ncols=True, **options)
    return Lines(iterable, desc, **options)

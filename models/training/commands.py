"""What the commands share: a bad argument is one line, "error: ...", and an exit code of 2."""

import argparse


class Parser(argparse.ArgumentParser):
    """argparse's, without the usage in front of an error; its subcommands are made of it too."""

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())} (see {self.prog} --help)\n")


def positive(text):
    """An argument that counts something."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, at least 1 (and below 2^31)")
    return int(text)

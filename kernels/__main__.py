"""python -m kernels explain: the dispatch table, what runs on a CPU and what on a GPU."""

import argparse
import sys

from core import dispatch


def explain():
    """Every operation, and on each device its kernel or the reason why its reference runs."""
    width = max(map(len, dispatch.TABLE))
    for name in sorted(dispatch.TABLE):
        operation, _, rest = dispatch.explain(name).partition(": ")
        print(f"{operation:<{width}}  {rest}")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("explain", help="the dispatch table").set_defaults(run=explain)
    parser.parse_args(arguments).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures every figure and writes docs/figures.json and docs/figures.md.

tests/engine.sh exec .venv/bin/python -m tests.bench.run [--pairs N] [--only NAME] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench import added_time, eight_users, one_user, poll_during_stop
from tests.bench.figures import DOCS, Figure, machine, print_figures, write

FIGURES = {
    "one_user": one_user.measure,
    "added_time": added_time.measure,
    "eight_users": eight_users.measure,
    "poll_during_stop": poll_during_stop.measure,
}


def main() -> int:
    """Measure; 0 where every goal is met, otherwise 1."""
    parser = argparse.ArgumentParser(description="Measure every figure.")
    parser.add_argument("--pairs", type=int, help="how often each is measured (default: each figure's own number)")
    parser.add_argument("--only", choices=sorted(FIGURES), help="one of them; the others stay as they were")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the results (default: docs)")
    options = parser.parse_args()
    figures: list[Figure] = []
    command = " ".join(["python -m tests.bench.run", *sys.argv[1:]])
    for name, measure in FIGURES.items():
        if options.only in (None, name):
            print(f"measuring {name}", file=sys.stderr, flush=True)
            shape = machine()
            found = measure(options.pairs) if options.pairs else measure()
            # Each at once, so that one that fails takes nothing from the others.
            write(found, shape, command, options.out)
            figures += found
    print_figures(figures)
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

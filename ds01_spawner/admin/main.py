"""`ds01-hub`: the admin's command on the host. Each subcommand is a module that adds its own parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ds01_spawner.admin import lint
from ds01_spawner.core.errors import DS01Error

#: What each subcommand's module offers: it adds a parser whose `run` default takes the arguments, gives a status.
ADDERS: tuple[Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None], ...] = (lint.add_parser,)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status: 0 done, 1 refused or failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="ds01-hub", description="Administration of DS01 Hub on its host.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in ADDERS:
        add(commands)
    args = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except DS01Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

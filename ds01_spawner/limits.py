"""`python -m ds01_spawner.limits USER`: what a user may have, and which rule and line says so.

Reads the limits file alone; the hub need not run. Exit status: 0, 1 where the file is wrong, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ds01_spawner.adapters.clock import system_clock
from ds01_spawner.adapters.host import read_host
from ds01_spawner.adapters.quota_yaml import default_file, load
from ds01_spawner.adapters.site_environ import site_environ
from ds01_spawner.core import wire
from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.limits import BUILT_IN, Limits, ResolvedLimits
from ds01_spawner.core.principals import Principal
from ds01_spawner.core.quota import KEYS, NOT_IN_FORCE, clamp, resolve
from ds01_spawner.core.units import compact_bytes
from ds01_spawner.core.usage import Usage


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    args = _parser().parse_args(argv)
    path = args.config or default_file(site_environ())
    try:
        resolved = resolve(load(path), Principal(args.user, tuple(args.group)), now=system_clock())
        if args.this_machine:
            resolved = clamp(resolved, read_host(args.memory_reserve))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(as_json(resolved), indent=2))
    elif args.docker_args:
        print(docker_args(resolved.limits))
    else:
        print(as_text(resolved, path))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ds01_spawner.limits",
        description="Print what a user may have, and which rule and line of the limits file says so.",
    )
    parser.add_argument("user", help="a hub user's name")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the limits file (default: the one of this install)"
    )
    parser.add_argument(
        "--group", "--member-of", action="append", default=[], metavar="GROUP",
        help="a group that the hub has the user in, beside those that the file names; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--this-machine", action="store_true", help="lower CPUs and memory to what this machine has, as the hub does"
    )
    parser.add_argument(
        "--memory-reserve", type=float, default=0.1, metavar="PART",
        help="with --this-machine: the part of the memory that no container gets (default 0.1)",
    )  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="key to {value, source, line, in_force}")
    output.add_argument("--docker-args", action="store_true", help="one line of arguments for `docker run`")
    return parser


def as_json(resolved: ResolvedLimits) -> dict[str, Any]:
    """Every key with its value, rule, line and whether anything acts on it, as the hub's API tells it."""
    keys: dict[str, Any] = wire.limits(resolved, Usage())["limits"]
    return keys


def as_text(resolved: ResolvedLimits, path: Path) -> str:
    """The table for people."""
    lines = [
        f"User:   {resolved.user}",
        f"Group:  {resolved.group or 'none'}",
        f"File:   {path}",
        *([f"Reason: {resolved.reason}"] if resolved.reason else []),
        "",
    ]
    rows = [(key, spec.show(getattr(resolved.limits, key)), _origin(resolved, key)) for key, spec in KEYS.items()]
    width = [max(len(row[column]) for row in rows) for column in (0, 1, 2)]
    for row in rows:
        mark = "not in force yet" if row[0] in NOT_IN_FORCE else ""
        lines.append("   ".join([*(cell.ljust(size) for cell, size in zip(row, width, strict=True)), mark]).rstrip())
    lines += [f"Note: {note}" for note in resolved.notes]
    return "\n".join(lines)


def _origin(resolved: ResolvedLimits, key: str) -> str:
    source = resolved.source(key)
    if source is BUILT_IN:
        return "built in, the file says nothing"
    return source.rule if source.line is None else f"{source.rule}, line {source.line}"


def docker_args(limits: Limits) -> str:
    """The limits that `docker run` takes; what is unlimited is left out, but for swap, which needs to be told."""
    args = []
    if limits.max_cpus is not None:
        args.append(f"--cpus={_decimal(limits.max_cpus)}")
    if limits.memory is not None:
        swap = -1 if limits.memory_swap is None else limits.memory_swap
        args += [
            f"--memory={compact_bytes(limits.memory)}",
            f"--memory-swap={swap if swap < 0 else compact_bytes(swap)}",
        ]
    if limits.shm_size is not None:
        args.append(f"--shm-size={compact_bytes(limits.shm_size)}")
    if limits.pids_limit is not None:
        args.append(f"--pids-limit={limits.pids_limit}")
    if limits.storage_tmp is not None:
        # The kernel knows k, m and g here, and a bare number of bytes.
        args.append(f"--tmpfs=/tmp:size={compact_bytes(limits.storage_tmp).removesuffix('b')}")
    return " ".join(args)


def _decimal(cpus: Fraction) -> str:
    """CPUs as Docker reads them: at most nine decimals, and never more than allowed."""
    return f"{int(cpus * 10**9) / 10**9:.9f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    raise SystemExit(main())

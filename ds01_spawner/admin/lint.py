"""`ds01-hub lint`: everything that is wrong with the limits file, also against this machine's hardware."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ds01_spawner.adapters.clock import system_clock
from ds01_spawner.adapters.host import read_host
from ds01_spawner.adapters.quota_yaml import CHECKOUT, default_file, inspect
from ds01_spawner.adapters.site_environ import site_environ
from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.errors import InventoryUnavailable
from ds01_spawner.core.quota_lint import findings
from ds01_spawner.core.quota_policy import Finding, Severity, in_order


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `lint` to `ds01-hub`."""
    parser = commands.add_parser(
        "lint",
        help="check the limits file",
        description="Check the limits file, also against this machine. Status 1 where it has an error.",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: the limits file of this install")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    parser.add_argument("--no-hardware", action="store_true", help="don't compare with this machine")
    parser.add_argument(
        "--simulated-gpus", type=Path, metavar="FILE", default=simulated_gpus(site_environ()),
        help="compare with a simulated machine's GPUs (default: DS01_SIMULATED_GPUS)",
    )  # fmt: skip
    parser.add_argument(
        "--memory-reserve", type=float, default=0.1, metavar="PART",
        help="the part of the memory that no container gets (default 0.1)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def simulated_gpus(environ: Mapping[str, str]) -> Path | None:
    """The simulated machine that this install is set to, None for the real one."""
    file = environ.get("DS01_SIMULATED_GPUS", "").strip()
    return CHECKOUT / file if file else None


def run(args: argparse.Namespace) -> int:
    """Check, print, and give the exit status."""
    path: Path = args.file or default_file(site_environ())
    found = list(check(path, None if args.no_hardware else read_host(args.memory_reserve), args.simulated_gpus))
    if args.json:
        print(json.dumps({"file": str(path), "findings": [as_json(finding) for finding in found]}, indent=2))
    else:
        print(as_text(found, path))
    fatal = {Severity.ERROR, Severity.WARNING} if args.strict else {Severity.ERROR}
    return 1 if any(finding.severity in fatal for finding in found) else 0


def check(path: Path, host: Host | None, simulated: Path | None) -> tuple[Finding, ...]:
    """All findings on a file; without a host it is not compared with the machine. Raises ConfigError."""
    policy, found = inspect(path)
    if policy is None:
        return found
    inventory: Inventory | None = None
    if host is not None:
        try:
            inventory = asyncio.run(read_inventory(simulated))
        except InventoryUnavailable as error:
            message = f"GPU limits were not compared with the machine: {error}"
            found = (*found, Finding(Severity.WARNING, message, str(path)))
    return in_order((*found, *findings(policy, inventory, host, now=system_clock())), str(path))


async def read_inventory(simulated: Path | None) -> Inventory:
    """The GPUs that the hub would lease. Raises InventoryUnavailable, ConfigError."""
    if simulated is not None:
        from ds01_spawner.adapters.simulated_gpus import SimulatedInventory

        return await SimulatedInventory(simulated, "local", system_clock).read()
    # Here, since a machine that lints a file needs no NVML.
    from ds01_spawner.adapters.nvml import NvmlInventory

    return await NvmlInventory("local", clock=system_clock).read()


def as_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain values."""
    return {
        "severity": finding.severity.value,
        "file": finding.file,
        "line": finding.line,
        "key": finding.key,
        "message": finding.message,
    }


def as_text(found: Iterable[Finding], path: Path) -> str:
    """One line for each finding, and a sum."""
    listed = list(found)
    errors, warnings = (
        sum(finding.severity is kind for finding in listed) for kind in (Severity.ERROR, Severity.WARNING)
    )
    result = f"{path}: {errors} error(s), {warnings} warning(s)" if errors or warnings else f"{path}: no error"
    return "\n".join([*map(str, listed), result])

"""`python -m ds01_spawner.admin.found`: what `./run` says of this machine: its engine, and its GPUs if any."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import docker

from ds01_spawner.adapters.clock import system_clock
from ds01_spawner.adapters.nvml import NvmlInventory
from ds01_spawner.adapters.simulated_gpus import SimulatedInventory
from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.errors import ConfigError, InventoryUnavailable
from ds01_spawner.core.placement import classes


def engine_line() -> str:
    """The engine and its version."""
    try:
        version = docker.from_env().version()
    except docker.errors.DockerException as problem:
        return f"Container engine: no answer ({problem})"
    return f"Container engine: Docker {version['Version']} (API {version['ApiVersion']})"


async def read_inventory(simulated: str) -> Inventory:
    """The GPUs that the hub will use."""
    if simulated:
        return await SimulatedInventory(Path(simulated), "local", system_clock).read()
    return await NvmlInventory("local", clock=system_clock).read()


def gpu_lines(inventory: Inventory) -> list[str]:
    """One line for all, then one for each GPU, then what the admin should know."""
    if not inventory.gpus:
        return ["GPUs: no GPU: CPU only", *(f"  {note}" for note in inventory.notes)]
    kind = "simulated GPUs" if inventory.simulated else "GPUs"
    offered = ", ".join(f"{count} x {name}" for name, count in classes(inventory.devices()).items())
    lines = [f"GPUs: {len(inventory.gpus)} {kind} (driver {inventory.driver}), which offer {offered or 'no device'}"]
    lines += [f"  {gpu.index}: {gpu.model}, MIG {'on' if gpu.mig else 'off'}, {gpu.health}" for gpu in inventory.gpus]
    return lines + [f"  note: {note}" for note in inventory.notes]


def main() -> int:
    """Print what was found; 0 also where there is no GPU."""
    print(engine_line())
    try:
        inventory = asyncio.run(read_inventory(os.environ.get("DS01_SIMULATED_GPUS", "")))
    except (InventoryUnavailable, ConfigError) as problem:
        print(f"GPUs: unknown, so none is given out: {problem}")
        return 0
    print("\n".join(gpu_lines(inventory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

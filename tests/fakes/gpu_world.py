"""A machine that tests change at will, behind each of the two inventories: one YAML topology feeds both."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ds01_spawner.adapters.nvml import NvmlInventory
from ds01_spawner.adapters.simulated_gpus import SimulatedInventory
from ds01_spawner.core.ports import GpuInventory
from tests.fakes import nvml_library
from tests.fakes.nvml_library import Machine

SHIPPED = Path(__file__).parents[2] / "config" / "simulated"
BOARDS = SHIPPED / "boards.yaml"
NOW = 1_700_000_000.0


def uuid(number: int) -> str:
    """The UUID of the GPU with this number."""
    return f"GPU-0a000000-0000-4000-8000-{number:012d}"


def gpu(number: int, *instances: str, board: str = "a100-40", **more: Any) -> dict[str, Any]:
    """A GPU of a topology; instances are `profile@start`, and any one of them, or `mig=True`, turns MIG on."""
    cut = [{"profile": name, "start": int(start)} for name, start in (i.split("@") for i in instances)]
    return {"board": board, "uuid": uuid(number)} | ({"mig": True, "instances": cut} if cut else {}) | more


class World:
    """One machine. `show` changes it, `change` what only NVML knows of it, `inventory` is what is tested."""

    def __init__(self, folder: Path, library: ctypes.CDLL | None) -> None:
        self._topology, self._machine_file = folder / "topology.yaml", folder / "machine.txt"
        self.library = library
        self.machine: Machine | None = None
        self.show(gpu(0))

    @property
    def simulated(self) -> bool:
        return self.library is None

    def show(self, *gpus: dict[str, Any]) -> None:
        """Let the machine have these GPUs from now on."""
        top = {"version": 1, "driver": "550.163.01", "cuda": "12.4", "gpus": list(gpus)}
        self.show_text(yaml.safe_dump(top))

    def show_text(self, text: str) -> None:
        """Let the machine be as this topology file says."""
        self._topology.write_text(text, encoding="utf-8")
        self.machine = Machine(nvml_library.topology(self._topology, BOARDS))
        self.machine.write(self._machine_file)

    def change(self, edit: Callable[[Machine], object]) -> None:
        """Change the machine in a way that a topology file can't say."""
        assert self.machine is not None
        edit(self.machine)
        self.machine.write(self._machine_file)

    def inventory(self, **settings: Any) -> GpuInventory:
        """A new inventory of this machine, as after a restart."""
        if self.simulated:
            return SimulatedInventory(self._topology, "n1", lambda: NOW, boards_file=BOARDS)
        settings.setdefault("deadline", 60.0)
        settings.setdefault("kernel_module", self._topology)
        return NvmlInventory("n1", clock=lambda: NOW, **settings)


@contextmanager
def nvml_world(folder: Path, library: Path, setenv: Callable[[str, str], None]) -> Iterator[World]:
    """A machine behind the real NVML adapter, the real pynvml and the stand-in library."""
    setenv(nvml_library.VARIABLE, str(folder / "machine.txt"))
    with nvml_library.loaded(library) as loaded:
        yield World(folder, loaded)

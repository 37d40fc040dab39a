"""Builds the stand-in `libnvidia-ml.so.1` and writes the machine that it plays.

`build` compiles `nvml/nvml.c` together with a stub for every other symbol that pynvml may look up. `Machine` holds
what is to be played; `write` puts it where the library reads it, on every call anew.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pynvml

from ds01_spawner.adapters.simulated_topology import Topology, TopologyGpu, read_boards, read_topology
from ds01_spawner.core.devices import Health

SOURCE = Path(__file__).with_name("nvml") / "nvml.c"
LIBRARY = "libnvidia-ml.so.1"
#: The environment variable that names the machine's file.
VARIABLE = "DS01_FAKE_NVML"
_SYMBOL = re.compile(r'_nvmlGetFunctionPointer\("(\w+)"\)')
_DEFINED = re.compile(r"^(?:int|const char \*) ?\*?(nvml\w+)\(", re.MULTILINE)
_STATES = {Health.OK: "ok", Health.DRAINING: "reset_required", Health.LOST: "lost"}


def symbols() -> frozenset[str]:
    """Every symbol that pynvml may look up."""
    return frozenset(_SYMBOL.findall(Path(pynvml.__file__).read_text(encoding="utf-8")))


def played() -> frozenset[str]:
    """The symbols that the stand-in really plays."""
    return frozenset(_DEFINED.findall(SOURCE.read_text(encoding="utf-8")))


def compiler() -> str | None:
    """The C compiler, None where there is none."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library into `folder`; the path of the file. Raises CalledProcessError with the compiler's words."""
    stubs = folder / "stubs.c"
    stubs.write_text("".join(f"int {name}(void) {{ return 3; }}\n" for name in sorted(symbols() - played())))
    library = folder / LIBRARY
    command = [compiler() or "gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(SOURCE), str(stubs)], check=True)
    return library


@contextmanager
def loaded(library: Path) -> Iterator[ctypes.CDLL]:
    """Have pynvml use this library, and forget it and all that pynvml kept of it afterwards."""
    kept = pynvml.nvmlLib, pynvml._nvmlLib_refcount, dict(pynvml._nvmlGetFunctionPointer_cache)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib, pynvml._nvmlLib_refcount = ctypes.CDLL(str(library)), 0
    pynvml.nvmlLib.fake_reset()
    try:
        yield pynvml.nvmlLib
    finally:
        pynvml.nvmlLib, pynvml._nvmlLib_refcount = kept[:2]
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(kept[2])


@dataclass
class Machine:
    """What the library plays. `errors` are (symbol, code, GPU index or -1), `hangs` (symbol, file that holds it).

    `indices` gives a MIG device another index than its place in the list: `{(GPU, place): index}`.
    `part` makes a compute instance smaller than its GPU instance: `{(GPU, place): slices}`.
    """

    topology: Topology
    ordinary: bool = False
    errors: list[tuple[str, int, int]] = field(default_factory=list)
    hangs: list[tuple[str, Path]] = field(default_factory=list)
    indices: dict[tuple[int, int], int] = field(default_factory=dict)
    part: dict[tuple[int, int], int] = field(default_factory=dict)

    def text(self) -> str:
        """The file, as `nvml.c` describes it."""
        major, minor = self.topology.cuda
        rows: list[tuple[object, ...]] = [
            ("driver", self.topology.driver),
            ("cuda", major * 1000 + minor * 10),
            ("user", "ordinary" if self.ordinary else "privileged"),
            *(("error", *error) for error in self.errors),
            *(("hang", *hang) for hang in self.hangs),
        ]
        for gpu in self.topology.gpus:
            rows += self._gpu(gpu)
        return "".join("\t".join(map(str, row)) + "\n" for row in rows)

    def write(self, path: Path) -> None:
        """Put the machine in place at once: the library never sees half a file."""
        new = path.with_suffix(".new")
        new.write_text(self.text(), encoding="utf-8")
        os.replace(new, path)

    def _gpu(self, gpu: TopologyGpu) -> Iterator[tuple[object, ...]]:
        board = gpu.board
        yield (
            "gpu", gpu.uuid, board.model, board.memory_mib, gpu.pci_bus, hex(board.pci), int(bool(board.profiles)),
            int(gpu.mig), int(gpu.mig_pending), int(gpu.persistence), _STATES[gpu.state],
        )  # fmt: skip
        for profile in board.profiles:
            shape = profile.shape
            starts = ",".join(map(str, shape.starts))
            yield (
                "profile", profile.enum, profile.id, shape.slices, shape.size, shape.memory_mib, profile.sm,
                profile.reported_max, profile.media, shape.name, starts,
            )  # fmt: skip
        for place, instance in enumerate(gpu.instances):
            key = (gpu.index, place)
            profile_id = next(p.id for p in board.profiles if p.shape.name == instance.profile)
            slices = self.part.get(key, instance.slices)
            index = self.indices.get(key, place)
            yield "instance", index, instance.gi, instance.ci, profile_id, instance.start, slices, instance.uuid


def topology(file: Path, boards_file: Path) -> Topology:
    """A topology file, read as the simulated inventory reads it."""
    boards = read_boards(boards_file, boards_file.read_text(encoding="utf-8"))
    return read_topology(file, file.read_text(encoding="utf-8"), boards)

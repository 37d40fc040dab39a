"""GPUs that exist only in a YAML file, for machines without one: demos, hub tests, a first look.

The file is looked at on every reading, so a test or a demo breaks a GPU or changes a layout by writing to it.
"""

from __future__ import annotations

from pathlib import Path

from ds01_spawner.adapters.gpu_findings import findings, pending_reason
from ds01_spawner.adapters.simulated_topology import Topology, TopologyGpu, read_boards, read_topology
from ds01_spawner.core.devices import Gpu, Health, Inventory
from ds01_spawner.core.errors import ConfigError, InventoryUnavailable
from ds01_spawner.core.ports import Clock

#: Stands before each model's name, so that no list can show a simulated GPU as a real one.
PREFIX = "Simulated "


class SimulatedInventory:
    """A `GpuInventory` played from a topology file and the `boards.yaml` beside it (or at `boards_file`).

    Raises ConfigError when made from a wrong file. A file that goes wrong later makes `read` raise
    InventoryUnavailable with the same text: no wrong edit is ever taken for a machine without GPUs.
    """

    def __init__(
        self, topology_file: str | Path, node: str, clock: Clock, *, boards_file: str | Path | None = None
    ) -> None:
        self._file = Path(topology_file)
        self._boards_file = Path(boards_file) if boards_file else self._file.with_name("boards.yaml")
        self._node, self._clock = node, clock
        self._texts: tuple[str, str] | None = None
        self._topology = self._load()

    async def read(self) -> Inventory:
        """The machine as the file describes it now. Raises InventoryUnavailable where the file is wrong."""
        try:
            self._topology = self._load()
        except ConfigError as error:
            raise InventoryUnavailable(f"the simulated GPUs can't be read: {error}") from error
        topology = self._topology
        gpus = tuple(_gpu(gpu) for gpu in topology.gpus)
        notes = [f"The GPUs of this machine are simulated ({self._file.name})."]
        for gpu, source in zip(gpus, topology.gpus, strict=True):
            notes += findings(gpu, persistence=source.persistence)
        return Inventory(self._node, gpus, topology.driver, topology.cuda, True, self._clock(), tuple(notes))

    def _load(self) -> Topology:
        # Compared by content: two edits within one tick of the file system's clock must both be seen.
        texts = _text(self._boards_file), _text(self._file)
        if texts != self._texts:
            topology = read_topology(self._file, texts[1], read_boards(self._boards_file, texts[0]))
            self._texts, self._topology = texts, topology
        return self._topology


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read: {error}", file=str(path)) from error


def _gpu(source: TopologyGpu) -> Gpu:
    board = source.board
    health, reason = _health(source)
    return Gpu(
        source.uuid, source.index, PREFIX + board.model, board.memory_mib, source.pci_bus, source.mig, board.axis,
        board.slices, tuple(p.shape for p in board.profiles), source.instances, health, reason,
    )  # fmt: skip


def _health(source: TopologyGpu) -> tuple[Health, str]:
    if source.state is not Health.OK:
        return source.state, f"the topology file says {source.state}"
    reason = pending_reason(source.mig, source.mig_pending)
    return (Health.DRAINING, reason) if reason else (Health.OK, "")

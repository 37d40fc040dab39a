"""The machine's GPUs as one frozen snapshot, and the devices that can be leased from it.

A device is a whole GPU or a MIG instance. Its logical id is (node, GPU UUID, profile, start slot); its MIG UUID
changes when the instance is made anew and is looked up in the snapshot each time that a container starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

FULL = "full"
#: Slots that a full GPU claims where its axis can't be read: wider than every board known (12).
UNKNOWN_AXIS = 16


class Health(StrEnum):
    """What NVML says of a GPU. Only `ok` is granted; `unknown` is neither free nor broken."""

    OK = "ok"
    DRAINING = "draining"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Profile:
    """One shape that a board offers: compute slices, memory (MiB), slots on the memory axis, possible start slots."""

    name: str
    slices: int
    memory_mib: int
    size: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A GPU instance with its compute instance. `start` and `size` are None where NVML may not tell."""

    uuid: str
    gi: int
    ci: int
    profile: str
    slices: int
    memory_mib: int
    start: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `axis` is the width of the memory axis in slots (1 where MIG is impossible, None unknown);
    `slices` its compute slices (1 where MIG is impossible); `mig` None where the mode can't be read."""

    uuid: str
    index: int
    model: str
    memory_mib: int
    pci_bus: str = ""
    mig: bool | None = False
    axis: int | None = 1
    slices: int = 1
    profiles: tuple[Profile, ...] = ()
    instances: tuple[MigInstance, ...] = ()
    health: Health = Health.OK
    health_reason: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """Something that can be leased. `uuid` is what the container runtime is given: the GPU's or the MIG instance's."""

    node: str
    gpu_uuid: str
    profile: str
    start: int | None
    size: int | None
    slices: int
    gpu_slices: int
    memory_mib: int
    uuid: str
    gi: int | None = None

    @property
    def id(self) -> str:
        """The logical id, the same after the instance was made anew: `node/GPU-…/1g.5gb@4`."""
        where = f"gi{self.gi}" if self.start is None and self.profile != FULL else self.start
        return f"{self.node}/{self.gpu_uuid}/{self.profile}@{where}"

    @property
    def full(self) -> bool:
        """True for a whole GPU."""
        return self.profile == FULL

    @property
    def gpueq(self) -> Fraction:
        """GPU-equivalents: 1 for a whole GPU, otherwise compute slices over the GPU's slices. Exact."""
        return Fraction(1) if self.full else Fraction(self.slices, self.gpu_slices)

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that a lease of this device claims. An instance whose start is unknown claims `gi:<id>`."""
        if self.full:
            return tuple(str(slot) for slot in range(self.size or UNKNOWN_AXIS))
        if self.start is None or self.size is None:
            return (f"gi:{self.gi}",)
        return tuple(str(slot) for slot in range(self.start, self.start + self.size))

    @property
    def mig_class(self) -> str:
        """`full`, or the class that a user would ask for: `2g`."""
        return FULL if self.full else f"{self.slices}g"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs of one node, read at one time. `notes` are findings for the admin, one sentence each."""

    node: str
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] | None = None
    simulated: bool = False
    taken_at: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def devices(self) -> tuple[Device, ...]:
        """Every device that could be leased if nothing were, sorted. A GPU with MIG on and no instance offers none."""
        found = [device for gpu in self.gpus if gpu.health is Health.OK for device in _devices_of(self.node, gpu)]
        return tuple(sorted(found, key=lambda d: (self._index(d.gpu_uuid), -1 if d.start is None else d.start, d.uuid)))

    def find(self, gpu_uuid: str) -> Gpu | None:
        """The GPU with this UUID."""
        return next((gpu for gpu in self.gpus if gpu.uuid == gpu_uuid), None)

    def _index(self, gpu_uuid: str) -> int:
        gpu = self.find(gpu_uuid)
        return gpu.index if gpu else -1


def _devices_of(node: str, gpu: Gpu) -> list[Device]:
    if gpu.mig is None:
        return []
    if not gpu.mig:
        return [Device(node, gpu.uuid, FULL, 0, gpu.axis, gpu.slices, gpu.slices, gpu.memory_mib, gpu.uuid)]
    return [
        Device(node, gpu.uuid, i.profile, i.start, i.size, i.slices, gpu.slices, i.memory_mib, i.uuid, i.gi)
        for i in gpu.instances
    ]

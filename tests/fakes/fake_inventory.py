"""GPUs made of plain values: MIG boards with instances, whole GPUs, and an outage."""

from __future__ import annotations

from dataclasses import replace

from ds01_spawner.core.devices import Gpu, Inventory, MigInstance
from ds01_spawner.core.errors import InventoryUnavailable

#: Profile name to (compute slices, memory in MiB, slots) on an 8-slot axis.
PROFILES = {
    "1g.5gb": (1, 4864, 1),
    "1g.10gb": (1, 9856, 2),
    "2g.10gb": (2, 9856, 2),
    "3g.20gb": (3, 19968, 4),
    "4g.20gb": (4, 19968, 4),
    "7g.40gb": (7, 40192, 8),
}


def full_gpu(index: int, *, memory_mib: int = 40960, **values: object) -> Gpu:
    """A GPU that is not divided; its UUID tells its index."""
    gpu = Gpu(f"GPU-{index:04d}", index, "Test GPU", memory_mib, mig=False, axis=8, slices=7)
    return replace(gpu, **values)  # type: ignore[arg-type]


def mig_gpu(index: int, layout: dict[int, str], *, generation: int = 0, known_starts: bool = True) -> Gpu:
    """A divided GPU: start slot to profile. Another generation has other UUIDs, as instances made anew have."""
    instances = []
    for gi, (start, profile) in enumerate(sorted(layout.items()), 1):
        slices, memory, size = PROFILES[profile]
        place = (start, size) if known_starts else (None, None)
        uuid = f"MIG-{index:04d}-{start}-{generation}"
        instances.append(MigInstance(uuid, gi, 0, profile, slices, memory, *place))
    return replace(full_gpu(index), mig=True, instances=tuple(instances))


SEVEN_SLICES = mig_gpu(0, dict.fromkeys(range(7), "1g.5gb"))


class FakeInventory:
    """`core.ports.GpuInventory`. `outage` makes reading fail; `gpus` may be changed at any time."""

    def __init__(self, *gpus: Gpu, node: str = "local") -> None:
        self.gpus, self.node = gpus, node
        self.outage = False
        self.reads = 0

    @property
    def now(self) -> Inventory:
        return Inventory(self.node, self.gpus)

    async def read(self) -> Inventory:
        self.reads += 1
        if self.outage:
            raise InventoryUnavailable("the GPUs can't be read: injected")
        return self.now

"""Which devices a request gets: deterministic best fit over the devices that exist and that nothing holds.

The smallest adequate device is taken, from the GPU with the fewest free devices left, so that empty GPUs stay whole.
Equal inputs give equal placements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ds01_spawner.core.devices import Device, Health, Inventory
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import Lease
from ds01_spawner.core.requests import GpuKind, GpuRequest, Request

GB = 10**9
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """What can't be granted: claimed (GPU UUID, slot) pairs, and UUIDs that something outside of us uses."""

    claims: frozenset[tuple[str, str]] = frozenset()
    external: frozenset[str] = frozenset()


def claims_of(leases: Iterable[Lease]) -> frozenset[tuple[str, str]]:
    """Every (GPU UUID, slot) that live leases hold."""
    return frozenset(
        (device.gpu_uuid, slot) for lease in leases if lease.live for device in lease.devices for slot in device.slots
    )


def free_devices(inventory: Inventory, taken: Taken) -> tuple[Device, ...]:
    """The devices that could be granted now. A GPU with a claim of unknown place isn't granted as a whole."""
    touched = Counter(gpu for gpu, _ in taken.claims)
    return tuple(device for device in inventory.devices() if not _is_taken(device, inventory, taken, touched))


def _is_taken(device: Device, inventory: Inventory, taken: Taken, touched: Counter[str]) -> bool:
    if {device.uuid, device.gpu_uuid} & taken.external:
        return True
    if any((device.gpu_uuid, slot) in taken.claims for slot in device.slots):
        return True
    if device.full:
        gpu = inventory.find(device.gpu_uuid)
        inside = {instance.uuid for instance in gpu.instances} if gpu else set()
        return bool(touched[device.gpu_uuid] or inside & taken.external)
    # Numbered slots and `gi:` slots can't be compared: where both ways of naming meet, nothing more is granted.
    unknown = device.slots[0].startswith("gi:")
    return any(gpu == device.gpu_uuid and slot.startswith("gi:") is not unknown for gpu, slot in taken.claims)


def fits(device: Device, gpu: GpuRequest, allow_full: bool) -> bool:
    """Whether a device answers a request. A class is exact; a size takes any device with that memory."""
    if gpu.kind is GpuKind.FULL:
        return device.full
    if gpu.kind is GpuKind.MIG_CLASS:
        return not device.full and device.slices == gpu.amount
    return device.memory_mib * MIB >= gpu.amount * GB and (allow_full or not device.full)


def place(request: Request, inventory: Inventory, taken: Taken, *, allow_full: bool = True) -> tuple[Device, ...]:
    """The devices for a request, or a `Refusal`: no such device on this machine, or all of them are in use."""
    if request.gpu is None:
        return ()
    every = [device for device in inventory.devices() if fits(device, request.gpu, allow_full)]
    if len(every) < request.count:
        raise _no_such_device(request, inventory, len(every))
    free = free_devices(inventory, taken)
    chosen: list[Device] = []
    while len(chosen) < request.count:
        own = frozenset((device.gpu_uuid, slot) for device in chosen for slot in device.slots)
        left = free_devices(inventory, Taken(taken.claims | own, taken.external))
        candidates = [device for device in left if fits(device, request.gpu, allow_full)]
        if not candidates:
            raise _busy(request, every, free)
        chosen.append(min(candidates, key=lambda d: _preference(d, free, chosen)))
    return tuple(chosen)


def _preference(device: Device, free: Collection[Device], chosen: Collection[Device]) -> tuple[object, ...]:
    left_on_gpu = sum(d.gpu_uuid == device.gpu_uuid and d not in chosen for d in free)
    return (
        device.memory_mib,
        device.gpueq,
        left_on_gpu,
        device.gpu_uuid,
        -1 if device.start is None else device.start,
        device.uuid,
    )


def classes(devices: Iterable[Device]) -> dict[str, int]:
    """How many of each class: `{"1g": 3, "full": 1}`, smallest class first."""
    counted = Counter(device.mig_class for device in devices)
    return dict(sorted(counted.items(), key=lambda item: (item[0] == "full", item[0])))


def _listed(devices: Iterable[Device]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in classes(devices).items()) or "none"


def _no_such_device(request: Request, inventory: Inventory, have: int) -> Refusal:
    devices = inventory.devices()
    ill = [gpu for gpu in inventory.gpus if gpu.health is not Health.OK]
    offered = f"It offers: {_listed(devices)}." if devices else "It has no GPU to give: start without one (CPU only)."
    sick = f" {len(ill)} GPU(s) are out of service." if ill else ""
    return Refusal(
        Reason.NO_SUCH_DEVICE,
        f"This machine can't give {request}: it has {have} of that kind. {offered}{sick}",
        asked=str(request),
        allowed=have,
        fits=classes(devices),
    )


def _busy(request: Request, every: Collection[Device], free: Collection[Device]) -> Refusal:
    same = sum(device in every for device in free)
    return Refusal(
        Reason.BUSY,
        f"{request}: {same} of {len(every)} of that kind are free now. Free on this machine: {_listed(free)}. "
        "Take one of those, start without a GPU, or try again later.",
        asked=str(request),
        used=len(every) - same,
        allowed=len(every),
        fits=classes(free),
    )

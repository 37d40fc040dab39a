"""What must happen so that ledger, engine and GPUs agree again: decided here, done by `ds01_spawner.reconciler`.

Nothing is freed before its container's absence was observed, and nothing is freed, granted or destroyed on account of a
part that gives no answer. Each decision looks at one lease or one container, so that it can be made again right before
it is carried out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from ds01_spawner.core import labels
from ds01_spawner.core.devices import Device, Gpu, Health, Inventory
from ds01_spawner.core.lease_events import exit_cause
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.placement import Taken, claims_of, free_devices
from ds01_spawner.core.ports import ContainerView

#: The reason of a lease that was written for a container found running.
ADOPTED = "adopted"


class Act(StrEnum):
    """What can be done."""

    CONFIRM = "confirm"  # bind a lease to its running container
    REAP = "reap"  # keep how a container ended, remove it, release its lease
    DISCARD = "discard"  # stop and remove a container, release its lease
    ABSENT = "absent"  # release a lease whose container is gone
    END_HOLD = "end-hold"  # release a lease that was kept after its container
    LOSE = "lose"  # the hardware under a running container is gone
    ADOPT = "adopt"  # write a lease for a running container of ours
    QUARANTINE = "quarantine"  # stop a container of ours that can't be adopted
    SWEEP = "sweep"  # remove an ended container of ours that has no lease
    FORGED = "forged"  # tell of labels that aren't ours; the container is left alone


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, for one lease or one container."""

    act: Act
    owner: Owner
    lease_id: str = ""
    container_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """All three truths at one time. `trusted` are ids of containers whose labels verify; `busy` are owners (as text)
    whose start or stop is under way in this process; `inventory` is None where the GPUs can't be read; `began` is when
    this process began."""

    leases: tuple[Lease, ...]
    containers: tuple[ContainerView, ...]
    inventory: Inventory | None
    trusted: frozenset[str]
    instance: str
    now: float
    busy: frozenset[str] = frozenset()
    began: float = float("-inf")


def plan(world: World) -> tuple[Action, ...]:
    """Everything to do, leases oldest first, then containers without one."""
    found: list[Action | None] = []
    matched: set[str] = set()
    for lease in world.leases:
        container = container_of(lease, world.containers, world.trusted)
        if container is not None:
            matched.add(container.id)
        found.append(for_lease(lease, container, world))
    for container in world.containers:
        if container.id not in matched and container.labels.get(labels.INSTANCE) == world.instance:
            found.append(for_container(container, world))
    return tuple(action for action in found if action is not None and str(action.owner) not in world.busy)


def container_of(lease: Lease, containers: Iterable[ContainerView], trusted: Collection[str]) -> ContainerView | None:
    """The lease's container: by id once it is known, before that by name, signature and lease."""
    for container in containers:
        if lease.container_id:
            if container.id == lease.container_id:
                return container
        elif container.name == lease.container_name and container.id in trusted:
            return container if _names_lease(container, lease) else None
    return None


def _names_lease(container: ContainerView, lease: Lease) -> bool:
    """A start without GPU that never learnt whether its reservation was written makes a container without a lease."""
    named = container.labels.get(labels.LEASE)
    return named == lease.id or (named == "" and not lease.devices)


def for_lease(lease: Lease, container: ContainerView | None, world: World) -> Action | None:
    """What to do about one live lease and the container that was found for it."""

    def act(kind: Act, reason: str = "") -> Action:
        return Action(kind, lease.owner, lease.id, container.id if container else "", reason)

    running = container is not None and container.running
    if running and lease.state in {LeaseState.RESERVED, LeaseState.ON_HOLD}:
        return act(Act.CONFIRM)
    if lease.devices and world.inventory is None:
        return None
    gone = _gone(lease, world.inventory)
    if lease.state is LeaseState.ON_HOLD:
        ended = lease.hold_until is not None and lease.hold_until <= world.now
        return act(Act.END_HOLD, gone or "the hold has ended") if ended or gone else None
    if container is None:
        return None if _young(lease, world) else act(Act.ABSENT, "the container is gone")
    if lease.state is LeaseState.RELEASING or container.state == "created":
        return act(Act.DISCARD, "the start did not finish")
    if not running:
        return act(Act.REAP, exit_cause(container))
    return act(Act.LOSE, gone) if gone and lease.state is LeaseState.BOUND else None


def _young(lease: Lease, world: World) -> bool:
    """A reservation of this process, whose container may still come.

    A process that died creates nothing more. What the engine makes all the same of a call that was under way is never
    started: its labels name an ended lease, and it is swept.
    """
    ours = world.began <= lease.reserved_at <= world.now
    return lease.state is LeaseState.RESERVED and ours and world.now < lease.expires_at


def for_container(container: ContainerView, world: World) -> Action | None:
    """What to do about a container with our instance's label that no live lease knows."""

    def act(kind: Act, reason: str = "") -> Action:
        return Action(kind, labels.owner_of(container.labels), container_id=container.id, reason=reason)

    if container.id not in world.trusted:
        return act(Act.FORGED, "its labels name this instance, but their signature is not ours")
    if not container.running:
        return act(Act.SWEEP, "no lease" if container.state == "created" else exit_cause(container))
    wanted = set(labels.devices_of(container.labels))
    if wanted and world.inventory is None:
        return None
    others = _leases_beside(container, world)
    if others and not all(others):
        return None  # that lease ends first; this container is looked at in the next round
    why = _not_adoptable(container, wanted, world, bool(others))
    return act(Act.QUARANTINE, why) if why else act(Act.ADOPT)


def _leases_beside(container: ContainerView, world: World) -> list[bool]:
    """For each lease of the container's owner, whether another one runs under it. A hold gives way to an adoption."""
    owner = labels.owner_of(container.labels)
    found = []
    for lease in world.leases:
        if lease.owner == owner and lease.state is not LeaseState.ON_HOLD:
            other = container_of(lease, world.containers, world.trusted)
            found.append(other is not None and other.running)
    return found


def _not_adoptable(container: ContainerView, wanted: set[str], world: World, has_another: bool) -> str:
    if has_another:
        return "its owner has a lease for another container of the same name"
    if container.all_devices or not set(container.device_ids) <= wanted:
        return "it has devices that its labels do not name"
    if len(devices_named(container, world)) != len(wanted):
        return "its devices are not free, or not on this machine"
    return ""


def devices_named(container: ContainerView, world: World) -> tuple[Device, ...]:
    """The devices that the container's labels name, where nobody but a hold of its own owner has them."""
    uuids, owner = labels.devices_of(container.labels), labels.owner_of(container.labels)
    if not uuids or world.inventory is None:
        return ()
    others = [lease for lease in world.leases if not (lease.owner == owner and lease.state is LeaseState.ON_HOLD)]
    free = free_devices(world.inventory, Taken(claims_of(others)))
    return tuple(device for device in free if device.uuid in uuids)


def adopted(container: ContainerView, world: World, *, node: str) -> Lease:
    """The bound lease for a running container that has none. Its id is the labels', empty where they say none."""
    return Lease(
        id=container.labels.get(labels.LEASE, ""),
        owner=labels.owner_of(container.labels),
        node=node,
        state=LeaseState.BOUND,
        reserved_at=world.now,
        expires_at=world.now,
        container_name=container.name,
        request=container.labels.get(labels.ENVIRONMENT, ""),
        devices=devices_named(container, world),
        memory=container.memory or None,
        image_id=container.image_id,
        container_id=container.id,
        bound_at=world.now,
        reason=ADOPTED,
    )


def _gone(lease: Lease, inventory: Inventory | None) -> str:
    """Why a device of the lease is gone; empty where all are there or nobody can say."""
    for device in lease.devices:
        if inventory is not None and not _present(device, inventory.find(device.gpu_uuid)):
            return f"the device {device.id} is gone from this machine"
    return ""


def _present(device: Device, gpu: Gpu | None) -> bool:
    if gpu is None or gpu.health is Health.LOST:
        return False
    if gpu.mig is None or gpu.health is Health.UNKNOWN:
        return True
    if device.full:
        return not gpu.mig
    return gpu.mig and any(instance.uuid == device.uuid for instance in gpu.instances)


def external(world: World, inventory: Inventory) -> frozenset[str]:
    """UUIDs that running containers use without a lease: those of others, forged ones, and ours before adoption."""
    leased = {
        container.id: {device.uuid for device in lease.devices}
        for lease in world.leases
        if (container := container_of(lease, world.containers, world.trusted))
    }
    used: set[str] = set()
    for container in world.containers:
        starting = container.id in world.trusted and str(labels.owner_of(container.labels)) in world.busy
        if starting or not container.running:
            continue
        mine = leased.get(container.id, set())
        names = set(container.device_ids)
        if container.id in world.trusted and not mine:
            names |= set(labels.devices_of(container.labels))
        if container.all_devices:
            used |= _everything(inventory) - mine
        used |= {uuid for name in names - mine for uuid in _resolve(name, inventory)}
    return frozenset(used)


def _everything(inventory: Inventory) -> set[str]:
    return {gpu.uuid for gpu in inventory.gpus}


def _resolve(name: str, inventory: Inventory) -> set[str]:
    """What a device request's id means: a UUID, the start of one, an index, or an index of GPU and instance.

    What can't be read may mean any GPU, so it means every one.
    """
    index = name.partition(":")[0]
    if index.isascii() and index.isdigit():
        return {gpu.uuid for gpu in inventory.gpus if gpu.index == int(index)}
    if name.startswith(("GPU-", "MIG-")):
        whole = {gpu.uuid for gpu in inventory.gpus if gpu.uuid.startswith(name) or gpu.uuid in name}
        parts = {part.uuid for gpu in inventory.gpus for part in gpu.instances if part.uuid.startswith(name)}
        return parts or whole
    return _everything(inventory)

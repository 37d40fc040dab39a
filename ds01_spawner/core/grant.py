"""One grant, decided: limits, memory, placement, and the lease that follows. Also: what could be granted now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds01_spawner.core.admission import Host, admit, admit_devices
from ds01_spawner.core.devices import FULL, Device, Inventory
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.placement import Taken, claims_of, classes, free_devices, place
from ds01_spawner.core.requests import GpuKind, GpuRequest, Request
from ds01_spawner.core.usage import usage_of


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with whose it is, what that user may have, and the container that it is for."""

    owner: Owner
    request: Request
    resolved: ResolvedLimits
    container_name: str = ""
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to give: the host, its GPUs (None where they can't be read) and what others use of them."""

    node: str
    host: Host
    inventory: Inventory | None = None
    external: frozenset[str] = frozenset()


def decide(ask: Ask, leases: Sequence[Lease], machine: Machine, *, lease_id: str, now: float, ttl: float) -> Lease:
    """The reservation for a request, valid for `ttl` seconds, or a `Refusal`. The owner's own hold counts as ended."""
    others = [lease for lease in leases if not (lease.owner == ask.owner and lease.state is LeaseState.ON_HOLD)]
    _check_owner(ask.owner, others)
    devices = _choose(ask.request, ask.resolved, ask.owner.user, others, machine)
    return Lease(
        id=lease_id,
        owner=ask.owner,
        node=machine.node,
        state=LeaseState.RESERVED,
        reserved_at=now,
        expires_at=now + ttl,
        container_name=ask.container_name,
        request=str(ask.request),
        devices=devices,
        memory=ask.resolved.limits.memory,
        image_id=ask.image_id,
        priority=ask.resolved.limits.priority,
    )


def _choose(
    request: Request, resolved: ResolvedLimits, user: str, leases: Sequence[Lease], machine: Machine
) -> tuple[Device, ...]:
    mine = usage_of(leases, user)
    admit(request, resolved, mine, usage_of(leases), machine.host)
    if request.gpu is None:
        return ()
    if machine.inventory is None:
        raise gpu_unknown("they can't be read")
    taken = Taken(claims_of(leases), machine.external)
    devices = place(request, machine.inventory, taken, allow_full=resolved.limits.allow_full_gpu)
    admit_devices(devices, resolved, mine)
    return devices


def gpu_unknown(why: str) -> Refusal:
    """The refusal while the state of the GPUs isn't certain."""
    return Refusal(
        Reason.GPU_UNKNOWN,
        f"No GPU can be given at the moment: {why}. What runs goes on. Start without a GPU, or try again in a minute.",
        rule=why,
    )


def ledger_silent(why: str) -> Refusal:
    """The refusal of a GPU that can't be written down."""
    return Refusal(
        Reason.LEDGER,
        f"No GPU can be given at the moment: {why}. What runs goes on. Start without a GPU, or try again in a minute.",
        rule=why,
    )


def _check_owner(owner: Owner, leases: Sequence[Lease]) -> None:
    for lease in leases:
        if lease.owner == owner:
            name = owner.server or "main"
            raise Refusal(
                Reason.BUSY,
                f"Your container {name!r} has not ended yet (its lease is {lease.state}). Try again in a few seconds.",
                used=lease.id,
            )


@dataclass(frozen=True, slots=True)
class ClassAvailability:
    """One class of devices: `full` or `2g`, and how many are free of how many. `refused` says why this user can't start
    with one now; it is empty where that would work."""

    name: str
    free: int
    total: int
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Availability:
    """What a user could start with now. `cpu_refused`: why nothing at all; `frozen`: why nobody gets a GPU."""

    classes: tuple[ClassAvailability, ...] = ()
    cpu_refused: str = ""
    frozen: str = ""
    simulated: bool = False


def free_by_class(leases: Sequence[Lease], machine: Machine) -> dict[str, tuple[int, int]]:
    """Each class of device on this machine to how many are (free, there), smallest class first."""
    if machine.inventory is None:
        return {}
    free = classes(free_devices(machine.inventory, Taken(claims_of(leases), machine.external)))
    return {name: (free.get(name, 0), total) for name, total in classes(machine.inventory.devices()).items()}


def availability(
    resolved: ResolvedLimits, leases: Sequence[Lease], machine: Machine, *, frozen: str = ""
) -> Availability:
    """Try every class of this machine for one more container of this user, without reserving anything."""
    inventory = machine.inventory
    found = []
    for name, (free, total) in free_by_class(leases, machine).items():
        why = gpu_unknown(frozen).message if frozen else _refusal(_request(name), resolved, leases, machine)
        found.append(ClassAvailability(name, free, total, why))
    return Availability(
        classes=tuple(found),
        cpu_refused=_refusal(Request(""), resolved, leases, machine),
        frozen=frozen,
        simulated=inventory is not None and inventory.simulated,
    )


def _request(name: str) -> Request:
    if name == FULL:
        return Request("", GpuRequest(GpuKind.FULL))
    return Request("", GpuRequest(GpuKind.MIG_CLASS, int(name.removesuffix("g"))))


def _refusal(request: Request, resolved: ResolvedLimits, leases: Sequence[Lease], machine: Machine) -> str:
    try:
        _choose(request, resolved, resolved.user, leases, machine)
    except Refusal as refusal:
        return refusal.message
    return ""

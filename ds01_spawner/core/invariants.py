"""The invariants of leases, checked on one observation: tests call this after every step, production exports it.

I1 no slot of a GPU is in two containers or two leases. I2 grants stay within the limits. I3 a running container of ours
is in the ledger. I4 a lease has a container, or ends by itself. (I5 and I8 compare two times: the fault tests do that.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations

from ds01_spawner.core import labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.leases import WITH_CONTAINER, Lease, LeaseState
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.reconcile import container_of
from ds01_spawner.core.usage import usage_of

#: Seconds that a container without GPU may run unknown to the ledger (a start while the ledger gave no answer).
UNKNOWN_FOR = 60.0


def violations(
    leases: Sequence[Lease],
    claims: Collection[tuple[str, str, str]],
    containers: Sequence[ContainerView],
    inventory: Inventory | None,
    now: float,
    *,
    trusted: Collection[str],
    busy: Collection[str] = (),
    resolved: Mapping[str, ResolvedLimits] | None = None,
    host: Host | None = None,
    settled: bool = False,
) -> tuple[str, ...]:
    """What is broken, each as `I<n> …`; empty when all is well.

    `trusted` are ids of containers of ours, `busy` owners (as text) whose start or stop is under way. `settled` also
    checks what need only hold after a reconcile with every part answering. With `resolved` and `host` I2 is checked.
    """
    ours = [container for container in containers if container.id in trusted]
    known = {c.id: lease for lease in leases if (c := container_of(lease, containers, trusted))}
    found: list[Iterable[str]] = [
        _double_leases(leases),
        _claims(leases, claims),
        _double_containers(ours, known, inventory),
        _unleased_devices(ours, known, busy),
        _limits(leases, resolved or {}, host),
    ]
    if settled:
        alive = {lease.id for lease in known.values()}
        found += [_unknown_containers(ours, known, now, busy), _leases_without(leases, alive, now, busy)]
    return tuple(chain.from_iterable(found))


def _double_leases(leases: Sequence[Lease]) -> Iterator[str]:
    held: dict[tuple[str, str], str] = {}
    for lease in leases:
        for device in lease.devices:
            for slot in device.slots:
                other = held.setdefault((device.gpu_uuid, slot), lease.id)
                if other != lease.id:
                    yield f"I1 slot {slot} of {device.gpu_uuid} is in leases {other} and {lease.id}"


def _claims(leases: Sequence[Lease], claims: Collection[tuple[str, str, str]]) -> Iterator[str]:
    meant = {(d.gpu_uuid, slot, lease.id) for lease in leases for d in lease.devices for slot in d.slots}
    for gpu, slot, lease_id in sorted(meant ^ set(claims)):
        yield f"I1 slot {slot} of {gpu}: claims and lease {lease_id} disagree"


def _uuids(container: ContainerView, known: Mapping[str, Lease]) -> set[str]:
    lease = known.get(container.id)
    leased = {device.uuid for device in lease.devices} if lease else set()
    return set(container.device_ids) | set(labels.devices_of(container.labels)) | leased


def _double_containers(
    ours: Sequence[ContainerView], known: Mapping[str, Lease], inventory: Inventory | None
) -> Iterator[str]:
    slots = {d.uuid: {(d.gpu_uuid, slot) for slot in d.slots} for d in (inventory.devices() if inventory else ())}
    used = [
        (container, set(chain.from_iterable(slots.get(uuid, {(uuid, "")}) for uuid in _uuids(container, known))))
        for container in ours
        if container.running
    ]
    for (one, first), (two, second) in combinations(used, 2):
        for gpu, slot in sorted(first & second):
            yield f"I1 slot {slot} of {gpu} is in running containers {one.name} and {two.name}"


def _unleased_devices(
    ours: Sequence[ContainerView], known: Mapping[str, Lease], busy: Collection[str]
) -> Iterator[str]:
    for container in ours:
        if not container.running or str(labels.owner_of(container.labels)) in busy:
            continue
        lease = known.get(container.id)
        leased = {device.uuid for device in lease.devices} if lease else set()
        for uuid in sorted(_uuids(container, known) - leased):
            yield f"I1 running container {container.name} has {uuid} without a live lease"


def _limits(leases: Sequence[Lease], resolved: Mapping[str, ResolvedLimits], host: Host | None) -> Iterator[str]:
    for user, limits in sorted(resolved.items()):
        used, allowed = usage_of(leases, user), limits.limits
        pairs = (
            ("containers", used.containers, allowed.max_containers_per_user),
            ("devices", used.devices, allowed.max_mig_instances),
            ("GPU-equivalents", used.gpueq, allowed.max_gpu_equivalents),
        )
        for what, value, most in pairs:
            if most is not None and value > most:
                yield f"I2 {user} has {value} {what} of at most {most}"
    if host is not None and usage_of(leases).memory > host.for_containers:
        yield f"I2 containers have {usage_of(leases).memory} bytes of memory of at most {host.for_containers}"


def _unknown_containers(
    ours: Sequence[ContainerView], known: Mapping[str, Lease], now: float, busy: Collection[str]
) -> Iterator[str]:
    for container in ours:
        idle = str(labels.owner_of(container.labels)) not in busy
        if container.running and idle and container.id not in known and container.created_at + UNKNOWN_FOR < now:
            yield f"I3 container {container.name} runs without a lease"


def _leases_without(
    leases: Sequence[Lease], with_container: Collection[str], now: float, busy: Collection[str]
) -> Iterator[str]:
    for lease in leases:
        if str(lease.owner) in busy or lease.id in with_container:
            continue
        if lease.state is LeaseState.RESERVED and lease.expires_at > now:
            continue
        if lease.state in WITH_CONTAINER:
            yield f"I4 lease {lease.id} is {lease.state} without a container"
        elif lease.hold_until is not None and lease.hold_until <= now:
            yield f"I4 lease {lease.id} is on hold past its end"

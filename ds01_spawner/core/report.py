"""What one comparison of ledger, engine and GPUs found and did: the source of metrics and exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ds01_spawner.core.devices import Health, Inventory
from ds01_spawner.core.invariants import violations
from ds01_spawner.core.leases import LIVE, Lease
from ds01_spawner.core.placement import Taken, claims_of, free_devices
from ds01_spawner.core.reconcile import Action, World

#: How one action went: it, and what went wrong (empty: nothing).
Outcome = tuple[Action, str]


@dataclass(frozen=True, slots=True)
class Report:
    """`frozen` says why no GPU is granted; empty where every part answered. `devices` counts by (class, state): free,
    leased or external for those that can be leased, and ("gpu", health) for GPUs that are out of service."""

    at: float
    frozen: str = ""
    done: tuple[Outcome, ...] = ()
    violations: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[tuple[str, str], int] = field(default_factory=dict)
    inventory: Inventory | None = None

    @property
    def ok(self) -> bool:
        """Every part answered and every action worked."""
        return not self.frozen and not any(problem for _, problem in self.done)


def report(
    world: World,
    claims: Collection[tuple[str, str, str]],
    done: tuple[Outcome, ...],
    *,
    frozen: str,
    external: frozenset[str],
) -> Report:
    """The report of a comparison that ended with this world."""
    settled = not frozen and not any(problem for _, problem in done)
    return Report(
        at=world.now,
        frozen=frozen,
        done=done,
        violations=violations(
            world.leases,
            claims,
            world.containers,
            world.inventory,
            world.now,
            trusted=world.trusted,
            busy=world.busy,
            settled=settled,
        ),
        leases=world.leases,
        states={state.value: sum(lease.state is state for lease in world.leases) for state in sorted(LIVE)},
        devices=_devices(world, external),
        inventory=world.inventory,
    )


def _devices(world: World, external: frozenset[str]) -> Mapping[tuple[str, str], int]:
    if world.inventory is None:
        return {}
    claimed = claims_of(world.leases)
    free = set(free_devices(world.inventory, Taken(claimed, external)))
    counted: Counter[tuple[str, str]] = Counter()
    for device in world.inventory.devices():
        leased = any((device.gpu_uuid, slot) in claimed for slot in device.slots)
        counted[device.mig_class, "free" if device in free else "leased" if leased else "external"] += 1
    counted.update(("gpu", gpu.health.value) for gpu in world.inventory.gpus if gpu.health is not Health.OK)
    return dict(counted)

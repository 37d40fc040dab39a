"""What live leases add up to, for one user and for the machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from ds01_spawner.core.leases import WITH_CONTAINER, Lease


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over live leases. `memory` is bytes; a container without a memory limit counts 0 there."""

    containers: int = 0
    devices: int = 0
    gpueq: Fraction = Fraction(0)
    memory: int = 0


def usage_of(leases: Iterable[Lease], user: str | None = None) -> Usage:
    """Usage of one user, or of everybody. A hold counts its devices and no container."""
    mine = [lease for lease in leases if lease.live and user in (None, lease.owner.user)]
    running = [lease for lease in mine if lease.state in WITH_CONTAINER]
    return Usage(
        containers=len(running),
        devices=sum(len(lease.devices) for lease in mine),
        gpueq=sum((lease.gpueq for lease in mine), Fraction(0)),
        memory=sum(lease.memory or 0 for lease in running),
    )

"""Leases and the table of their legal moves.

A lease is one container's exclusive right to one set of devices; the set may be empty (CPU only), since the
container, its memory and its place in the user's count are leased too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from ds01_spawner.core.devices import Device
from ds01_spawner.core.errors import IllegalTransition


class LeaseState(StrEnum):
    """`releasing` lasts until the container's absence is observed."""

    RESERVED = "reserved"
    BOUND = "bound"
    ON_HOLD = "on_hold"
    RELEASING = "releasing"
    RELEASED = "released"
    LOST = "lost"


_S = LeaseState
MOVES: Mapping[LeaseState, frozenset[LeaseState]] = {
    _S.RESERVED: frozenset({_S.BOUND, _S.RELEASING, _S.LOST}),
    _S.BOUND: frozenset({_S.ON_HOLD, _S.RELEASING, _S.LOST}),
    _S.ON_HOLD: frozenset({_S.BOUND, _S.RELEASING, _S.LOST}),
    _S.RELEASING: frozenset({_S.RELEASED, _S.LOST}),
    # The hardware is gone, the container may not be: what it held in memory and count ends with its absence.
    _S.LOST: frozenset({_S.RELEASED}),
    _S.RELEASED: frozenset(),
}
#: States in which a lease's claims stand.
LIVE: frozenset[LeaseState] = frozenset(MOVES) - {_S.RELEASED}
#: States in which a container exists or may exist.
WITH_CONTAINER: frozenset[LeaseState] = LIVE - {_S.ON_HOLD}


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Whose container: a hub user and one of that user's servers (empty name: the default server)."""

    user: str
    server: str = ""

    def __str__(self) -> str:
        return f"{self.user}/{self.server}"


@dataclass(frozen=True, slots=True)
class Lease:
    """One row of the ledger. Times are POSIX seconds; `memory` is bytes, None where unlimited.

    `container_name` is written at reservation, so that a container can be found whose id was never learnt.
    """

    id: str
    owner: Owner
    node: str
    state: LeaseState
    reserved_at: float
    expires_at: float
    container_name: str
    request: str = ""
    devices: tuple[Device, ...] = ()
    memory: int | None = None
    image_id: str = ""
    container_id: str = ""
    bound_at: float | None = None
    hold_until: float | None = None
    ended_at: float | None = None
    reason: str = ""
    priority: int = 0

    @property
    def live(self) -> bool:
        """True while its claims stand."""
        return self.state in LIVE

    @property
    def gpueq(self) -> Fraction:
        """GPU-equivalents of all its devices."""
        return sum((device.gpueq for device in self.devices), Fraction(0))


def move(
    lease: Lease,
    to: LeaseState,
    *,
    now: float,
    reason: str = "",
    container_id: str = "",
    hold_until: float | None = None,
) -> Lease:
    """The lease in its next state. Raises IllegalTransition; moving to the state that it has changes nothing.

    `hold_until` counts for a hold alone; None is a hold without end.
    """
    if lease.state is to:
        return lease
    if to not in MOVES[lease.state]:
        raise IllegalTransition(f"lease {lease.id}: {lease.state} -> {to} is not a legal move")
    moved = replace(lease, state=to, reason=reason or lease.reason)
    if to is LeaseState.BOUND:
        moved = replace(moved, bound_at=now, hold_until=None, container_id=container_id or lease.container_id)
    if to is LeaseState.ON_HOLD:
        moved = replace(moved, hold_until=hold_until)
    if to is LeaseState.RELEASED:
        moved = replace(moved, ended_at=now)
    return moved


def ended(lease: Lease, *, now: float, reason: str = "") -> Lease:
    """The lease after its container's absence was observed, by the table's own steps. An ended lease stays as it is.

    A reason that was given when the release began is kept: it says who or what ended the container.
    """
    if lease.state is LeaseState.RELEASED:
        return lease
    if lease.state is LeaseState.RELEASING:
        return move(lease, LeaseState.RELEASED, now=now, reason=lease.reason or reason)
    if lease.state is not LeaseState.LOST:
        lease = move(lease, LeaseState.RELEASING, now=now)
    return move(lease, LeaseState.RELEASED, now=now, reason=reason)

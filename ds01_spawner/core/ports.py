"""The ports: what the allocator, the reconciler and the spawner need of the outside world.

Each has a real adapter in `ds01_spawner.adapters` and a fake in `tests/fakes`; one contract suite runs on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.leases import Lease, LeaseState

#: A Docker container-create body, as plain dicts.
Payload = Mapping[str, Any]


class Clock(Protocol):
    """The time, as POSIX seconds."""

    def __call__(self) -> float:
        """Now."""
        ...


class GpuInventory(Protocol):
    """The GPUs of this node."""

    async def read(self) -> Inventory:
        """A fresh snapshot. Raises InventoryUnavailable; never blocks longer than its deadline."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the event log. `data` holds plain JSON values and no secret."""

    at: float
    kind: str
    user: str = ""
    server: str = ""
    lease: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class Ledger(Protocol):
    """The database of intent. Synchronous: the allocator calls it in a thread of its own.

    Every method raises LedgerUnavailable where the database gives no answer.
    """

    def reserve(self, decide: Callable[[Sequence[Lease]], Lease], *, now: float) -> Lease:
        """Run `decide` on all live leases in the write transaction; write the lease that it returns, with its claims.

        A hold of the same owner ends in the same transaction, so that its devices can be given to the new lease.
        What `decide` raises passes through and nothing is written. Raises LeaseConflict where the claims' key says no.
        """
        ...

    def move(
        self,
        lease_id: str,
        to: LeaseState,
        *,
        now: float,
        reason: str = "",
        container_id: str = "",
        hold_until: float | None = None,
    ) -> Lease:
        """Move a lease by the table of `core.leases`; claims go with `released`. Raises IllegalTransition, KeyError.

        Each change of state writes its event (`core.lease_events`) in the same transaction, here and in the others.
        """
        ...

    def end(self, lease_id: str, *, now: float, reason: str = "") -> Lease:
        """Release a live lease by the table's steps, in one transaction; an ended one stays. Raises KeyError."""
        ...

    def adopt(self, lease: Lease, *, now: float) -> Lease:
        """Write a bound lease for a container of ours that has none; a hold of its owner ends. Raises LeaseConflict."""
        ...

    def live(self) -> tuple[Lease, ...]:
        """All live leases, oldest first."""
        ...

    def get(self, lease_id: str) -> Lease | None:
        """One lease, ended ones too."""
        ...

    def claims(self) -> tuple[tuple[str, str, str], ...]:
        """All claims as (GPU UUID, slot, lease id)."""
        ...

    def uid_of(self, user: str, *, first: int, wanted: int | None = None) -> int:
        """The user's stable uid: `wanted` (the system account's) where given, otherwise one of our own from `first` on.

        An id once given is never given to another user. Raises LeaseConflict where `wanted` belongs to somebody else.
        """
        ...

    def record(self, event: Event) -> None:
        """Append an event."""
        ...

    def events(self, *, limit: int = 100, lease: str = "") -> tuple[Event, ...]:
        """The newest events, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class ContainerView:
    """What the engine says of one container. Sizes in bytes; 0 or None where the engine sets no limit."""

    id: str
    name: str
    state: str
    labels: Mapping[str, str] = field(default_factory=dict)
    image_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    ip: str = ""
    device_ids: tuple[str, ...] = ()
    all_devices: bool = False
    memory: int = 0
    memory_swap: int = 0
    cpus: float = 0.0
    shm_size: int = 0
    pids_limit: int = 0
    created_at: float = 0.0

    @property
    def running(self) -> bool:
        """True while its processes exist: `paused`, `restarting` and `removing` are alive too."""
        return self.state in {"running", "paused", "restarting", "removing"}


class Engine(Protocol):
    """The container engine. Every call has a deadline; a 5xx, a time-out or no connection is EngineUnavailable."""

    async def create(self, name: str, payload: Payload) -> str:
        """Create a container and give its id. Raises EngineRefused (400, 404 image missing, 409 name taken)."""
        ...

    async def start(self, container: str) -> None:
        """Start it; starting a started one is no error. Raises EngineRefused."""
        ...

    async def stop(self, container: str, *, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. One that is gone or stopped is no error."""
        ...

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Send a signal. One that is gone or stopped is no error."""
        ...

    async def remove(self, container: str) -> None:
        """Remove it by force and wait until the engine says 404."""
        ...

    async def inspect(self, container: str) -> ContainerView | None:
        """By id or name; None only where the engine says 404."""
        ...

    async def list(self, labels: Mapping[str, str] | None = None) -> tuple[ContainerView, ...]:
        """All containers, stopped and `created` ones too, with these labels (value `""`: the label exists)."""
        ...

    async def logs(self, container: str, *, lines: int = 50) -> str:
        """The last lines of its output."""
        ...

    async def image_id(self, reference: str) -> str | None:
        """The id of an image, None where there is none."""
        ...

    async def image_file(self, image_id: str, path: str) -> bytes | None:
        """One file of an image, None where there is none."""
        ...

    async def ensure_network(self, name: str, *, bridge: str) -> str:
        """Make the bridge network with inter-container traffic off if missing; its gateway's address."""
        ...

    def events(self) -> AsyncIterator[str]:
        """Container ids with a start, die, destroy or oom event, as they come. A hint: the listing is the truth."""
        ...

"""The allocator: the only writer of leases. It decides on what ledger and GPUs say, and frees on observed absence.

Two reservations are never decided at the same time: the ledger has one thread, and a transaction around each decision.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace

from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.errors import (
    IllegalTransition,
    InventoryUnavailable,
    LeaseConflict,
    LedgerUnavailable,
    Refusal,
)
from ds01_spawner.core.grant import (
    Ask,
    Availability,
    Machine,
    availability,
    decide,
    gpu_unknown,
    ledger_silent,
)
from ds01_spawner.core.lease_events import of_refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.ports import Clock, Event, GpuInventory, Ledger
from ds01_spawner.core.requests import Request
from ds01_spawner.ledger_thread import LedgerThread
from ds01_spawner.owner_locks import OwnerLocks

_log = logging.getLogger(__name__)

#: Why no GPU is given before the reconciler has looked at everything once.
NOT_COMPARED = "the containers of this machine have not been looked at yet"
#: First uid that `uid_of` gives of its own.
FIRST_UID = 200_000


class Allocator:
    """Reserve, confirm, release. All methods are safe to cancel.

    `host` bounds memory over all containers. `reserve_ttl` (seconds) is how long a reservation lives without a start
    under way; `inventory_max_age` (seconds) how old the picture of the GPUs may be that people are shown; `deadline`
    (seconds) bounds each call of the ledger. `events` is called for each event in the ledger's thread, once written.
    `executor` must run one call at a time; by default a thread of our own.
    """

    def __init__(
        self,
        ledger: Ledger,
        inventory: GpuInventory,
        *,
        clock: Clock,
        node: str,
        host: Host,
        events: Callable[[Event], None] | None = None,
        reserve_ttl: float = 120.0,
        inventory_max_age: float = 10.0,
        deadline: float = 10.0,
        executor: Executor | None = None,
    ) -> None:
        self._ledger, self._inventory, self._clock = ledger, inventory, clock
        self.node, self._host = node, host
        self._reserve_ttl, self._max_age = reserve_ttl, inventory_max_age
        self._thread = LedgerThread(ledger, clock=clock, events=events, deadline=deadline, executor=executor)
        self._seen: Inventory | None = None
        self._seen_at = float("-inf")
        self._reading: asyncio.Future[Inventory] | None = None
        self._external: frozenset[str] = frozenset()
        #: Why no GPU is granted to anybody; empty when grants are on. The reconciler sets it.
        self.frozen = NOT_COMPARED
        #: Owners (as text) whose start or stop is under way in this process, and the lock that says so.
        locks = OwnerLocks()
        self.in_flight, self.guard = locks.in_flight, locks.guard

    def close(self) -> None:
        """Take no further call; one under way ends by itself."""
        self._thread.close()

    # -- grants

    async def reserve(
        self, owner: Owner, request: Request, resolved: ResolvedLimits, *, container_name: str, image_id: str
    ) -> Lease:
        """A reservation with its devices. Raises Refusal; LedgerUnavailable for a request without GPU only."""
        ask = Ask(owner, request, resolved, container_name, image_id)
        try:
            machine = await self._machine_for(request)
            return await self._reserve(ask, machine)
        except Refusal as refusal:
            await self._record_refusal(ask, refusal)
            raise
        except LeaseConflict as conflict:
            _log.error("the ledger refused a claim that the allocator believed free: %s", conflict)
            raise ledger_silent("another lease has it") from conflict
        except LedgerUnavailable as problem:
            if request.gpu is None:
                raise
            _log.error("no grant without the ledger: %s", problem)
            raise ledger_silent("its ledger gives no answer") from problem

    async def _machine_for(self, request: Request) -> Machine:
        if request.gpu is None:
            return Machine(self.node, self._host)
        if self.frozen:
            raise gpu_unknown(self.frozen)
        try:
            # Read now: a layout may have changed since, and a grant must name what exists. Callers share a reading.
            inventory = await self.inventory(max_age=0.0)
        except InventoryUnavailable as problem:
            _log.error("no grant without the GPUs: %s", problem)
            raise gpu_unknown("they can't be read") from problem
        return Machine(self.node, self._host, inventory, self._external)

    async def _reserve(self, ask: Ask, machine: Machine) -> Lease:
        now, lease_id = self._clock(), secrets.token_hex(8)
        held: list[Lease] = []

        def choose(leases: Sequence[Lease]) -> Lease:
            held.extend(lease for lease in leases if lease.owner == ask.owner)
            return decide(ask, leases, machine, lease_id=lease_id, now=now, ttl=self._reserve_ttl)

        def work() -> Lease:
            lease = self._ledger.reserve(choose, now=now)
            for ended in filter(None, (self._ledger.get(old.id) for old in held)):
                self._thread.tell_of(ended)
            self._thread.tell_of(lease)
            return lease

        call = self._thread.submit(work)
        try:
            return await self._thread.answer(call)
        except (asyncio.CancelledError, LedgerUnavailable):
            # Nobody will ever hear of this lease, and no container was made for it: take it back once it is written.
            call.add_done_callback(self._take_back)
            raise

    def _take_back(self, call: Future[Lease]) -> None:
        if call.cancelled() or call.exception() is not None:
            return
        lease_id, now = call.result().id, self._clock()
        # Where this fails too, the reservation ends by its own expiry.
        self._thread.submit_quietly(
            lambda: self._thread.tell_of(self._ledger.end(lease_id, now=now, reason="the start was cancelled"))
        )

    async def confirm(self, lease_id: str, container_id: str) -> Lease:
        """Bind a lease to its container."""
        return await self._move(lease_id, LeaseState.BOUND, container_id=container_id)

    async def adopt(self, lease: Lease) -> Lease:
        """Write a bound lease for a running container that has none. Raises LeaseConflict."""
        now = self._clock()

        def work() -> Lease:
            fresh = (
                lease if lease.id and self._ledger.get(lease.id) is None else replace(lease, id=secrets.token_hex(8))
            )
            return self._ledger.adopt(fresh, now=now)

        return await self._thread.change(lease.id, work)

    # -- the way back

    async def release(self, lease_id: str, reason: str) -> Lease:
        """The container is about to go: `releasing`. Lost and ended leases stay as they are."""
        now = self._clock()

        def work() -> Lease:
            with suppress(IllegalTransition):
                return self._ledger.move(lease_id, LeaseState.RELEASING, now=now, reason=reason)
            lease = self._ledger.get(lease_id)
            if lease is None:
                raise KeyError(lease_id)
            return lease

        return await self._thread.change(lease_id, work)

    async def absent(self, lease_id: str, reason: str = "") -> Lease:
        """The container's absence was observed: `released`, from any live state. An ended lease stays as it is."""
        now = self._clock()
        return await self._thread.change(lease_id, lambda: self._ledger.end(lease_id, now=now, reason=reason))

    async def hold(self, lease_id: str, seconds: float | None, reason: str) -> Lease:
        """The container's absence was observed; keep the devices for its owner. None: until somebody ends it."""
        until = None if seconds is None else self._clock() + seconds
        return await self._move(lease_id, LeaseState.ON_HOLD, reason=reason, hold_until=until)

    async def lost(self, lease_id: str, reason: str) -> Lease:
        """The hardware is gone; the container may not be."""
        return await self._move(lease_id, LeaseState.LOST, reason=reason)

    # -- questions

    def now(self) -> float:
        """The time that leases are written with."""
        return self._clock()

    async def live(self) -> tuple[Lease, ...]:
        """All live leases, oldest first."""
        return await self._thread.call(self._ledger.live)

    async def live_with_claims(self) -> tuple[tuple[Lease, ...], tuple[tuple[str, str, str], ...]]:
        """All live leases and the claims that the database has for them, with no change in between."""
        return await self._thread.call(lambda: (self._ledger.live(), self._ledger.claims()))

    async def lease_of(self, owner: Owner) -> Lease | None:
        """The owner's live lease."""
        return next((lease for lease in await self.live() if lease.owner == owner), None)

    async def get(self, lease_id: str) -> Lease | None:
        """One lease, ended ones too."""
        return await self._thread.call(lambda: self._ledger.get(lease_id))

    async def uid_of(self, user: str, wanted: int | None = None, *, first: int = FIRST_UID) -> int:
        """The user's stable uid; see the ledger's port."""
        return await self._thread.call(lambda: self._ledger.uid_of(user, first=first, wanted=wanted))

    async def availability(self, resolved: ResolvedLimits) -> Availability:
        """What this user could start with now. Raises LedgerUnavailable."""
        frozen, inventory = self.frozen, None
        try:
            inventory = await self.inventory()
        except InventoryUnavailable as problem:
            frozen = frozen or f"the GPUs can't be read ({problem})"
        machine = Machine(self.node, self._host, inventory, self._external)
        return availability(resolved, await self.live(), machine, frozen=frozen)

    # -- the GPUs

    def snapshot(self) -> Inventory | None:
        """The last picture of the GPUs, None before the first."""
        return self._seen

    async def inventory(self, *, max_age: float | None = None) -> Inventory:
        """The GPUs as they were at most `max_age` seconds ago (by default `inventory_max_age`)."""
        age = self._clock() - self._seen_at
        # A negative age is a clock that was set back: nothing is known about how old the picture is.
        if self._seen is None or not 0 <= age < (self._max_age if max_age is None else max_age):
            # Many who ask at once share the reading that is under way: a class that starts together waits for one.
            if self._reading is None or self._reading.done():
                self._reading = asyncio.ensure_future(self._read())
            return await asyncio.shield(self._reading)
        return self._seen

    async def _read(self) -> Inventory:
        at = self._clock()
        self._seen = await self._inventory.read()
        self._seen_at = at
        return self._seen

    def set_external(self, uuids: frozenset[str]) -> None:
        """GPUs and instances that something without a lease uses; they are not granted."""
        self._external = uuids

    @property
    def external(self) -> frozenset[str]:
        """What `set_external` said last."""
        return self._external

    async def record(self, event: Event) -> None:
        """Write an event. Raises LedgerUnavailable; the sink has it even then."""
        await self._thread.record(event)

    async def _record_refusal(self, ask: Ask, refusal: Refusal) -> None:
        with suppress(LedgerUnavailable):
            priority = ask.resolved.limits.priority
            await self.record(
                of_refusal(ask.owner, ask.request, ask.container_name, priority, refusal, now=self._clock())
            )

    async def _move(
        self,
        lease_id: str,
        to: LeaseState,
        *,
        reason: str = "",
        container_id: str = "",
        hold_until: float | None = None,
    ) -> Lease:
        now = self._clock()

        def work() -> Lease:
            return self._ledger.move(
                lease_id, to, now=now, reason=reason, container_id=container_id, hold_until=hold_until
            )

        return await self._thread.change(lease_id, work)

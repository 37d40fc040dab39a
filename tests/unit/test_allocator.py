"""The allocator on the fakes: grants, refusals, outages, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ds01_spawner.allocator import NOT_COMPARED, Allocator
from ds01_spawner.core.errors import InventoryUnavailable, LeaseConflict, LedgerUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import Event
from ds01_spawner.core.requests import Request, parse_gpu
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.frozen_clock import FrozenClock
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import ANA, BEN, CPU_ONLY, HOST, ONE_SLICE, a_lease, limits_of, slice_at

S = LeaseState


class Slow(MemoryLedger):
    """A ledger whose writes wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.waiting = threading.Event(), threading.Event()

    def reserve(self, decide: Callable[..., Lease], *, now: float) -> Lease:
        self.waiting.set()
        self.go_on.wait(10)
        return super().reserve(decide, now=now)


class Room:
    """An allocator with all that it was made of. Its ledger is called in a real thread."""

    def __init__(self, ledger: MemoryLedger | None = None, *gpus: Any, **values: Any) -> None:
        self.ledger = ledger or MemoryLedger()
        self.inventory = FakeInventory(*(gpus or (SEVEN_SLICES, full_gpu(1))))
        self.clock = FrozenClock()
        self.heard: list[Event] = []
        self.allocator = Allocator(
            self.ledger,
            self.inventory,
            clock=self.clock,
            node="local",
            host=HOST,
            **{"events": self.heard.append, **values},
        )
        self.allocator.frozen = ""

    async def reserve(self, owner: Owner = ANA, request: Request = ONE_SLICE, **limits: Any) -> Lease:
        name = f"{owner.server or 'main'}._.{owner.user}.x"
        limits_ = limits_of(owner.user, **limits)
        return await self.allocator.reserve(owner, request, limits_, container_name=name, image_id="sha256:i")

    async def heard_all(self) -> list[str]:
        """The kinds of all events, once the thread has told them."""
        await self.allocator.live()
        return [event.kind for event in self.heard]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    found = Room()
    yield found
    found.allocator.close()


async def test_a_lease_goes_from_reserved_to_bound_to_released(room: Room) -> None:
    """The whole way, with its events, and nothing claimed at the end."""
    lease = await room.reserve()
    assert (lease.state, lease.devices, lease.expires_at - lease.reserved_at) == (S.RESERVED, (slice_at(0),), 120.0)
    assert (await room.allocator.confirm(lease.id, "c1")).container_id == "c1"
    assert (await room.allocator.release(lease.id, "stopped by ana")).state is S.RELEASING
    assert len(room.ledger.claims()) == 1
    done = await room.allocator.absent(lease.id, "gone")
    assert (done.state, done.reason) == (S.RELEASED, "stopped by ana")
    assert room.ledger.claims() == ()
    assert await room.heard_all() == ["lease.reserved", "lease.bound", "lease.releasing", "lease.released"]


async def test_repeated_steps_change_nothing_and_are_no_event(room: Room) -> None:
    """Confirm, release and absence may be told twice."""
    lease = await room.reserve()
    for _ in range(2):
        await room.allocator.confirm(lease.id, "c1")
    for _ in range(2):
        await room.allocator.release(lease.id, "first")
    for _ in range(2):
        await room.allocator.absent(lease.id)
    await room.allocator.release(lease.id, "late")
    assert len(await room.heard_all()) == 4
    assert (await room.allocator.get(lease.id)).reason == "first"  # type: ignore[union-attr]


async def test_a_lost_lease_waits_for_its_container(room: Room) -> None:
    """A release of lost hardware changes nothing; the absence of its container ends it."""
    lease = await room.reserve()
    await room.allocator.confirm(lease.id, "c1")
    await room.allocator.lost(lease.id, "gone from the bus")
    assert (await room.allocator.release(lease.id, "stopped")).state is S.LOST
    assert (await room.allocator.absent(lease.id, "the container is gone")).state is S.RELEASED


async def test_unknown_leases_are_an_error(room: Room) -> None:
    """A mistake of ours is no silence."""
    for call in (room.allocator.release("?", ""), room.allocator.absent("?"), room.allocator.confirm("?", "c")):
        with pytest.raises(KeyError):
            await call


async def test_a_hold_keeps_the_devices_for_its_owner(room: Room) -> None:
    """Others don't get them, the owner does, and the sink hears that the hold ended before the grant."""
    room.inventory.gpus = (full_gpu(0),)
    whole = Request("base", parse_gpu("full"))
    lease = await room.reserve(request=whole)
    await room.allocator.confirm(lease.id, "c1")
    held = await room.allocator.hold(lease.id, 600.0, "stopped")
    assert (held.state, held.hold_until) == (S.ON_HOLD, room.clock() + 600.0)
    with pytest.raises(Refusal):
        await room.reserve(BEN, whole)
    again = await room.reserve(request=whole)
    assert again.devices == lease.devices
    assert (await room.heard_all())[-2:] == ["lease.released", "lease.reserved"]
    assert (await room.allocator.lease_of(ANA)) == again
    endless = await room.allocator.confirm(again.id, "c2")
    assert (await room.allocator.hold(endless.id, None, "stopped")).hold_until is None


async def test_two_hundred_at_once_for_seven_slices() -> None:
    """Exactly seven leases, a clear refusal for everybody else, and no slot twice."""
    room = Room(None, SEVEN_SLICES)
    results = await asyncio.gather(
        *(room.reserve(Owner(f"user{n}"), memory=1) for n in range(200)), return_exceptions=True
    )
    leases = [result for result in results if isinstance(result, Lease)]
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert (len(leases), len(refusals)) == (7, 193)
    assert {lease.devices[0].start for lease in leases} == set(range(7))
    assert {refusal.reason for refusal in refusals} == {Reason.BUSY}
    assert Counter(await room.heard_all()) == {"lease.reserved": 7, "lease.refused": 193}
    assert room.inventory.reads < 20, "those who ask together share a reading of the GPUs"
    room.allocator.close()


async def test_a_refusal_is_written_down_with_its_reason(room: Room) -> None:
    """In the ledger and to the sink."""
    with pytest.raises(Refusal):
        await room.reserve(max_mig_instances=0)
    assert await room.heard_all() == ["lease.refused"]
    (event,) = room.ledger.events()
    assert (event.user, event.data["reason"]) == ("ana", "devices")


async def test_grants_wait_for_the_first_comparison() -> None:
    """A new process doesn't know what runs; CPU only may start."""
    room = Room()
    room.allocator.frozen = NOT_COMPARED
    with pytest.raises(Refusal, match=NOT_COMPARED) as refusal:
        await room.reserve()
    assert refusal.value.reason is Reason.GPU_UNKNOWN
    assert (await room.reserve(request=CPU_ONLY)).devices == ()
    assert Allocator(MemoryLedger(), room.inventory, clock=room.clock, node="n", host=HOST).frozen == NOT_COMPARED
    room.allocator.close()


async def test_without_the_gpus_no_gpu_is_granted(room: Room) -> None:
    """Fail closed, also when they were seen a moment ago; CPU only goes on."""
    await room.allocator.inventory()
    room.inventory.outage = True
    with pytest.raises(Refusal) as refusal:
        await room.reserve()
    assert refusal.value.reason is Reason.GPU_UNKNOWN
    assert (await room.reserve(request=CPU_ONLY)).state is S.RESERVED


async def test_without_the_ledger_no_gpu_is_granted(room: Room) -> None:
    """A refusal for a GPU; for CPU only the outage itself, so that the start may go on without a lease."""
    room.ledger.outage = True
    with pytest.raises(Refusal) as refusal:
        await room.reserve()
    assert refusal.value.reason is Reason.LEDGER
    with pytest.raises(LedgerUnavailable):
        await room.reserve(request=CPU_ONLY)
    room.ledger.outage = False
    assert await room.allocator.live() == ()


async def test_a_claim_that_the_ledger_refuses_is_a_refusal(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug here becomes an error there, and never a shared GPU."""

    def refuse(*_args: object, **_values: object) -> Lease:
        raise LeaseConflict("a slot is claimed already")

    monkeypatch.setattr(room.ledger, "reserve", refuse)
    with pytest.raises(Refusal) as refusal:
        await room.reserve()
    assert refusal.value.reason is Reason.LEDGER


async def test_what_somebody_else_uses_is_not_granted(room: Room) -> None:
    """The reconciler says what runs beside us."""
    room.allocator.set_external(frozenset({slice_at(0).uuid}))
    assert (await room.reserve()).devices == (slice_at(1),)
    assert room.allocator.external == {slice_at(0).uuid}


async def test_a_cancelled_reservation_is_taken_back() -> None:
    """The write can't be stopped any more, but nobody will ever use it: it ends as soon as it is written."""
    ledger = Slow()
    room = Room(ledger)
    start = asyncio.create_task(room.reserve())
    while not ledger.waiting.is_set():
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    ledger.go_on.set()
    while not ledger.events() or ledger.live():
        await asyncio.sleep(0.001)
    assert await room.heard_all() == ["lease.reserved", "lease.released"]
    assert ledger.claims() == ()
    room.allocator.close()


async def test_a_ledger_that_hangs_is_an_outage_and_blocks_nobody() -> None:
    """The deadline holds, the hub's loop goes on meanwhile, and the late write is taken back."""
    ledger = Slow()
    room = Room(ledger, deadline=0.05)
    longest, last = 0.0, time.monotonic()
    start = asyncio.create_task(room.reserve())
    while not start.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    with pytest.raises(Refusal) as refusal:
        await start
    assert refusal.value.reason is Reason.LEDGER
    assert longest < 0.05, "the loop itself never waits for the ledger"
    ledger.go_on.set()
    room.allocator._thread._deadline = 10.0
    while "lease.released" not in {event.kind for event in ledger.events()}:
        await room.allocator.live()
    assert await room.allocator.live() == ()
    room.allocator.close()


async def test_closing_while_a_late_write_comes_is_no_error() -> None:
    """At the end of the process the expiry has to do."""
    ledger = Slow()
    room = Room(ledger)
    start = asyncio.create_task(room.reserve())
    while not ledger.waiting.is_set():
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    room.allocator.close()
    ledger.go_on.set()
    while not ledger.live():
        await asyncio.sleep(0.001)
    assert ledger.live()[0].state is S.RESERVED


async def test_a_log_that_can_not_be_written_stops_nothing() -> None:
    """A full disk under the log: the ledger has the event, and the lease goes on."""

    def full(_event: Event) -> None:
        raise OSError(28, "no space left on device")

    room = Room(events=full)
    lease = await room.reserve()
    assert (await room.allocator.absent(lease.id)).state is S.RELEASED
    room.allocator.close()


async def test_an_event_reaches_the_sink_even_without_the_ledger(room: Room) -> None:
    """The log file is the second witness."""
    room.ledger.outage = True
    with pytest.raises(LedgerUnavailable):
        await room.allocator.record(Event(1.0, "test"))
    room.ledger.outage = False
    assert await room.heard_all() == ["test"]


async def test_an_adopted_lease_keeps_the_id_of_its_label_where_that_is_new(room: Room) -> None:
    """An id that an ended lease has, or none, becomes a new one."""
    first = await room.allocator.adopt(a_lease(id="L5", state=S.BOUND, container_id="c5"))
    assert first.id == "L5"
    await room.allocator.absent("L5")
    for told in ("L5", ""):
        other = await room.allocator.adopt(a_lease(id=told, state=S.BOUND, container_id="c6"))
        assert other.id not in ("", "L5")
        await room.allocator.absent(other.id)
    await room.reserve()
    with pytest.raises(LeaseConflict):
        await room.allocator.adopt(a_lease(id="L7", owner=BEN, state=S.BOUND, container_id="c7"))


async def test_the_picture_of_the_gpus_is_kept_for_a_while(room: Room) -> None:
    """For its maximal age, and not where the clock was set back: then nobody knows how old it is."""
    assert room.allocator.snapshot() is None
    seen = await room.allocator.inventory()
    assert await room.allocator.inventory() is seen
    assert room.allocator.snapshot() is seen
    room.clock.advance(10.0)
    assert await room.allocator.inventory() is not seen
    reads = room.inventory.reads
    room.clock.advance(-1.0)
    await room.allocator.inventory()
    assert room.inventory.reads == reads + 1
    room.inventory.outage = True
    with pytest.raises(InventoryUnavailable):
        await room.allocator.inventory(max_age=0)


async def test_availability_is_what_a_start_would_find(room: Room) -> None:
    """Counts and refusals; while the GPUs are silent it says so instead of showing zeros."""
    await room.reserve()
    found = await room.allocator.availability(limits_of("ben"))
    assert [(c.name, c.free, c.total, c.refused) for c in found.classes] == [("1g", 6, 7, ""), ("full", 1, 1, "")]
    room.clock.advance(60.0)
    room.inventory.outage = True
    silent = await room.allocator.availability(limits_of("ben"))
    assert silent.classes == ()
    assert "can't be read" in silent.frozen


async def test_one_owner_is_kept_by_one_at_a_time(room: Room) -> None:
    """Others wait, or hear that somebody is at it; another owner doesn't notice."""
    order: list[str] = []

    async def late() -> None:
        async with room.allocator.guard(ANA):
            order.append("late")

    async with room.allocator.guard(ANA):
        assert room.allocator.in_flight == {"ana/"}
        waiting = asyncio.create_task(late())
        await asyncio.sleep(0)
        async with room.allocator.guard(ANA, wait=False) as alone:
            assert alone is False
        async with room.allocator.guard(BEN, wait=False) as alone:
            assert alone is True
        assert room.allocator.in_flight == {"ana/"}
        order.append("first")
    await waiting
    assert order == ["first", "late"]
    assert room.allocator.in_flight == set()


async def test_uids_come_from_the_ledger(room: Room) -> None:
    """Stable, with the system account's where there is one."""
    assert await room.allocator.uid_of("ana", first=5000) == 5000
    assert await room.allocator.uid_of("ana", first=9000) == 5000
    assert await room.allocator.uid_of("ben", 1007) == 1007

"""The sequence of a start and of a stop on the fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner.allocator import Allocator
from ds01_spawner.core import labels
from ds01_spawner.core.crash_points import CrashPoint
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.requests import Request
from ds01_spawner.lifecycle import ContainerLifecycle
from tests.fakes.fake_engine import IMAGE, FakeEngine
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory
from tests.fakes.frozen_clock import FrozenClock
from tests.fakes.inline_executor import InlineExecutor
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import ANA, CPU_ONLY, HOST, INSTANCE, KEY, ONE_SLICE, limits_of, payload_of, signed

S = LeaseState


class Room:
    """A lifecycle with all that it was made of. `points` are the crash points that were passed."""

    def __init__(self) -> None:
        self.ledger, self.engine, self.clock = MemoryLedger(), FakeEngine(), FrozenClock()
        self.allocator = Allocator(
            self.ledger,
            FakeInventory(SEVEN_SLICES),
            clock=self.clock,
            node="local",
            host=HOST,
            executor=InlineExecutor(),
        )
        self.allocator.frozen = ""
        self.points: list[CrashPoint] = []
        self.steps: list[tuple[str, int]] = []
        self.lifecycle = ContainerLifecycle(
            self.allocator, self.engine, self.points.append, instance=INSTANCE, label_key=KEY
        )
        self._names = 0

    async def start(
        self, owner: Owner = ANA, request: Request = ONE_SLICE, **values: Any
    ) -> tuple[Lease, ContainerView]:
        self._names += 1
        return await self.lifecycle.start(
            owner,
            request,
            limits_of(owner.user),
            values.pop("make_payload", payload_of),
            container_name=values.pop("container_name", f"main._.{owner.user}.{self._names}"),
            image_id=values.pop("image_id", IMAGE),
            progress=lambda message, percent: self.steps.append((message, percent)),
            **values,
        )

    @property
    def nothing_left(self) -> bool:
        return not self.engine.containers and not self.ledger._live() and not self.ledger._claims


@pytest.fixture
def room() -> Room:
    return Room()


async def test_a_start_leases_creates_starts_and_binds(room: Room) -> None:
    """In that order, with its steps told, and with exactly the leased devices asked for."""
    lease, view = await room.start()
    assert (lease.state, lease.container_id, view.running) == (S.BOUND, view.id, True)
    assert view.device_ids == tuple(device.uuid for device in lease.devices)
    assert room.ledger.live() == (lease,)
    assert room.points == [
        CrashPoint.RESERVE_COMMITTED,
        CrashPoint.CREATED,
        CrashPoint.STARTED,
        CrashPoint.CONFIRMED,
    ]
    percents = [percent for _message, percent in room.steps]
    assert percents == sorted(percents)
    assert len(percents) >= 4


async def test_a_stop_observes_absence_before_it_frees(room: Room) -> None:
    """The container is gone first, then the device is free; who stopped it stays known."""
    lease, _view = await room.start()
    await room.lifecycle.stop(lease, grace=5.0, reason="stopped by ana")
    assert room.nothing_left
    done = room.ledger.get(lease.id)
    assert done is not None
    assert (done.state, done.reason) == (S.RELEASED, "stopped by ana")
    assert room.points[4:] == [
        CrashPoint.STOPPING,
        CrashPoint.STOPPED,
        CrashPoint.REMOVED,
        CrashPoint.RELEASE_COMMITTED,
    ]
    await room.lifecycle.stop(lease, grace=5.0)
    assert room.ledger.get(lease.id) == done


@pytest.mark.parametrize("method", ["stop", "remove", "inspect"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_stop_that_the_engine_does_not_answer_frees_nothing(room: Room, method: str, after: bool) -> None:
    """The caller hears of it; the lease stays until somebody has seen that the container is gone."""
    lease, _view = await room.start()
    room.engine.fail(method, after=after)
    with pytest.raises(EngineUnavailable):
        await room.lifecycle.stop(lease, grace=5.0)
    left = room.ledger.get(lease.id)
    assert left is not None
    assert left.state is S.RELEASING
    assert len(room.ledger.claims()) == 1
    await room.lifecycle.stop(left, grace=5.0)
    assert room.nothing_left


async def test_a_container_that_survives_its_removal_keeps_its_lease(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was seen counts, not what an answer said."""

    async def does_nothing(_container: str) -> None:
        return

    lease, _view = await room.start()
    monkeypatch.setattr(room.engine, "remove", does_nothing)
    with pytest.raises(EngineUnavailable, match="still there"):
        await room.lifecycle.stop(lease, grace=0)
    assert len(room.ledger.claims()) == 1


async def test_a_stop_goes_on_when_its_caller_is_cancelled(room: Room) -> None:
    """The hub cancels what takes long; the container stops all the same."""
    lease, _view = await room.start()
    stop = asyncio.create_task(room.lifecycle.stop(lease, grace=5.0))
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    while room.allocator.in_flight:
        await asyncio.sleep(0)
    assert room.nothing_left


async def test_a_stop_works_without_the_ledger(room: Room) -> None:
    """The container ends; its lease is written later."""
    lease, view = await room.start()
    room.ledger.outage = True
    await room.lifecycle.stop(lease, grace=5.0)
    assert view.id not in room.engine.containers
    room.ledger.outage = False
    assert room.ledger.live() == (lease,)


@pytest.mark.parametrize(("hold", "until"), [(60.0, 60.0), (None, None)])
async def test_a_stop_can_keep_the_devices(room: Room, hold: float | None, until: float | None) -> None:
    """On hold: visible, ended at its time, taken up by the owner's next start."""
    lease, _view = await room.start()
    await room.lifecycle.stop(lease, grace=5.0, hold=hold)
    (held,) = room.ledger.live()
    assert held.state is S.ON_HOLD
    assert held.hold_until == (None if until is None else room.clock() + until)
    again, _view = await room.start()
    assert again.devices == lease.devices
    assert [found.id for found in room.ledger.live()] == [again.id]


async def test_there_is_nothing_to_hold_without_a_device(room: Room) -> None:
    """CPU only is just released."""
    lease, _view = await room.start(request=CPU_ONLY)
    await room.lifecycle.stop(lease, grace=5.0, hold=60.0)
    assert room.nothing_left


@pytest.mark.parametrize("method", ["create", "start", "inspect"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_start_that_fails_leaves_nothing(room: Room, method: str, after: bool) -> None:
    """Whether the failed call had its effect or not."""
    room.engine.fail(method, after=after)
    with pytest.raises(EngineUnavailable):
        await room.start()
    assert room.nothing_left
    lease = room.ledger.events(limit=1)[0]
    assert "the start failed: no answer" in str(lease.data["reason"])
    assert (await room.start())[0].state is S.BOUND


async def test_a_refusal_of_the_engine_comes_through(room: Room) -> None:
    """A missing image is said as such, and holds nothing."""
    with pytest.raises(EngineRefused) as refusal:
        await room.start(image_id="sha256:missing")
    assert refusal.value.status == 404
    assert room.nothing_left


async def test_a_refused_request_changes_nothing(room: Room) -> None:
    """No container, no lease, no call of the engine that makes something."""
    room.allocator.frozen = "not now"
    with pytest.raises(Refusal):
        await room.start()
    assert room.nothing_left
    assert room.engine.calls["create"] == 0
    assert room.points == []


async def test_a_start_whose_clean_up_fails_too_is_left_to_the_reconciler(room: Room) -> None:
    """The first error is what the caller hears; the device stays taken, since nobody knows what runs."""
    room.engine.fail("start")
    room.engine.fail("remove", EngineUnavailable("second"), times=9)
    with pytest.raises(EngineUnavailable, match="injected"):
        await room.start()
    assert [lease.state for lease in room.ledger.live()] == [S.RELEASING]
    assert len(room.ledger.claims()) == 1


async def test_a_container_that_ends_at_once_is_a_refusal_with_its_last_words(room: Room) -> None:
    """Exit code and output are kept, and nothing else is."""
    room.engine.dies_at_start["main._.ana.1"] = 3
    created = room.engine.create

    async def talkative(name: str, payload: Mapping[str, Any]) -> str:
        container = await created(name, payload)
        room.engine.output[container] = "no such module\n"
        return container

    room.engine.create = talkative  # type: ignore[method-assign]
    with pytest.raises(Refusal, match="code 3") as refusal:
        await room.start()
    assert refusal.value.reason is Reason.ENGINE
    assert refusal.value.data["log"] == "no such module\n"
    assert room.nothing_left
    exited = [event for event in room.ledger.events() if event.kind == "container.exited"]
    assert exited[0].data["exit_code"] == 3
    assert exited[0].data["log"] == "no such module\n"


async def test_a_container_that_vanishes_during_its_start_is_a_refusal(room: Room) -> None:
    """Removed by hand between start and look."""
    started = room.engine.start

    async def then_gone(container: str) -> None:
        await started(container)
        del room.engine.containers[container]

    room.engine.start = then_gone  # type: ignore[method-assign]
    with pytest.raises(Refusal, match="it is gone"):
        await room.start()
    assert room.nothing_left


async def test_a_container_that_is_not_what_was_asked_for_goes(room: Room) -> None:
    """The read-back is the last word."""
    seen: list[str] = []

    async def verify(lease: Lease, view: ContainerView) -> None:
        seen.append(lease.container_id)
        raise Refusal(Reason.LIMITS_NOT_APPLIED, "memory is not what it should be")

    with pytest.raises(Refusal, match="memory"):
        await room.start(verify=verify)
    assert len(seen) == 1
    assert room.nothing_left


@pytest.mark.parametrize("turns", range(40))
async def test_a_start_can_be_cancelled_at_any_moment(room: Room, turns: int) -> None:
    """Afterwards there is nothing, or the start had already ended well."""
    start = asyncio.create_task(room.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    finished = start.done()
    start.cancel()
    if finished:
        assert (await start)[0].state is S.BOUND
        return
    with pytest.raises(asyncio.CancelledError):
        await start
    assert room.nothing_left
    assert room.allocator.in_flight == set()


async def test_a_cancelled_start_waits_for_the_call_under_way(room: Room) -> None:
    """A create that can't be stopped any more is waited for, so that what it made is found and removed."""
    room.engine.hang("create")
    start = asyncio.create_task(room.start())
    while not room.engine.calls["create"]:
        await asyncio.sleep(0)
    start.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not start.done()
    room.engine.heal()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert room.nothing_left
    assert len(room.engine.removed) == 1


@pytest.mark.parametrize("state", ["running", "exited", "created"])
async def test_what_an_earlier_start_left_is_removed_first(room: Room, state: str) -> None:
    """An old container is never resumed: its token, limits and image are old."""
    lease, view = await room.start()
    room.engine.containers[view.id] = replace(view, state=state)
    again, new = await room.start()
    assert new.id != view.id
    assert list(room.engine.containers) == [new.id]
    assert room.ledger.live() == (again,)
    old = room.ledger.get(lease.id)
    assert old is not None
    assert old.state is S.RELEASED


async def test_a_leftover_without_a_lease_is_found_by_its_labels(room: Room) -> None:
    """The ledger doesn't know it: another owner's, a forged one and another server's are left alone."""
    mine, ours = "main._.ana.old", Owner("ana", "gpu")
    made = labels.of_lease(Lease("", ANA, "local", S.BOUND, 0, 0, mine), instance=INSTANCE)
    old = room.engine.foreign(mine, labels=labels.sign(made, KEY, name=mine))
    forged = room.engine.foreign("main._.ana.forged", labels=made)
    other_lease = Lease("", ours, "local", S.BOUND, 0, 0, "gpu._.ana.x")
    other = room.engine.foreign("gpu._.ana.x", labels=signed(other_lease))
    _lease, view = await room.start()
    assert set(room.engine.containers) == {forged.id, other.id, view.id}
    assert [gone.id for gone in room.engine.removed] == [old.id]


async def test_a_name_that_somebody_else_has_is_left_alone(room: Room) -> None:
    """A clash is an error, and no reason to remove what isn't ours."""
    foreign = room.engine.foreign("taken")
    with pytest.raises(EngineRefused) as refusal:
        await room.start(container_name="taken")
    assert refusal.value.status == 409
    assert list(room.engine.containers) == [foreign.id]
    assert room.ledger.live() == ()


async def test_a_payload_without_our_signature_is_never_created(room: Room) -> None:
    """Such a container could not be found again."""

    def unsigned(lease: Lease) -> Mapping[str, Any]:
        return {**payload_of(lease), "Labels": {labels.LEASE: lease.id}}

    with pytest.raises(ValueError, match="signed labels"):
        await room.start(make_payload=unsigned)
    assert room.engine.calls["create"] == 0
    assert room.nothing_left


async def test_without_the_ledger_cpu_only_starts_without_a_lease(room: Room) -> None:
    """It runs, signed, for a later adoption, and stops."""
    room.ledger.outage = True
    lease, view = await room.start(request=CPU_ONLY)
    assert (lease.id, lease.container_id, view.labels[labels.LEASE]) == ("", view.id, "")
    assert labels.trusts(view, instance=INSTANCE, key=KEY)
    assert await room.lifecycle.is_alive(lease) == view
    await room.lifecycle.stop(lease, grace=5.0)
    room.ledger.outage = False
    assert room.nothing_left
    with pytest.raises(Refusal):
        room.ledger.outage = True
        await room.start()


async def test_a_stop_finds_the_lease_that_was_written_meanwhile(room: Room) -> None:
    """The spawner still knows no id; the reconciler has adopted its container."""
    room.ledger.outage = True
    unknown, view = await room.start(request=CPU_ONLY)
    room.ledger.outage = False
    adopted = await room.allocator.adopt(replace(unknown, state=S.BOUND, container_id=view.id))
    await room.lifecycle.stop(unknown, grace=5.0)
    assert room.nothing_left
    done = room.ledger.get(adopted.id)
    assert done is not None
    assert done.state is S.RELEASED


async def test_a_stop_without_an_id_leaves_another_container_alone(room: Room) -> None:
    """The owner has a new container by now; the stop meant the old one."""
    room.ledger.outage = True
    old, _view = await room.start(request=CPU_ONLY)
    room.ledger.outage = False
    new, _view = await room.start(request=CPU_ONLY)
    await room.lifecycle.stop(old, grace=5.0)
    assert list(room.engine.containers) == [new.container_id]
    assert room.ledger.live() == (new,)


async def test_a_ledger_that_fails_after_the_start_matters_for_gpus_only(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU only goes on with its reservation, which the reconciler binds; a GPU start ends."""
    started = room.engine.start

    async def then_outage(container: str) -> None:
        await started(container)
        room.ledger.outage = True

    monkeypatch.setattr(room.engine, "start", then_outage)
    lease, view = await room.start(request=CPU_ONLY)
    room.ledger.outage = False
    assert (lease.state, lease.container_id) == (S.RESERVED, view.id)
    with pytest.raises(Exception, match="no answer"):
        await room.start(Owner("ben"))
    room.ledger.outage = False
    assert [c.id for c in room.engine.containers.values()] == [view.id]


async def test_is_alive_says_only_what_it_knows(room: Room) -> None:
    """Running, ended, or nobody knows: then it raises."""
    lease, view = await room.start()
    assert await room.lifecycle.is_alive(lease) == view
    room.engine.crash(view.id, 1)
    assert await room.lifecycle.is_alive(lease) is None
    ended = await room.lifecycle.find(lease)
    assert ended is not None
    assert ended.exit_code == 1
    room.engine.fail("inspect")
    with pytest.raises(EngineUnavailable):
        await room.lifecycle.is_alive(lease)


async def test_two_starts_of_one_owner_come_one_after_the_other(room: Room) -> None:
    """The second removes what the first made: there is one container at the end, and one lease."""
    await asyncio.gather(room.start(), room.start())
    assert len(room.engine.containers) == 1
    assert len(room.ledger.live()) == 1


async def test_a_slow_stop_of_one_owner_delays_no_other(room: Room) -> None:
    """Each owner has a lock of its own."""
    lease, _view = await room.start()
    room.engine.hang("stop")
    stop = asyncio.create_task(room.lifecycle.stop(lease, grace=10.0))
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(room.start(Owner("ben")), 5))[0].state is S.BOUND
    assert not stop.done()
    room.engine.heal()
    await stop

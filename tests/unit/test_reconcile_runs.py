"""The reconciler at work on the fakes: what it does, and what it leaves alone while somebody is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner import reconciler as module
from ds01_spawner.allocator import NOT_COMPARED, Allocator
from ds01_spawner.core import labels
from ds01_spawner.core.errors import EngineRefused, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.reconcile import Act
from ds01_spawner.core.report import Report
from ds01_spawner.lifecycle import ContainerLifecycle
from ds01_spawner.reconciler import Reconciler
from tests.fakes.fake_engine import IMAGE, FakeEngine
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.frozen_clock import FrozenClock
from tests.fakes.inline_executor import InlineExecutor
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import (
    ANA,
    BEN,
    CPU_ONLY,
    HOST,
    INSTANCE,
    KEY,
    ONE_SLICE,
    a_lease,
    limits_of,
    payload_of,
    signed,
)

S = LeaseState
KNOWN: dict[str, Any] = {"instance": INSTANCE, "label_key": KEY}


class Room:
    """A hub's parts; `restart` makes new ones on the same ledger and engine."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.ledger, self.engine = MemoryLedger(), FakeEngine(self.clock)
        self.inventory = FakeInventory(SEVEN_SLICES, full_gpu(1))
        self.reports: list[Report] = []
        self.restart()

    def restart(self) -> None:
        self.clock.advance(1.0)
        self.allocator = Allocator(
            self.ledger, self.inventory, clock=self.clock, node="local", host=HOST, executor=InlineExecutor()
        )
        self.lifecycle = ContainerLifecycle(self.allocator, self.engine, **KNOWN)
        self.reconciler = Reconciler(
            self.allocator, self.engine, clock=self.clock, every=15.0, observe=self.reports.append, **KNOWN
        )

    async def started(self, owner: Owner = ANA, request: Any = ONE_SLICE) -> tuple[Lease, ContainerView]:
        await self.reconciler.run_once()
        return await self.lifecycle.start(
            owner, request, limits_of(owner.user), payload_of, container_name=f"main._.{owner.user}.x", image_id=IMAGE
        )

    async def run(self) -> list[Act]:
        report = await self.reconciler.run_once()
        assert report.violations == ()
        return [action.act for action, problem in report.done if not problem]

    def state_of(self, lease: Lease) -> tuple[LeaseState, str]:
        found = self.ledger.get(lease.id)
        assert found is not None
        return found.state, found.reason

    def events(self, kind: str) -> list[Any]:
        return [event for event in self.ledger.events() if event.kind == kind]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    found = Room()
    yield found
    await found.reconciler.stop()


async def test_the_first_comparison_opens_the_grants(room: Room) -> None:
    """Before it nothing is granted; after it everything is known."""
    assert room.allocator.frozen == NOT_COMPARED
    report = await room.reconciler.run_once()
    assert report.ok
    assert room.allocator.frozen == ""
    assert report.devices == {("1g", "free"): 7, ("full", "free"): 1}
    assert room.reports == [report]
    assert room.reconciler.last is report


async def test_a_crashed_container_is_reaped_with_its_cause(room: Room) -> None:
    """Exit cause and last words in an event, the container removed, the device free."""
    lease, view = await room.started()
    room.engine.output[view.id] = "killed by the kernel\n"
    room.engine.crash(view.id, 137, oom=True)
    assert await room.run() == [Act.REAP]
    state, reason = room.state_of(lease)
    assert state is S.RELEASED
    assert "out of memory" in reason
    (exited,) = room.events("container.exited")
    assert (exited.data["out_of_memory"], exited.data["log"]) == (True, "killed by the kernel\n")
    assert room.engine.containers == {}
    assert await room.run() == []


async def test_a_container_removed_by_hand_frees_its_devices(room: Room) -> None:
    """`docker rm -f` beside us."""
    lease, view = await room.started()
    del room.engine.containers[view.id]
    assert await room.run() == [Act.ABSENT]
    assert room.state_of(lease) == (S.RELEASED, "the container is gone")


async def test_absence_is_looked_at_twice(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that leaves a container out frees nothing while it can be inspected."""
    lease, _view = await room.started()

    async def nothing(labels: object = None) -> tuple[ContainerView, ...]:
        return ()

    monkeypatch.setattr(room.engine, "list", nothing)
    report = await room.reconciler.run_once()
    assert report.done == ()
    assert room.state_of(lease)[0] is S.BOUND


@pytest.mark.parametrize("silent", ["engine", "inventory", "ledger"])
async def test_while_somebody_is_silent_nothing_is_freed_granted_or_destroyed(room: Room, silent: str) -> None:
    """And when it answers again everything goes on by itself."""
    lease, view = await room.started()
    room.engine.crash(view.id)
    stray = _stray(room, BEN, devices=(1,))
    if silent == "engine":
        room.engine.fail("list", times=100)
    elif silent == "inventory":
        room.inventory.outage = True
    else:
        room.ledger.outage = True
    report = await room.reconciler.run_once()
    room.ledger.outage = False
    assert (report.ok, report.done) == (False, ())
    assert room.allocator.frozen
    assert report.frozen == room.allocator.frozen
    assert room.state_of(lease)[0] is S.BOUND
    assert set(room.engine.containers) == {view.id, stray.id}
    with pytest.raises(Refusal):
        await room.allocator.reserve(Owner("carla"), ONE_SLICE, limits_of("carla"), container_name="c", image_id=IMAGE)
    room.engine.heal()
    room.inventory.outage = False
    assert set(await room.run()) == {Act.REAP, Act.ADOPT}
    assert room.allocator.frozen == ""


def _stray(room: Room, owner: Owner, *, devices: tuple[int, ...] = (), **changes: str) -> ContainerView:
    """A signed running container that the ledger doesn't know."""
    found = tuple(FakeInventory(SEVEN_SLICES).now.devices()[n] for n in devices)
    lease = a_lease(id="L7", owner=owner, container_name=f"main._.{owner.user}.stray", devices=found)
    uuids = tuple(device.uuid for device in found)
    return room.engine.foreign(lease.container_name, labels=signed(lease, **changes), device_ids=uuids)


async def test_a_stray_is_adopted(room: Room) -> None:
    """The ledger was restored from an older copy: what runs gets its lease back."""
    view = _stray(room, BEN, devices=(3,))
    assert await room.run() == [Act.ADOPT]
    (lease,) = room.ledger.live()
    assert (lease.id, lease.owner, lease.container_id, lease.reason) == ("L7", BEN, view.id, "adopted")
    assert lease.devices[0].uuid == view.device_ids[0]
    (event,) = room.events("container.adopted")
    assert event.lease == "L7"


async def test_a_cpu_only_start_without_the_ledger_is_adopted_later(room: Room) -> None:
    """The outage ends and nothing is forgotten."""
    await room.reconciler.run_once()
    room.ledger.outage = True
    _lease, view = await room.lifecycle.start(
        ANA, CPU_ONLY, limits_of("ana"), payload_of, container_name="main._.ana.x", image_id=IMAGE
    )
    room.ledger.outage = False
    assert await room.run() == [Act.ADOPT]
    assert [lease.container_id for lease in room.ledger.live()] == [view.id]


async def test_a_stray_on_taken_devices_is_stopped_told_and_swept(room: Room) -> None:
    """The lease wins; the intruder ends within one run, with an event for each step."""
    lease, view = await room.started()
    stray = _stray(room, BEN, devices=(0,))
    assert await room.run() == [Act.QUARANTINE, Act.SWEEP]
    assert list(room.engine.containers) == [view.id]
    assert room.state_of(lease)[0] is S.BOUND
    (event,) = room.events("container.quarantined")
    assert event.data["container_id"] == stray.id
    assert "not free" in event.data["reason"]


async def test_a_second_container_of_one_owner_is_stopped(room: Room) -> None:
    """The one with the lease stays."""
    _lease, view = await room.started()
    _stray(room, ANA)
    assert await room.run() == [Act.QUARANTINE, Act.SWEEP]
    assert list(room.engine.containers) == [view.id]


async def test_a_stray_replaces_a_lease_whose_container_is_gone(room: Room) -> None:
    """In one run: the old lease ends, then the running container is adopted."""
    lease, view = await room.started(request=CPU_ONLY)
    del room.engine.containers[view.id]
    stray = _stray(room, ANA)
    assert await room.run() == [Act.ABSENT, Act.ADOPT]
    assert room.state_of(lease)[0] is S.RELEASED
    assert [found.container_id for found in room.ledger.live()] == [stray.id]


async def test_forged_labels_are_told_once_and_never_touched(room: Room) -> None:
    """Not adopted, not removed; its device counts as somebody else's."""
    uuid = SEVEN_SLICES.instances[0].uuid
    values = {labels.INSTANCE: INSTANCE, labels.USER: "ana", labels.DEVICES: uuid}
    forged = room.engine.foreign("forged", labels=values, device_ids=(uuid,))
    assert await room.run() == [Act.FORGED]
    assert await room.run() == []
    assert len(room.events("container.forged")) == 1
    assert forged.id in room.engine.containers
    assert room.allocator.external == {uuid}
    assert room.ledger.live() == ()
    lease, _view = await room.started()
    assert lease.devices[0].uuid != uuid


async def test_containers_of_others_take_their_gpus_out_of_the_offer(room: Room) -> None:
    """`docker run --gpus all` beside us: nothing is free until it ends."""
    other = room.engine.foreign("jupyter-of-somebody", all_devices=True)
    report = await room.reconciler.run_once()
    assert report.devices == {("1g", "external"): 7, ("full", "external"): 1}
    assert other.id in room.engine.containers
    room.engine.crash(other.id, 0)
    assert (await room.reconciler.run_once()).devices == {("1g", "free"): 7, ("full", "free"): 1}
    assert other.id in room.engine.containers


async def test_a_reservation_of_a_dead_hub_ends_at_once(room: Room) -> None:
    """Nothing was made under its name, and its process makes nothing more."""
    room.allocator.frozen = ""
    lease = await room.allocator.reserve(ANA, ONE_SLICE, limits_of("ana"), container_name="x", image_id=IMAGE)
    assert await room.run() == []
    room.restart()
    assert await room.run() == [Act.ABSENT]
    assert room.state_of(lease)[0] is S.RELEASED


async def test_a_reservation_under_a_foreign_name_is_kept(room: Room) -> None:
    """Something is there under its name and nobody can say whose it is: nothing is freed."""
    room.allocator.frozen = ""
    lease = await room.allocator.reserve(ANA, ONE_SLICE, limits_of("ana"), container_name="x", image_id=IMAGE)
    room.engine.foreign("x")
    room.restart()
    report = await room.reconciler.run_once()
    assert report.done == ()
    assert room.state_of(lease)[0] is S.RESERVED


@pytest.mark.parametrize("started", [True, False])
async def test_what_a_dead_hub_had_made_is_finished_or_removed(room: Room, started: bool) -> None:
    """Running under its reservation: bound. Only created: removed, and the device is free."""
    room.allocator.frozen = ""
    lease = await room.allocator.reserve(ANA, ONE_SLICE, limits_of("ana"), container_name="x", image_id=IMAGE)
    container = await room.engine.create("x", payload_of(lease))
    if started:
        await room.engine.start(container)
    room.restart()
    assert await room.run() == [Act.CONFIRM if started else Act.DISCARD]
    assert room.state_of(lease)[0] is (S.BOUND if started else S.RELEASED)
    assert list(room.engine.containers) == ([container] if started else [])


async def test_a_release_that_a_dead_hub_began_is_finished(room: Room) -> None:
    """The container still runs: it is stopped, removed, and the first reason stays."""
    lease, _view = await room.started()
    await room.allocator.release(lease.id, "stopped by ana")
    room.restart()
    assert await room.run() == [Act.DISCARD]
    assert room.state_of(lease) == (S.RELEASED, "stopped by ana")
    assert room.engine.containers == {}


async def test_a_hold_ends_at_its_time(room: Room) -> None:
    """Not before."""
    lease, _view = await room.started()
    await room.lifecycle.stop(lease, grace=1.0, hold=60.0)
    assert await room.run() == []
    room.clock.advance(60.0)
    assert await room.run() == [Act.END_HOLD]
    assert room.state_of(lease) == (S.RELEASED, "the hold has ended")


async def test_hardware_that_is_gone_is_lost_and_its_container_left_to_its_owner(room: Room) -> None:
    """The claim stands until the container is gone, even where the GPU comes back."""
    lease, view = await room.started()
    gpus, room.inventory.gpus = room.inventory.gpus, (full_gpu(1),)
    assert await room.run() == [Act.LOSE]
    assert room.state_of(lease)[0] is S.LOST
    assert room.engine.containers[view.id].running
    room.inventory.gpus = gpus
    assert await room.run() == []
    assert len(room.ledger.claims()) == 1
    await room.lifecycle.stop(lease, grace=1.0)
    assert room.state_of(lease)[0] is S.RELEASED


async def test_what_is_under_way_is_left_alone(room: Room) -> None:
    """A start between create and start is no leftover."""
    await room.reconciler.run_once()
    room.engine.hang("start")
    start = asyncio.create_task(room.started())
    while not room.engine.calls["start"]:
        await asyncio.sleep(0)
    assert await room.run() == []
    room.engine.heal()
    lease, view = await start
    assert (lease.state, view.running) == (S.BOUND, True)


async def test_a_decision_is_made_again_before_it_is_carried_out(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the deed the container was started: the old picture counts for nothing."""
    _lease, view = await room.started()
    old = replace(view, state="created")

    async def outdated(labels: object = None) -> tuple[ContainerView, ...]:
        return (old,)

    monkeypatch.setattr(room.engine, "list", outdated)
    report = await room.reconciler.run_once()
    assert report.done == ()
    assert room.engine.containers[view.id].running


async def test_one_failure_stops_nothing_else(room: Room) -> None:
    """What can't be removed is tried again in the next run; the others are done."""
    first, one = await room.started()
    second, two = await room.started(BEN)
    room.engine.crash(one.id)
    room.engine.crash(two.id)
    room.engine.fail("remove", EngineRefused("the disk is busy", 500))
    report = await room.reconciler.run_once()
    assert sorted(problem for _action, problem in report.done) == ["", "the disk is busy"]
    assert not report.ok
    assert room.allocator.frozen == "", "one container's trouble is no reason to give nobody a GPU"
    assert await room.run() == [Act.DISCARD]
    assert {room.state_of(first)[0], room.state_of(second)[0]} == {S.RELEASED}


async def test_a_broken_invariant_is_reported(room: Room) -> None:
    """Somebody wrote into the database: the report says so, in two looks."""
    lease, _view = await room.started()
    room.ledger._claims.clear()
    report = await room.reconciler.run_once()
    assert [text[:2] for text in report.violations] == ["I1"]
    assert lease.id in report.violations[0]


async def test_an_export_that_can_not_be_written_stops_nothing(room: Room) -> None:
    """A full disk under the exports."""

    def full(_report: Report) -> None:
        raise OSError(28, "no space left on device")

    reconciler = Reconciler(room.allocator, room.engine, clock=room.clock, observe=full, **KNOWN)
    assert (await reconciler.run_once()).ok
    silent = Reconciler(room.allocator, room.engine, clock=room.clock, **KNOWN)
    assert (await silent.run_once()).ok


async def test_the_loop_begins_by_itself_and_hears_the_engine(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """`first` starts it and waits; a container's end wakes it long before the timer."""
    monkeypatch.setattr(module, "DEBOUNCE", 0.0)
    await room.reconciler.first()
    assert room.reconciler.last is not None
    assert room.reconciler.last.ok
    lease, view = await room.started()
    room.engine.crash(view.id)
    async with asyncio.timeout(10):
        while room.state_of(lease)[0] is not S.RELEASED:
            await asyncio.sleep(0.001)


async def test_the_loop_survives_everything(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent engine, a surprise, an event stream that breaks: the next turn comes, grants wait meanwhile."""
    monkeypatch.setattr(module, "DEBOUNCE", 0.0)
    room.engine.fail("list", times=1)
    await room.reconciler.first()
    assert "can't be compared" in room.allocator.frozen
    await _until(room, lambda: room.allocator.frozen == "")

    async def surprise(labels: object = None) -> tuple[ContainerView, ...]:
        raise RuntimeError("nobody thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(room.engine, "list", surprise)
        await _until(room, lambda: "failed" in room.allocator.frozen)
    room.engine.restart_daemon()
    await _until(room, lambda: room.allocator.frozen == "")


async def _until(room: Room, reached: Any) -> None:
    async with asyncio.timeout(20):
        while not reached():
            room.reconciler.wake()
            await asyncio.sleep(0.001)


def test_pauses_grow_and_end_at_the_timer(room: Room) -> None:
    """However long an outage lasts."""
    pauses = [room.reconciler._pause(failures) for failures in (1, 2, 3, 4, 5, 5000)]
    assert pauses == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0]

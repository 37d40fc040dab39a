"""Thousands of random schedules of users, faults and killed hubs, with the invariants checked after every step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from ds01_spawner.allocator import Allocator
from ds01_spawner.core.crash_points import CrashPoint
from ds01_spawner.core.leases import Lease
from ds01_spawner.core.requests import Request
from tests.faults.world import REQUESTS, World, bound, leaks

SCHEDULES = 2000
PORTIONS = 8
STEPS = 24


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Two thousand schedules log a million lines of what they provoke."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class FreesOnTheHubsWord(Allocator):
    """Broken on purpose: a device is free as soon as somebody says that its container will be stopped."""

    async def release(self, lease_id: str, reason: str) -> Lease:
        return await self.absent(lease_id, reason)


class ForgetsWhatIsTaken(Allocator):
    """Broken on purpose: a lease ends once its container was started, as if starting were all that it was for."""

    async def confirm(self, lease_id: str, container_id: str) -> Lease:
        lease = await super().confirm(lease_id, container_id)
        await self.absent(lease_id, "started")
        return lease


async def run(seed: int, allocator_class: type[Allocator] = Allocator) -> World:
    world = World(seed, allocator_class)
    await world.hub.reconciler.run_once()
    for _ in range(STEPS):
        await world.step()
    report = await world.settle()
    world.violations += [f"at the end: {text}" for text in leaks(world)]
    world.violations += [f"reported: {text}" for text in (*report.violations, *(p for _, p in report.done if p))]
    world.check(settled=True)
    return world


@pytest.mark.parametrize("portion", range(PORTIONS))
async def test_no_schedule_breaks_an_invariant_or_leaks(portion: int) -> None:
    """Whatever comes in whatever order: no device twice, no limit passed, nothing left over after one reconcile."""
    granted = 0
    for seed in range(portion, SCHEDULES, PORTIONS):
        world = await run(seed)
        assert world.violations == [], f"seed {seed}: {world.history}"
        granted += sum(event.kind == "lease.bound" for event in world.ledger.events(limit=1000))
    assert granted > SCHEDULES // PORTIONS, "the schedules must get containers to run, or they prove nothing"


@pytest.mark.parametrize("broken", [FreesOnTheHubsWord, ForgetsWhatIsTaken])
async def test_the_checker_sees_a_broken_allocator(broken: type[Allocator]) -> None:
    """An allocator that frees without having seen the container's absence is found out within a few schedules."""
    found: list[str] = []
    for seed in range(40):
        world = await run(seed, broken)
        found += [text for text in world.violations if "I1" in text]
    assert any("without a live lease" in text for text in found)


@pytest.mark.parametrize("point", list(CrashPoint))
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
async def test_a_hub_killed_at_any_point_leaves_nothing_half_done(point: CrashPoint, request_: Request) -> None:
    """After one reconcile of the next process: a bound running container, or neither container nor lease."""
    world = World(0)
    await world.hub.reconciler.run_once()
    owner = world.users[0]
    world.hub.die_at = point
    world.start(owner, request_)
    await asyncio.wait(world.hub.tasks)
    if not world.hub.dead:
        world.stop(owner)
        await asyncio.wait(world.hub.tasks)
    assert world.hub.dead, f"{point} was never reached"
    world.history.append(str(point))
    world.check()
    await world.settle()
    world.check(settled=True)
    assert world.violations + leaks(world) == []
    started = point in (CrashPoint.STARTED, CrashPoint.CONFIRMED)
    assert len(bound(world)) == started


@pytest.mark.parametrize("seed", range(50))
async def test_what_runs_survives_the_death_of_the_hub(seed: int) -> None:
    """A hub killed at any time, and a new one's first comparison, end no container that had its lease."""
    world = World(seed)
    await world.hub.reconciler.run_once()
    for owner in world.users:
        world.start(owner, world.random.choice(REQUESTS))
    await asyncio.wait(world.hub.tasks)
    running = bound(world)
    assert running
    world.reconcile()
    for _ in range(world.random.randrange(20)):
        await asyncio.sleep(0)
    world.kill_hub()
    await world.settle()
    assert bound(world) == running
    world.check(settled=True)
    assert world.violations == []

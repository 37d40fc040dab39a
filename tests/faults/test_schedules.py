"""Thousands of random schedules of users, faults and killed hubs, with the invariants checked after every step."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ds01_spawner.allocator import Allocator
from tests.faults.world import World, leaks

SCHEDULES = 2000
PORTIONS = 8
STEPS = 24


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Two thousand schedules log a million lines of what they provoke."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


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

"""A hub process killed at each named point, on the real engine: the next one puts everything right in one reconcile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ds01_spawner.core.crash_points import CrashPoint
from ds01_spawner.core.leases import Owner
from tests.faults.driver import Install, Parts, die_at

P = CrashPoint
START = (P.RESERVE_COMMITTED, P.CREATED, P.STARTED, P.CONFIRMED)
STOP = (P.STOPPING, P.STOPPED, P.REMOVED, P.RELEASE_COMMITTED)
#: Where the container already ran for its user: it goes on.
LIVES = {P.STARTED, P.CONFIRMED}

Hub = Callable[..., Parts]


def test_every_point_is_hit() -> None:
    """A point that somebody adds is killed at too."""
    assert {*START, *STOP} == set(CrashPoint)


async def comes_back(hub: Hub, *, alive: bool) -> None:
    """A new process, one reconcile: nothing without its counterpart. Its user can start again, with one device."""
    parts = hub()
    report = await parts.reconciler.run_once()
    assert report.ok
    assert report.violations == ()
    assert await parts.broken() == []
    running = [view for view in await parts.containers() if view.running]
    assert len(running) == alive
    assert parts.allocator.frozen == ""

    lease, view = await parts.start("ana")
    assert view.device_ids == tuple(device.uuid for device in lease.devices)
    assert [held.id for held in await parts.allocator.live()] == [lease.id]
    assert await parts.broken() == []


@pytest.mark.parametrize("point", START)
async def test_killed_in_a_start(point: CrashPoint, install: Install, hub: Hub, gpus: dict[str, str]) -> None:
    """What was only reserved or created is taken back at once; what ran already is kept, with its lease."""
    die_at(install, "start", point, gpus)
    await comes_back(hub, alive=point in LIVES)


@pytest.mark.parametrize("point", STOP)
async def test_killed_in_a_stop(point: CrashPoint, install: Install, hub: Hub, gpus: dict[str, str]) -> None:
    """A stop that was begun is finished, and says that it was a stop."""
    before = hub()
    await before.reconciler.run_once()
    lease, _ = await before.start("ana")
    before.close()
    die_at(install, "stop", point, gpus)
    parts = hub()
    await parts.reconciler.run_once()
    ended = await parts.allocator.get(lease.id)
    assert ended is not None
    assert ended.reason == "stopped"
    await comes_back(hub, alive=False)


@pytest.mark.parametrize("point", STOP)
async def test_killed_again_in_the_reconcile_that_follows(
    point: CrashPoint, install: Install, hub: Hub, gpus: dict[str, str]
) -> None:
    """Cleaning up can be killed as well, at any of its steps, and is taken up again."""
    before = hub()
    await before.reconciler.run_once()
    await before.start("ana")
    before.close()
    die_at(install, "stop", P.STOPPING, gpus)
    die_at(install, "reconcile", point, gpus)
    await comes_back(hub, alive=False)


@pytest.mark.parametrize("point", [P.STOPPED, P.RELEASE_COMMITTED, P.RESERVE_COMMITTED, P.CREATED, P.STARTED])
async def test_killed_in_a_start_over_a_running_container(
    point: CrashPoint, install: Install, hub: Hub, gpus: dict[str, str]
) -> None:
    """A new start removes the old container first; killed on the way there is never a second one."""
    before = hub()
    await before.reconciler.run_once()
    old, _ = await before.start("ana")
    before.close()
    die_at(install, "start", point, gpus)
    parts = hub()
    await parts.reconciler.run_once()
    assert await parts.broken() == []
    kept = await parts.allocator.lease_of(Owner("ana"))
    assert (kept is not None) == (point is P.STARTED)
    assert kept is None or kept.id != old.id
    await comes_back(hub, alive=point is P.STARTED)

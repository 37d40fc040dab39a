"""Everybody at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from traitlets.config import Config

from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import Reason
from ds01_spawner.core.leases import LeaseState
from tests.hub.hub_in_memory import HubInMemory

USERS = tuple(f"user{number}" for number in range(200))
SLICES = 7


@pytest.fixture
def hub_settings() -> Callable[[Config], None]:
    """The hub answers 202 after ten seconds, and an answer that comes later is not seen: wait for it instead."""

    def change(config: Config) -> None:
        config.JupyterHub.tornado_settings = {"slow_spawn_timeout": 120}

    return change


@pytest.mark.timeout(180)
async def test_200_users_ask_for_7_slices(hub: HubInMemory) -> None:
    """Exactly 7 leases and containers, 193 refusals that say what would fit, and nothing left when all have stopped."""
    for name in USERS:
        hub.add_user(name)
    answers = await asyncio.gather(*(hub.spawn(name, {"gpu": "1g"}) for name in USERS))
    assert Counter(answer.status for answer in answers) == {201: SLICES, 503: len(USERS) - SLICES}
    for answer in answers:
        if answer.status == 503:
            assert answer.reason == Reason.BUSY
            assert "0 of 7 of that kind are free" in answer.message and "start without a GPU" in answer.message
    winners = {name for name, answer in zip(USERS, answers, strict=True) if answer.status == 201}

    leases = await hub.leases()
    assert {lease.owner.user for lease in leases} == winners
    assert {lease.state for lease in leases} == {LeaseState.BOUND}
    assert len({device.uuid for lease in leases for device in lease.devices}) == SLICES
    assert hub.engine.calls["create"] == hub.engine.calls["start"] == hub.engine.most_running == SLICES
    assert len(await hub.events(lease_events.REFUSED)) == len(USERS) - SLICES
    assert await hub.broken() == ()

    assert {(await hub.stop(name)).status for name in winners} <= {202, 204}
    await hub.nothing_left()
    assert (await hub.spawn(sorted(set(USERS) - winners)[0], {"gpu": "1g"})).status == 201


@pytest.mark.timeout(120)
async def test_cancelled_starts_leave_no_device(hub: HubInMemory) -> None:
    """Forty users for seven slices, half of them change their mind at once: the slices all come back."""
    users = USERS[:40]
    for name in users:
        hub.add_user(name)
    hub.engine.latency = {"create": 0.05, "start": 0.05, "remove": 0.05}
    asked = [asyncio.create_task(hub.spawn(name, {"gpu": "1g"})) for name in users]
    await hub.until(lambda: all("" in hub.user(name).spawners for name in users))
    await asyncio.gather(*(hub.stop(name) for name in users[::2]))
    await asyncio.gather(*asked)
    assert await hub.broken() == ()
    await asyncio.gather(*(hub.stop(name) for name in users))
    await hub.until(lambda: not hub.ds01.allocator.in_flight)
    await hub.nothing_left()

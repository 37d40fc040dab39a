"""What poll says, and that nobody waits for somebody else's container."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dockerspawner import DockerSpawner

from ds01_spawner.core.errors import EngineUnavailable
from ds01_spawner.core.leases import LeaseState
from tests.hub.hub_in_memory import HubInMemory

OFTEN = 10**6


async def test_an_engine_that_fails_is_no_dead_container(hub: HubInMemory) -> None:
    """A 5xx or no answer is 'unknown': poll says None, the hub goes on routing, the lease stays bound."""
    await hub.spawn("ana", {"gpu": "1g"})
    hub.engine.fail("*", times=OFTEN)
    assert await hub.spawner("ana").poll_and_notify() is None
    await hub.reconcile()
    assert hub.spawner("ana").ready and "/user/ana/" in hub.app.proxy.routes
    hub.engine.heal()
    lease = await hub.lease("ana")
    assert lease is not None and lease.state is LeaseState.BOUND and hub.container("ana").running


async def test_an_engine_that_hangs_is_no_dead_container(hub: HubInMemory) -> None:
    """While the engine gives no answer the hub takes the container for alive, after the call's deadline too."""
    await hub.spawn("ana", {"gpu": "1g"})
    hub.engine.hang("inspect")
    asked = asyncio.create_task(hub.spawner("ana").poll())
    await hub.until(lambda: hub.engine.calls["inspect"] > 0)
    assert hub.spawner("ana").ready
    hub.engine.fail("inspect", EngineUnavailable("no answer within 10 s"), times=OFTEN)
    hub.engine._hanging.pop("inspect").set()
    assert await asked is None


async def test_gpus_or_ledger_that_cannot_be_read_are_no_dead_container(
    hub: HubInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of inventory or ledger stops nothing: poll says None, also where the hub lost its own state."""
    await hub.spawn("ana", {"gpu": "1g"})
    await hub.spawn("ben")
    hub.gpus.outage = True
    await hub.reconcile()
    assert await hub.spawner("ana").poll() is None
    with monkeypatch.context() as patch:
        hub.silence_ledger(patch)
        assert await hub.spawner("ana").poll() is None
        hub.spawner("ben").clear_state()
        assert await hub.spawner("ben").poll() is None
    hub.gpus.outage = False
    await hub.reconcile()
    assert len(await hub.leases()) == 2 and await hub.broken() == ()


async def test_poll_never_raises(hub: HubInMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours in poll would let the hub call every server dead: it is logged, and the answer is None."""
    await hub.spawn("ana")

    async def broken(*_args: object, **_named: object) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(hub.ds01.launcher, "find", broken)
    assert await hub.spawner("ana").poll() is None


async def test_poll_while_starting(hub: HubInMemory) -> None:
    """A start under way is neither running nor dead: None."""
    held = hub.engine.hold_next("create")
    asked = asyncio.create_task(hub.spawn("ana"))
    await held.reached.wait()
    assert await hub.spawner("ana").poll() is None
    held.free.set()
    assert (await asked).status == 201


async def test_hub_state_is_a_cache(hub: HubInMemory) -> None:
    """A spawner that lost all it knew finds its container by owner, and stops that very container."""
    await hub.spawn("ana", {"gpu": "1g"})
    spawner = hub.spawner("ana")
    spawner.load_state({})
    spawner.object_id = spawner._lease_id = ""
    assert await spawner.poll() is None
    assert spawner.object_id == hub.container("ana").id
    assert await spawner.get_url() == f"http://{hub.container('ana').ip}:8888/user/ana/"
    await hub.stop("ana")
    await hub.nothing_left()


async def test_a_container_that_is_gone_is_dead(hub: HubInMemory) -> None:
    """Where the engine itself says 404, poll says how it ended, and the hub cleans up."""
    await hub.spawn("ana", {"gpu": "1g"})
    await hub.ds01.reconciler.stop()
    await hub.engine.remove(hub.container("ana").id)
    assert "gone" in str(await hub.spawner("ana").poll_and_notify())
    await hub.until(lambda: "" not in hub.user("ana").spawners)
    await hub.reconcile()
    await hub.nothing_left()


@pytest.mark.parametrize("method", ["stop", "remove"])
async def test_a_slow_stop_delays_nobody_else(hub: HubInMemory, method: str) -> None:
    """While ana's container takes long to stop, ben's poll, start and stop all come to their end."""
    await hub.spawn("ana", {"gpu": "1g"})
    await hub.spawn("ben")
    hub.spawner("ana").stop_grace = 5.0 if method == "stop" else 0.0
    held = hub.engine.hold_next(method)
    leaving = asyncio.create_task(hub.stop("ana"))
    await held.reached.wait()
    assert await hub.spawner("ben").poll() is None
    assert (await hub.spawn("carla", {"gpu": "1g"})).status == 201
    assert (await hub.stop("ben")).status == 204 and not hub.containers("ben")
    assert await hub.spawner("ana").poll() is None
    assert not leaving.done() and hub.containers("ana")
    held.free.set()
    await leaving
    await hub.until(lambda: not hub.containers("ana"))


@pytest.mark.parametrize("method", ["image_id", "create", "start"])
async def test_a_slow_start_delays_nobody_else(hub: HubInMemory, method: str) -> None:
    """While the engine is slow with ana's container, ben's start, poll and stop come to their end."""
    held = hub.engine.hold_next(method)
    slow = asyncio.create_task(hub.spawn("ana"))
    await held.reached.wait()
    assert (await hub.spawn("ben", {"gpu": "1g"})).status == 201
    assert await hub.spawner("ben").poll() is None
    assert (await hub.stop("ben")).status == 204
    assert not slow.done()
    held.free.set()
    assert (await slow).status == 201


async def test_own_executors(hub: HubInMemory) -> None:
    """DockerSpawner's calls of all users share one thread; ours have several, which are not its own."""
    executor = hub.spawner("ana").executor
    assert executor is hub.ds01.executor and executor._max_workers > 1
    assert executor is not DockerSpawner._executor


async def test_get_object_says_gone_only_where_the_engine_does(hub: HubInMemory) -> None:
    """DockerSpawner's own question gets no 'None' out of a server error."""
    await hub.spawn("ana")
    spawner = hub.spawner("ana")
    assert (await spawner.get_object())["Id"] == hub.container("ana").id
    hub.engine.fail("inspect", times=OFTEN)
    with pytest.raises(EngineUnavailable):
        await spawner.get_object()
    hub.engine.heal()
    await hub.engine.remove(hub.container("ana").id)
    assert await spawner.get_object() is None
    with pytest.raises(NotImplementedError):
        await spawner.create_object()

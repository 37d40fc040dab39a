"""A start: limits at creation, always a new container, and what becomes of one that fails or is cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner.core import labels
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable, Reason
from ds01_spawner.core.leases import LeaseState, Owner
from ds01_spawner.core.ports import ContainerView
from tests.hub.hub_in_memory import GIB, HubInMemory


async def test_a_container_with_exactly_what_was_granted(hub: HubInMemory) -> None:
    """A start leases first; the engine is asked for the leased devices with the user's limits."""
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201
    lease, view = await hub.lease("ana"), hub.container("ana")
    assert lease is not None and lease.state is LeaseState.BOUND and lease.container_id == view.id
    assert view.device_ids == tuple(device.uuid for device in lease.devices) and len(view.device_ids) == 1
    host = hub.engine.payloads[view.id]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"], host["PidsLimit"]) == (GIB, 2 * 10**9, 64 << 20, 100)
    assert labels.owner_of(view.labels) == Owner("ana")
    assert await hub.broken() == ()
    await hub.stop("ana")
    await hub.nothing_left()


async def test_every_start_makes_a_new_container_with_the_limits_of_now(hub: HubInMemory) -> None:
    """An edit of the YAML counts at the next start, which never resumes the old container: nothing of it is reused."""
    await hub.spawn("ana")
    before = hub.container("ana")
    await hub.stop("ana")
    hub.write_limits(memory="2g", shm_size="128m", max_cpus=3)
    assert (await hub.spawn("ana")).status == 201
    after = hub.container("ana")
    assert after.id != before.id and after.name != before.name
    assert (before.memory, before.shm_size, before.cpus) == (GIB, 64 << 20, 2.0)
    assert (after.memory, after.shm_size, after.cpus) == (2 * GIB, 128 << 20, 3.0)
    assert not hub.engine.payloads[after.id]["HostConfig"]["AutoRemove"]
    assert hub.engine.payloads[after.id]["HostConfig"]["RestartPolicy"] == {"Name": "no"}


async def test_a_crashed_container_is_made_anew_not_started_again(hub: HubInMemory) -> None:
    """The next start after a crash removes what is left and creates: `exited` containers are never resumed."""
    await hub.spawn("ana", {"gpu": "1g"})
    old = hub.container("ana")
    hub.engine.crash(old.id, 1)
    assert (await hub.spawn("ana")).status == 201
    assert hub.container("ana").id != old.id
    assert len(await hub.leases()) == 1
    assert await hub.broken() == ()


async def test_a_leftover_of_the_same_owner_is_removed_first(hub: HubInMemory) -> None:
    """A live container and lease of an earlier start that the hub forgot give way: one container, one lease."""
    await hub.spawn("ana", {"gpu": "1g"})
    old = hub.container("ana")
    user = hub.user("ana")
    user.spawners.pop("")
    user.orm_user.orm_spawners[""].server = None
    user.orm_user.orm_spawners[""].state = {}
    hub.app.db.commit()
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201
    assert hub.container("ana").id != old.id
    assert len(await hub.leases()) == 1
    assert await hub.broken() == ()


async def test_a_leftover_without_a_lease_is_removed_and_a_forged_one_is_not_touched(hub: HubInMemory) -> None:
    """What is signed by us and of this owner goes; what only claims to be is left for an administrator."""
    await hub.spawn("ana")
    shape = hub.container("ana")
    await hub.stop("ana")
    await hub.ds01.reconciler.stop()
    plain = {key: value for key, value in shape.labels.items() if key != labels.SIGNATURE}
    key = hub.ds01.label_key
    ours = hub.engine.foreign("old", labels=labels.sign(plain, key, name="old"))
    forged = hub.engine.foreign("forged", labels=labels.sign(plain, b"another key", name="forged"))
    assert (await hub.spawn("ana")).status == 201
    assert ours.id not in hub.engine.containers and forged.id in hub.engine.containers


# -- failures


def break_create(hub: HubInMemory) -> None:
    hub.engine.fail("create", EngineRefused("bad parameter", 400))


def lose_create(hub: HubInMemory) -> None:
    hub.engine.fail("create", EngineUnavailable("no answer"), after=True)


def break_start(hub: HubInMemory) -> None:
    hub.engine.fail("start", EngineRefused("oci runtime error", 500))


def lose_start(hub: HubInMemory) -> None:
    hub.engine.fail("start", EngineUnavailable("no answer"), after=True)


def die(hub: HubInMemory) -> None:
    hub.engine.exit_at_start = 127


def never_listen(hub: HubInMemory) -> None:
    hub.engine.deaf = True
    hub.ds01.launcher.site = replace(hub.ds01.launcher.site, ready_timeout=0.2)


def lose_image(hub: HubInMemory) -> None:
    hub.engine.images.pop("ds01/base:latest")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (break_create, Reason.ENGINE),
        (lose_create, Reason.ENGINE),
        (break_start, Reason.ENGINE),
        (lose_start, Reason.ENGINE),
        (die, Reason.ENGINE),
        (never_listen, Reason.ENGINE),
        (lose_image, Reason.ENVIRONMENT),
    ],
)
async def test_a_start_that_fails_leaves_nothing_and_says_why(hub: HubInMemory, harm: Any, reason: Reason) -> None:
    """Whatever fails in a start: a SpawnException with a reason, no container, no lease, options reset."""
    harm(hub)
    answer = await hub.spawn("ana", {"gpu": "1g"})
    assert answer.reason == reason and answer.status in (400, 503) and len(answer.message) > 20
    hub.engine.heal()
    await hub.reconcile()
    await hub.nothing_left()
    assert hub.stored_options("ana") == {}
    hub.engine.exit_at_start, hub.engine.deaf = None, False
    hub.engine.images["ds01/base:latest"] = next(iter(hub.engine.images.values()))
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201


async def test_wrong_limits_stop_the_container(hub: HubInMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine made isn't what was granted: container and lease go, the refusal names the limit."""
    inspect = hub.engine.inspect

    async def twice_the_memory(container: str) -> ContainerView | None:
        view = await inspect(container)
        return None if view is None else replace(view, memory=2 * view.memory)

    monkeypatch.setattr(hub.engine, "inspect", twice_the_memory)
    answer = await hub.spawn("ana", {"gpu": "1g"})
    assert answer.status == 500 and answer.reason == Reason.LIMITS_NOT_APPLIED and "memory" in answer.message
    await hub.nothing_left()


async def test_a_container_that_dies_while_it_is_waited_for(hub: HubInMemory) -> None:
    """It is not waited for until the time-out: its cause of death is the refusal's text, out of memory included."""
    hub.engine.deaf = True
    asked = asyncio.create_task(hub.spawn("ana", {"gpu": "1g"}))
    await hub.until(lambda: bool(hub.containers("ana")) and hub.container("ana").running)
    hub.engine.crash(hub.container("ana").id, 137, oom=True)
    answer = await asked
    assert answer.reason == Reason.ENGINE and "out of memory" in answer.message
    await hub.nothing_left()


async def test_http_never_up(hub: HubInMemory) -> None:
    """The port accepts but the hub gets no good answer within http_timeout: stopped, removed, lease released."""
    hub.engine.broken = True
    hub.spawner("ana").http_timeout = 1
    answer = await hub.spawn("ana", {"gpu": "1g"})
    assert answer.status == 500
    await hub.nothing_left()


async def test_start_timeout(hub: HubInMemory) -> None:
    """The hub cancels a start that takes longer than start_timeout: nothing of it stays."""
    hub.engine.deaf = True
    hub.spawner("ana").start_timeout = 1
    answer = await hub.spawn("ana", {"gpu": "1g"})
    assert answer.status >= 500
    await hub.nothing_left()


@pytest.mark.parametrize("method", ["image_id", "create", "start", "inspect", "deaf"])
async def test_delete_while_pending(hub: HubInMemory, method: str) -> None:
    """A start that its user cancels, at whatever step: no container, no lease, and the next start works."""
    if method == "deaf":
        hub.engine.deaf = True
        asked = asyncio.create_task(hub.spawn("ana", {"gpu": "1g"}))
        await hub.until(lambda: bool(hub.containers("ana")) and hub.container("ana").running)
        cancelled = asyncio.create_task(hub.stop("ana"))
    else:
        held = hub.engine.hold_next(method)
        asked = asyncio.create_task(hub.spawn("ana", {"gpu": "1g"}))
        await held.reached.wait()
        cancelled = asyncio.create_task(hub.stop("ana"))
        await hub.until(lambda: cancelled.done() or bool(hub.spawner("ana")._stop_pending))
        held.free.set()
    assert (await cancelled).status in (202, 204)
    assert (await asked).status >= 400
    await hub.until(lambda: not hub.ds01.allocator.in_flight)
    await hub.nothing_left()
    hub.engine.deaf = False
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201

"""A start: limits at creation, always a new container, and what becomes of one that fails or is cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from jupyterhub.utils import maybe_future

from ds01_spawner.core import labels, lease_events
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable, Reason
from ds01_spawner.core.leases import LeaseState, Owner
from ds01_spawner.core.ports import ContainerView
from tests.fakes.fake_inventory import mig_gpu
from tests.hub.conftest import GIB, HubInMemory


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


# -- stops


@pytest.mark.parametrize("silently", [False, True])
async def test_a_stop_that_fails_keeps_the_device_until_its_container_is_seen_gone(
    hub: HubInMemory, silently: bool
) -> None:
    """The hub answers 204 and believes it; the lease stays, nobody gets the device, the reconciler ends it."""
    hub.gpus.gpus = (mig_gpu(0, {0: "1g.5gb"}),)
    await hub.reconcile()
    await hub.spawn("ana", {"gpu": "1g"})
    patch = pytest.MonkeyPatch()
    if silently:

        async def nothing(container: str) -> None:
            """An engine that says yes and does nothing."""

        patch.setattr(hub.engine, "remove", nothing)
    else:
        hub.engine.fail("remove", times=10**6)
    assert (await hub.stop("ana")).status == 204
    assert hub.container("ana").running
    (lease,) = await hub.leases()
    assert lease.state is LeaseState.RELEASING and lease.devices
    await hub.reconcile()
    assert (await hub.spawn("ben", {"gpu": "1g"})).reason == Reason.BUSY
    patch.undo()
    hub.engine.heal()
    await hub.reconcile()
    await hub.nothing_left()
    assert (await hub.spawn("ben", {"gpu": "1g"})).status == 201


async def test_what_the_hub_forgets_frees_nothing(hub: HubInMemory) -> None:
    """clear_state and the post-stop hook with a live container change no lease: only observed absence frees."""
    await hub.spawn("ana", {"gpu": "1g"})
    before = await hub.lease("ana")
    spawner = hub.spawner("ana")
    await maybe_future(spawner.run_post_stop_hook())
    spawner.clear_state()
    await hub.reconcile()
    assert await hub.lease("ana") == before
    assert await spawner.poll() is None
    assert (await hub.stop("ana")).status == 204
    await hub.nothing_left()


async def test_a_crash_frees_the_device_and_tells_why(hub: HubInMemory) -> None:
    """An engine event is enough: the lease ends with the cause before the hub polls, and the user is told."""
    await hub.spawn("ana", {"gpu": "1g"})
    spawner = hub.spawner("ana")
    hub.engine.crash(hub.container("ana").id, 137, oom=True)

    async def freed() -> bool:
        return not await hub.leases()

    await hub.until(freed)
    await hub.nothing_left()
    (event,) = await hub.events(lease_events.EXITED)
    assert event.data["out_of_memory"] is True and event.data["exit_code"] == 137
    (released,) = await hub.events("lease.released")
    assert "out of memory" in released.data["reason"]
    assert "out of memory" in str(await spawner.poll_and_notify())
    await hub.until(lambda: "" not in hub.user("ana").spawners)
    assert "out of memory" in str(await hub.spawner("ana")._render_form())


async def test_a_crash_that_the_hub_sees_first_is_told_too(hub: HubInMemory) -> None:
    """Where poll comes before the reconciler, it says how the container ended."""
    await hub.ds01.reconciler.stop()
    await hub.spawn("ana")
    hub.engine.crash(hub.container("ana").id, 3)
    assert "code 3" in str(await hub.spawner("ana").poll())


# -- who is counted


async def test_the_target_users_running_containers_count(hub: HubInMemory) -> None:
    """An admin who starts for ana uses ana's places, not the admin's; records of stopped servers count for nobody."""
    for server in ("", "one", "two"):
        assert (await hub.spawn("ana", server=server, by="admin")).status == 201
    refused = await hub.spawn("ana", server="three", by="admin")
    assert (refused.status, refused.reason) == (403, Reason.CONTAINERS) and "at most 3" in refused.message
    assert (await hub.spawn("ana", server="three")).reason == Reason.CONTAINERS
    assert (await hub.spawn("admin")).status == 201
    await hub.stop("ana", "two")
    assert (await hub.api("PUT", "users/ana/servers/four", {}, token="ana")).status == 201
    assert (await hub.spawn("ana", server="three")).status == 201
    assert hub.user("ana").orm_user.orm_spawners.keys() == {"", "one", "two", "three", "four"}
    assert sorted(lease.owner.server for lease in await hub.leases() if lease.owner.user == "ana") == [
        "",
        "one",
        "three",
    ]


async def test_devices_are_counted_over_all_of_the_targets_containers(hub: HubInMemory) -> None:
    """max_mig_instances is the target user's sum over containers, whoever asks."""
    assert (await hub.spawn("carla", {"gpu": "1g", "count": 2}, "one")).status == 201
    refused = await hub.spawn("carla", {"gpu": "1g", "count": 2}, "two", by="admin")
    assert (refused.status, refused.reason) == (403, Reason.DEVICES) and "at most 1" in refused.message
    assert (await hub.spawn("carla", {"gpu": "1g"}, "two", by="admin")).status == 201
    assert await hub.broken() == ()

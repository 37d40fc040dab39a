"""A stop and a crash: what frees a device, what is told; and whose containers count."""

from __future__ import annotations

import pytest
from jupyterhub.utils import maybe_future

from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import Reason
from ds01_spawner.core.leases import LeaseState
from tests.fakes.fake_inventory import mig_gpu
from tests.hub.hub_in_memory import HubInMemory


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

"""The engine goes away, comes back, and is used by others behind our back: nothing is freed or granted on a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import docker
import pytest

from ds01_spawner.core import labels, lease_events
from ds01_spawner.core.crash_points import CrashPoint
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import Event
from tests.faults.conftest import Dockerd
from tests.faults.driver import CPU_ONLY, ONE_SLICE, Install, Parts, client, die_at

Hub = Callable[..., Parts]
SLEEP = ("/bin/sleep", "600")
#: Takes its time to end.
SLOW = ("/bin/sh", "-c", "trap 'sleep 3; exit 3' TERM; sleep 600 & wait")


@pytest.fixture
def api(install: Install) -> Iterator[docker.APIClient]:
    """Somebody who uses the engine without us."""
    with client(install.engine) as api:
        yield api


async def compared(hub: Hub, **settings: Any) -> Parts:
    """A hub process that has looked at everything once."""
    parts = hub(**settings)
    report = await parts.reconciler.run_once()
    assert report.ok
    return parts


async def settles(parts: Parts) -> None:
    """One reconcile, then nothing without its counterpart; a device is granted again."""
    report = await parts.reconciler.run_once()
    assert report.ok
    assert report.violations == ()
    assert await parts.broken() == []
    await parts.start("carla")
    assert await parts.broken() == []


async def ended(parts: Parts, lease: Lease) -> Lease:
    """The lease as the ledger has it; it has ended."""
    now = await parts.allocator.get(lease.id)
    assert now is not None
    assert now.state is LeaseState.RELEASED
    return now


def exit_event(parts: Parts, lease: Lease) -> Event:
    """What was written down about how the container ended."""
    return next(e for e in parts.ledger.events(lease=lease.id) if e.kind == lease_events.EXITED)


# -- the engine itself


@pytest.mark.parametrize("how", ["TERM", "KILL"])
async def test_an_engine_restart_ends_containers_and_one_reconcile_frees_them(
    how: str, hub: Hub, dockerd: Dockerd
) -> None:
    """Without live-restore all containers die with their engine: each lease ends with what its container died of."""
    parts = await compared(hub)
    held = [(await parts.start("ana"))[0], (await parts.start("ben", CPU_ONLY))[0]]
    await asyncio.to_thread(dockerd.restart, how)
    report = await parts.reconciler.run_once()
    assert report.ok
    for lease in held:
        now = await ended(parts, lease)
        code = exit_event(parts, lease).data["exit_code"]
        assert now.reason == f"the container exited with code {code}"
    assert await parts.containers() == ()
    await settles(parts)


async def test_nothing_is_freed_or_granted_while_the_engine_is_away(hub: Hub, dockerd: Dockerd) -> None:
    """No answer is no absence: every lease and claim stands, no GPU is given; it converges when the engine is back."""
    parts = await compared(hub)
    lease, _ = await parts.start("ana")
    await asyncio.to_thread(dockerd.kill)
    before = await parts.allocator.live_with_claims()
    report = await parts.reconciler.run_once()
    assert not report.ok
    assert await parts.allocator.live_with_claims() == before
    with pytest.raises(Refusal) as refusal:
        await parts.allocator.reserve(
            Owner("ben"), ONE_SLICE, parts.limits("ben"), container_name="main._.ben.x", image_id="x"
        )
    assert refusal.value.reason is Reason.GPU_UNKNOWN
    with pytest.raises(EngineUnavailable):
        await parts.lifecycle.is_alive(lease)
    with pytest.raises(EngineUnavailable):
        await parts.start("ben", CPU_ONLY)
    assert await parts.allocator.live_with_claims() == before
    await asyncio.to_thread(dockerd.restart)
    await parts.reconciler.run_once()
    await ended(parts, lease)
    await settles(parts)


async def test_an_engine_that_dies_in_the_middle_of_a_stop(hub: Hub, dockerd: Dockerd) -> None:
    """The stop fails aloud, the lease stays until the container is seen to be gone, and says why it ended."""
    parts = await compared(hub)
    lease, _ = await parts.start("ana", command=SLOW)
    stop = asyncio.create_task(parts.stop("ana", grace=15))
    async with asyncio.timeout(10):
        while (await parts.allocator.live())[0].state is not LeaseState.RELEASING:
            await asyncio.sleep(0)
    await asyncio.to_thread(dockerd.kill)
    with pytest.raises(EngineUnavailable):
        await stop
    claims = (await parts.allocator.live_with_claims())[1]
    assert {held for _, _, held in claims} == {lease.id}
    assert not (await parts.reconciler.run_once()).ok
    assert (await parts.allocator.live_with_claims())[1] == claims
    await asyncio.to_thread(dockerd.restart)
    await parts.reconciler.run_once()
    assert (await ended(parts, lease)).reason == "stopped"
    await settles(parts)


async def test_an_engine_that_dies_in_the_middle_of_a_start(hub: Hub, dockerd: Dockerd) -> None:
    """Whatever the engine made of it before it died, a reconcile leaves nothing."""
    parts = await compared(hub)
    start = asyncio.create_task(parts.start("ana"))
    async with asyncio.timeout(10):
        while not await parts.allocator.live():
            await asyncio.sleep(0)
    await asyncio.to_thread(dockerd.kill)
    with pytest.raises(EngineUnavailable):
        await start
    await asyncio.to_thread(dockerd.restart)
    await settles(parts)


async def test_the_loop_finds_an_engine_again_that_was_restarted(hub: Hub, dockerd: Dockerd) -> None:
    """With the timer out of reach, the end of the event stream and its new beginning are what wakes the reconciler."""
    parts = await compared(hub, every=600)
    async with watching(parts):
        lease, _ = await parts.start("ana")
        await asyncio.to_thread(dockerd.restart, "KILL")
        await until_ended(parts, lease)
    await settles(parts)


# -- other people's hands


@asynccontextmanager
async def watching(parts: Parts) -> AsyncIterator[None]:
    """The reconciler in the background, as in the hub."""
    await parts.reconciler.first()
    try:
        yield
    finally:
        await parts.reconciler.stop()


async def until_ended(parts: Parts, lease: Lease) -> None:
    async with asyncio.timeout(60):
        while (await parts.allocator.get(lease.id)).state is not LeaseState.RELEASED:  # type: ignore[union-attr]
            await asyncio.sleep(0.1)


async def test_removed_by_hand(hub: Hub, api: docker.APIClient) -> None:
    """`docker rm -f`: the lease ends by its container's absence."""
    parts = await compared(hub)
    lease, view = await parts.start("ana")
    api.remove_container(view.id, force=True)
    await parts.reconciler.run_once()
    assert (await ended(parts, lease)).reason == "the container is gone"
    await settles(parts)


async def test_killed_by_hand_is_noticed_by_the_event(hub: Hub, api: docker.APIClient) -> None:
    """`docker kill`: the engine's event wakes the reconciler, which keeps its exit code and removes it."""
    parts = await compared(hub, every=600)
    async with watching(parts):
        lease, view = await parts.start("ana")
        asked = time.monotonic()
        api.kill(view.id)
        await until_ended(parts, lease)
        assert time.monotonic() - asked < 15
    assert (await ended(parts, lease)).reason == "the container exited with code 137"
    assert exit_event(parts, lease).data["exit_code"] == 137
    await settles(parts)


async def test_renamed_by_hand(hub: Hub, api: docker.APIClient) -> None:
    """`docker rename`: the container is known by its id; its lease stays, and its user can stop it."""
    parts = await compared(hub)
    lease, view = await parts.start("ana")
    api.rename(view.id, f"renamed-{lease.id}")
    await parts.reconciler.run_once()
    assert (await parts.allocator.live()) == (lease,)
    assert await parts.lifecycle.is_alive(lease) is not None
    assert await parts.broken() == []
    await parts.stop("ana")
    assert await parts.containers() == ()
    await ended(parts, lease)
    await settles(parts)


async def test_killed_by_hand_between_reservation_and_its_confirmation(
    install: Install, hub: Hub, api: docker.APIClient, gpus: dict[str, str]
) -> None:
    """A container that nobody confirmed and that has ended is no running one."""
    die_at(install, "start", CrashPoint.STARTED, gpus)
    [entry] = api.containers(filters={"label": f"{labels.INSTANCE}={install.instance}"})
    api.kill(entry["Id"])
    parts = hub()
    await settles(parts)


async def test_what_a_dead_process_asked_for_comes_late(
    install: Install, hub: Hub, api: docker.APIClient, gpus: dict[str, str]
) -> None:
    """Its reservation ended meanwhile: a container that the engine makes of it afterwards is removed, and never ran."""
    die_at(install, "start", CrashPoint.RESERVE_COMMITTED, gpus)
    parts = hub()
    [lease] = await parts.allocator.live()
    assert lease.state is LeaseState.RESERVED
    await parts.reconciler.run_once()
    await ended(parts, lease)
    late = api.create_container_from_config(parts.payload(lease), lease.container_name)["Id"]
    await parts.reconciler.run_once()
    assert await parts.engine.inspect(late) is None
    await settles(parts)


async def test_a_container_whose_start_fails_leaves_nothing(hub: Hub) -> None:
    """Created, but its program doesn't exist: the lease and the container are gone, and the engine's reason is told."""
    parts = await compared(hub)
    with pytest.raises(EngineRefused, match="no-such-program"):
        await parts.start("ana", command=["/no-such-program"])
    assert await parts.allocator.live() == ()
    assert await parts.containers() == ()
    await settles(parts)


# -- other people's containers


async def test_forged_labels_are_told_of_and_change_nothing(install: Install, hub: Hub, api: docker.APIClient) -> None:
    """Labels copied from a real container name our instance, a lease and its devices; the container is left alone."""
    parts = await compared(hub)
    lease, view = await parts.start("ana")
    forged = {"Image": install.image, "Cmd": list(SLEEP), "Labels": dict(view.labels)}
    copy = api.create_container_from_config(forged, f"copy-of-{lease.id}")["Id"]
    api.start(copy)
    await parts.reconciler.run_once()
    assert (await parts.allocator.live()) == (lease,)
    for container in (view.id, copy):
        found = await parts.engine.inspect(container)
        assert found is not None
        assert found.running
    told = [event for event in parts.ledger.events() if event.kind == lease_events.FORGED]
    assert [event.data["container_id"] for event in told] == [copy]
    # Its owner's start removes the real one, and that one alone.
    new, _ = await parts.start("ana")
    assert await parts.engine.inspect(view.id) is None
    assert (await parts.allocator.live()) == (new,)
    assert (await parts.engine.inspect(copy)) is not None


def by_uuid(parts: Parts, uuid: str) -> str:
    return uuid


def by_index(parts: Parts, uuid: str) -> str:
    """As `--gpus device=0:1` says it."""
    inventory = parts.allocator.snapshot()
    assert inventory is not None
    for gpu in inventory.gpus:
        for place, instance in enumerate(gpu.instances):
            if instance.uuid == uuid:
                return f"{gpu.index}:{place}"
    raise AssertionError(uuid)


@pytest.mark.parametrize("name", [by_uuid, by_index])
async def test_a_device_in_somebody_elses_container_is_not_granted(
    name: Callable[[Parts, str], str], install: Install, hub: Hub, api: docker.APIClient
) -> None:
    """It is busy for us as long as that container runs, however it was asked for; then it is free."""
    parts = await compared(hub)
    first, _ = await parts.start("ana")
    await parts.stop("ana")
    [device] = first.devices
    request = {"Driver": "nvidia", "DeviceIDs": [name(parts, device.uuid)], "Capabilities": [["gpu"]]}
    foreign = {"Image": install.image, "Cmd": list(SLEEP), "HostConfig": {"DeviceRequests": [request]}}
    foreign["Labels"] = {labels.INSTANCE: "somebody else's"}
    container = api.create_container_from_config(foreign, f"foreign-{first.id}")["Id"]
    try:
        api.start(container)
        await parts.reconciler.run_once()
        second, _ = await parts.start("ana")
        assert second.devices != first.devices
        assert not {device.uuid, device.gpu_uuid} & {d.uuid for d in second.devices}
        await parts.stop("ana")
    finally:
        api.remove_container(container, force=True)
    await parts.reconciler.run_once()
    third, _ = await parts.start("ana")
    assert third.devices == first.devices, "the placement is the same each time, so the container was the reason"


async def test_a_container_with_all_gpus_leaves_none_to_grant(
    install: Install, hub: Hub, api: docker.APIClient
) -> None:
    """`--gpus all`: every device is busy, and the refusal says so."""
    parts = await compared(hub)
    request = {"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}
    foreign = {"Image": install.image, "Cmd": list(SLEEP), "HostConfig": {"DeviceRequests": [request]}}
    container = api.create_container_from_config(foreign, f"all-of-{install.instance}")["Id"]
    try:
        api.start(container)
        await parts.reconciler.run_once()
        with pytest.raises(Refusal) as refusal:
            await parts.start("ana")
        assert refusal.value.reason is Reason.BUSY
        await parts.start("ben", CPU_ONLY)
    finally:
        api.remove_container(container, force=True)
    await settles(parts)

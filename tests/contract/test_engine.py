"""What everybody may rely on in an engine: one suite for the fake that most tests use and for the real one."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ds01_spawner.core.errors import EngineRefused

SLEEP = ["/bin/sleep", "600"]
_numbers = itertools.count()


class Lab:
    """An engine with an image on it, and names that no other run uses."""

    def __init__(self, engine: Any, image: str) -> None:
        self.engine = engine
        self.image = image
        self.label = f"ds01-test-{os.getpid()}-{next(_numbers)}"
        self._made = itertools.count()

    def name(self) -> str:
        return f"{self.label}.{next(self._made)}"

    def payload(self, **changes: Any) -> dict[str, Any]:
        host = {"NetworkMode": "none", **changes.pop("HostConfig", {})}
        labels = {self.label: "", **changes.pop("Labels", {})}
        return {"Image": self.image, "Cmd": SLEEP, "Labels": labels, "HostConfig": host, **changes}

    async def running(self, **changes: Any) -> str:
        container: str = await self.engine.create(self.name(), self.payload(**changes))
        await self.engine.start(container)
        return container


@pytest.fixture(params=["fake", "docker"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    if request.param == "fake":
        module = pytest.importorskip("tests.fakes.fake_engine", reason="the fake engine isn't there yet")
        lab = Lab(module.FakeEngine(), "ds01-test/tiny:latest")
        if hasattr(lab.engine, "add_image"):
            lab.engine.add_image(
                lab.image, files={"/etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "/etc/group": b"root:x:0:\n"}
            )
        yield lab
        return
    image, engine = request.getfixturevalue("tiny_image"), None
    engine = importlib.import_module("ds01_spawner.adapters.engine").DockerEngine(os.environ["DOCKER_HOST"])
    lab = Lab(engine, image)
    yield lab
    for view in await engine.list({lab.label: ""}):
        await engine.remove(view.id)
    engine.close()


async def test_a_created_container_is_seen_by_id_and_by_name_before_it_ever_ran(lab: Lab) -> None:
    """`created` is a state of its own: no process, no exit code, but a name that is taken."""
    name = lab.name()
    container = await lab.engine.create(name, lab.payload(Labels={"ds01.lease": "L1"}))
    view = await lab.engine.inspect(container)
    assert (view.id, view.name, view.state, view.running, view.exit_code) == (container, name, "created", False, None)
    assert view.labels["ds01.lease"] == "L1"
    assert view.image_id == await lab.engine.image_id(lab.image)
    assert (await lab.engine.inspect(name)).id == container


async def test_a_taken_name_is_refused_with_409(lab: Lab) -> None:
    """Two containers never have one name."""
    name = lab.name()
    await lab.engine.create(name, lab.payload())
    with pytest.raises(EngineRefused) as refusal:
        await lab.engine.create(name, lab.payload())
    assert refusal.value.status == 409


async def test_a_missing_image_is_refused_with_404_and_leaves_the_name_free(lab: Lab) -> None:
    """A refused create leaves nothing."""
    name = lab.name()
    with pytest.raises(EngineRefused) as refusal:
        await lab.engine.create(name, lab.payload(Image="sha256:" + "0" * 64))
    assert refusal.value.status == 404
    assert await lab.engine.inspect(name) is None


async def test_starting_twice_is_no_error(lab: Lab) -> None:
    """A repeated start finds it running."""
    container = await lab.running()
    await lab.engine.start(container)
    view = await lab.engine.inspect(container)
    assert view.running
    assert view.exit_code is None


async def test_starting_what_is_not_there_is_refused_with_404(lab: Lab) -> None:
    """Start says that the container is gone."""
    with pytest.raises(EngineRefused) as refusal:
        await lab.engine.start(lab.name())
    assert refusal.value.status == 404


async def test_stop_ends_it_and_is_repeatable(lab: Lab) -> None:
    """A stopped container stays to be looked at, with its exit code; stopping it again is no error."""
    container = await lab.running()
    await lab.engine.stop(container, grace=0)
    await lab.engine.stop(container, grace=0)
    view = await lab.engine.inspect(container)
    assert (view.state, view.running) == ("exited", False)
    assert view.exit_code == 137


async def test_kill_ends_it_and_is_repeatable(lab: Lab) -> None:
    """Killing what doesn't run is no error."""
    container = await lab.running()
    await lab.engine.kill(container)
    await lab.engine.kill(container)
    assert not (await lab.engine.inspect(container)).running


async def test_what_is_gone_can_be_stopped_killed_and_removed(lab: Lab) -> None:
    """Absence is the aim of all three."""
    gone = lab.name()
    await lab.engine.stop(gone, grace=0)
    await lab.engine.kill(gone)
    await lab.engine.remove(gone)
    assert await lab.engine.inspect(gone) is None


@pytest.mark.parametrize("started", [True, False])
async def test_removal_returns_when_the_engine_says_404(lab: Lab, started: bool) -> None:
    """After `remove` there is no container, running before or not, and its name is free."""
    name = lab.name()
    container = await lab.engine.create(name, lab.payload())
    if started:
        await lab.engine.start(container)
    await lab.engine.remove(container)
    assert await lab.engine.inspect(container) is None
    assert await lab.engine.create(name, lab.payload()) != container


async def test_two_removals_at_once_both_end_with_absence(lab: Lab) -> None:
    """ "Already in progress" is waited for, not believed to be the end."""
    container = await lab.running()

    async def remove() -> bool:
        await lab.engine.remove(container)
        return await lab.engine.inspect(container) is None

    assert await asyncio.gather(remove(), remove(), remove()) == [True, True, True]


async def test_the_list_has_every_state_and_only_the_labels_asked_for(lab: Lab) -> None:
    """The reconciler sees `created` and stopped containers too, by label value, by label, or all there are."""
    created = await lab.engine.create(lab.name(), lab.payload(Labels={"color": "red"}))
    running = await lab.running(Labels={"color": "blue"})
    stopped = await lab.running(Labels={"color": "red"})
    await lab.engine.kill(stopped)

    async def ids(labels: dict[str, str] | None) -> set[str]:
        return {view.id for view in await lab.engine.list(labels)}

    assert await ids({lab.label: ""}) == {created, running, stopped}
    assert await ids({lab.label: "", "color": "red"}) == {created, stopped}
    assert await ids({lab.label: "", "color": "green"}) == set()
    assert await ids(None) >= {created, running, stopped}


async def test_the_view_has_the_limits_that_were_asked_for(lab: Lab) -> None:
    """The read-back compares these with the user's limits."""
    host = {
        "Memory": 64 << 20,
        "MemorySwap": 96 << 20,
        "NanoCpus": 500_000_000,
        "PidsLimit": 77,
        "ShmSize": 32 << 20,
    }
    view = await lab.engine.inspect(await lab.engine.create(lab.name(), lab.payload(HostConfig=host)))
    assert (view.memory, view.memory_swap, view.cpus) == (64 << 20, 96 << 20, 0.5)
    assert (view.pids_limit, view.shm_size) == (77, 32 << 20)


async def test_a_container_without_limits_shows_none(lab: Lab) -> None:
    """No limit is 0, whichever of null, 0 and -1 the engine writes."""
    host = {"Memory": 64 << 20, "MemorySwap": -1}
    view = await lab.engine.inspect(await lab.engine.create(lab.name(), lab.payload(HostConfig=host)))
    assert (view.memory_swap, view.cpus, view.pids_limit) == (0, 0.0, 0)
    assert (view.device_ids, view.all_devices) == ((), False)


@pytest.mark.parametrize(
    ("request_", "ids", "everything"),
    [
        ({"Driver": "nvidia", "DeviceIDs": ["MIG-a", "MIG-b"]}, ("MIG-a", "MIG-b"), False),
        ({"Driver": "nvidia", "Count": -1}, (), True),
    ],
)
async def test_the_view_has_the_devices_of_the_request(
    lab: Lab, request_: dict[str, Any], ids: tuple[str, ...], everything: bool
) -> None:
    """What a container was given is read from the engine, not from a label."""
    host = {"DeviceRequests": [{"Capabilities": [["gpu"]], **request_}]}
    view = await lab.engine.inspect(await lab.engine.create(lab.name(), lab.payload(HostConfig=host)))
    assert (view.device_ids, view.all_devices) == (ids, everything)


async def test_an_image_has_an_id_and_files(lab: Lab) -> None:
    """An unknown image, or file, is None and no error; many may ask for one file at once."""
    image_id = await lab.engine.image_id(lab.image)
    assert image_id.startswith("sha256:")
    assert await lab.engine.image_id("ds01-test/no-such-image:latest") is None
    paths = ["/etc/passwd", "/etc/group"] * 3
    texts = await asyncio.gather(*(lab.engine.image_file(image_id, path) for path in paths))
    assert {text.partition(b":")[0] for text in texts} == {b"root"}
    assert texts[0] != texts[1]
    assert await lab.engine.image_file(image_id, "/etc/no-such-file") is None
    # What was needed to read them is no container that anybody sees later.
    assert [view for view in await lab.engine.list() if view.name.startswith("ds01-reads")] == []


async def test_the_network_is_made_once(lab: Lab) -> None:
    """Every caller gets the same gateway, also when all come at once."""
    gateways = await asyncio.gather(*(lab.engine.ensure_network("ds01-ct", bridge="ds01-ct") for _ in range(4)))
    assert len(set(gateways)) == 1
    assert gateways[0].count(".") == 3


async def test_logs_of_what_is_gone_are_empty(lab: Lab) -> None:
    """A container that vanished has no output, which is no error."""
    assert await lab.engine.logs(lab.name()) == ""


async def test_events_name_the_container_that_changed(lab: Lab) -> None:
    """A start and an end wake whoever watches."""
    events = lab.engine.events()
    seen: list[str] = []
    first = asyncio.ensure_future(anext(events))
    while not first.done():  # the stream may begin after a container's start: start some until one is seen
        seen.append(await lab.running())
        await asyncio.sleep(0)
    assert first.result() in seen
    await lab.engine.kill(seen[-1])
    async with asyncio.timeout(20):
        while await anext(events) != seen[-1]:
            pass
    await events.aclose()

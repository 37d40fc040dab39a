"""An engine that misbehaves: what it didn't say is never believed, and no user waits for another's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ds01_spawner.adapters import engine_files
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable
from tests.docker.conftest import Box
from tests.fakes.fault_proxy import Answer, Drop, Duplicate, FaultProxy, Hold

Through = Callable[..., DockerEngine]
INSPECT = r"/containers/[^/]+/json$"
HTTP_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"

CALLS: dict[str, Callable[[DockerEngine], Awaitable[Any]]] = {
    "create": lambda engine: engine.create("ds01-fault", {"Image": "ds01-test/tiny"}),
    "start": lambda engine: engine.start("ds01-fault"),
    "stop": lambda engine: engine.stop("ds01-fault", grace=0),
    "kill": lambda engine: engine.kill("ds01-fault"),
    "remove": lambda engine: engine.remove("ds01-fault"),
    "inspect": lambda engine: engine.inspect("ds01-fault"),
    "list": lambda engine: engine.list(),
    "logs": lambda engine: engine.logs("ds01-fault"),
    "image_id": lambda engine: engine.image_id("ds01-test/tiny"),
    "image_file": lambda engine: engine.image_file("sha256:" + "0" * 64, "/etc/passwd"),
    "ensure_network": lambda engine: engine.ensure_network("ds01-fault", bridge="ds01-fault"),
    "events": lambda engine: anext(engine.events()),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[DockerEngine], Awaitable[Any]]:
    """Each method of the port."""
    return CALLS[request.param]


@pytest.mark.parametrize(
    "fault",
    [Answer(500), Answer(503), Drop(), Answer(raw=b"no HTTP at all\r\n\r\n"), Answer(500, body=b"[]")],
    ids=["500", "503", "hang up", "not HTTP", "odd error"],
)
async def test_a_failing_engine_is_unavailable_in_every_call(
    proxy: FaultProxy, through: Through, call: Callable[[DockerEngine], Awaitable[Any]], fault: Any
) -> None:
    """A server error or a broken answer is never "gone", "empty" or "done", whatever was asked."""
    for method in ("GET", "POST", "DELETE"):
        proxy.fault(method, r"^/v1\.", fault)
    with pytest.raises(EngineUnavailable):
        await call(through())


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"start", "stop", "kill"}))
async def test_an_answer_that_is_no_json_is_unavailable(proxy: FaultProxy, through: Through, name: str) -> None:
    """Some other server's page is no answer, wherever an answer is read."""
    for method in ("GET", "POST", "DELETE"):
        proxy.fault(method, r"^/v1\.", Answer(raw=HTTP_OK + b"<html>not the engine</html>"))
    with pytest.raises(EngineUnavailable):
        await CALLS[name](through())


async def test_without_an_engine_every_call_is_unavailable(call: Callable[[DockerEngine], Awaitable[Any]]) -> None:
    """Nothing listens: unavailable, not an error of some library."""
    engine = DockerEngine("unix:///nonexistent/engine.sock")
    try:
        with pytest.raises(EngineUnavailable):
            await call(engine)
    finally:
        engine.close()


async def test_after_close_calls_are_unavailable(engine_url: str) -> None:
    """A call after the end says so instead of hanging."""
    engine = DockerEngine(engine_url)
    engine.close()
    with pytest.raises(EngineUnavailable):
        await engine.inspect("ds01-fault")


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b'{"Id":"x","Name":"x","State":null}'])
async def test_an_answer_of_another_shape_is_unavailable(proxy: FaultProxy, through: Through, body: bytes) -> None:
    """JSON that is no container is no container."""
    proxy.fault("GET", INSPECT, Answer(200, body))
    with pytest.raises(EngineUnavailable):
        await through().inspect("ds01-fault")


async def test_only_a_404_of_the_engine_means_gone(proxy: FaultProxy, through: Through, box: Box) -> None:
    """None for 404; every other refusal is told."""
    container = box.create()
    engine = through()
    assert await engine.inspect("ds01-no-such-container") is None
    proxy.fault("GET", INSPECT, Answer(403))
    with pytest.raises(EngineRefused):
        await engine.inspect(container)


async def test_an_empty_name_is_a_refusal(engine: DockerEngine) -> None:
    """Asking for nothing is not asking for something that is gone."""
    with pytest.raises(EngineRefused):
        await engine.inspect("")


async def test_a_hanging_engine_is_unavailable_at_the_deadline(proxy: FaultProxy, through: Through, box: Box) -> None:
    """Callers get an answer in time, also those whose call still waits for a thread; afterwards all works again."""
    container = box.create()
    engine = through(timeout=0.5, read_threads=1)
    await engine.image_id(box.image)  # the version is agreed on
    hold = Hold()
    proxy.fault("GET", INSPECT, hold)
    results = await asyncio.gather(*(engine.inspect(container) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [EngineUnavailable] * 3
    proxy.clear()
    async with asyncio.timeout(30):
        while True:  # the thread is free again when its own time-out is over
            try:
                assert (await engine.inspect(container)) is not None
                break
            except EngineUnavailable:
                continue


async def test_cancelling_passes_through(proxy: FaultProxy, through: Through) -> None:
    """A cancelled spawn sees its cancellation, not an engine's error."""
    hold = Hold()
    proxy.fault("GET", INSPECT, hold)
    task = asyncio.create_task(through().inspect("ds01-fault"))
    await asyncio.to_thread(hold.reached.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_engine_that_was_away_is_found_again(proxy: FaultProxy, through: Through, box: Box) -> None:
    """A restart of the engine needs no restart of the hub, and its new version is asked for."""
    container = box.create()
    engine = through()
    assert await engine.inspect(container) is not None
    proxy.cut()
    with pytest.raises(EngineUnavailable):
        await engine.inspect(container)
    proxy.mend()
    proxy.fault("GET", r"^/version$", Answer(200, b'{"ApiVersion":"1.40"}'))
    assert await engine.inspect(container) is not None
    assert proxy.requests[-1].startswith("GET /v1.40/containers/")


async def test_an_engine_that_became_another_version_is_asked_for_it(
    proxy: FaultProxy, through: Through, box: Box
) -> None:
    """After an upgrade that no call noticed the first answer is "too old": no refusal of what was asked."""
    container = box.create()
    engine = through()
    await engine.inspect(container)
    text = b'{"message":"client version 1.41 is too old. Minimum supported API version is 1.44"}'
    proxy.fault("GET", INSPECT, Answer(400, text), times=1)
    with pytest.raises(EngineUnavailable):
        await engine.inspect(container)
    asked = proxy.requests.count("GET /version")
    assert await engine.inspect(container) is not None
    assert proxy.requests.count("GET /version") == asked + 1


async def test_a_lost_answer_to_create_leaves_a_container_that_is_found_by_name(
    proxy: FaultProxy, through: Through, box: Box
) -> None:
    """Unavailable says nothing about what was done: the name finds it."""
    engine, name = through(), box.name()
    proxy.fault("POST", r"/containers/create", Drop(after=True))
    with pytest.raises(EngineUnavailable):
        await engine.create(name, box.payload())
    view = await engine.inspect(name)
    assert view is not None
    assert view.state == "created"


async def test_a_create_that_reaches_the_engine_twice_is_a_name_clash(
    proxy: FaultProxy, through: Through, box: Box
) -> None:
    """A repeated request makes no second container."""
    engine, name = through(), box.name()
    proxy.fault("POST", r"/containers/create", Duplicate())
    with pytest.raises(EngineRefused) as refusal:
        await engine.create(name, box.payload())
    assert refusal.value.status == 409
    assert len(await engine.list({box.label: ""})) == 1


async def test_a_removal_in_progress_is_waited_for(proxy: FaultProxy, through: Through, box: Box) -> None:
    """409 is not the end: it is asked again until the engine says 404."""
    container = box.run()
    proxy.fault("DELETE", r"/containers/", Answer(409), times=2)
    await through().remove(container)
    assert box.api.containers(all=True, filters={"label": box.label}) == []
    assert sum(request.startswith("DELETE") for request in proxy.requests) == 3


async def test_a_removal_that_never_ends_is_unavailable(proxy: FaultProxy, through: Through, box: Box) -> None:
    """A container that is still there is never reported as removed."""
    container = box.create()
    proxy.fault("DELETE", r"/containers/", Answer(409))
    with pytest.raises(EngineUnavailable):
        await through(slow_timeout=0.5).remove(container)


async def test_a_removal_whose_end_cannot_be_seen_is_unavailable(proxy: FaultProxy, through: Through, box: Box) -> None:
    """Absence is observed, not concluded."""
    container = box.create()
    engine = through()
    await engine.inspect(container)
    proxy.fault("GET", INSPECT, Answer(500))
    with pytest.raises(EngineUnavailable):
        await engine.remove(container)


async def test_a_container_that_goes_during_a_listing_is_left_out(
    proxy: FaultProxy, through: Through, box: Box
) -> None:
    """The list is not broken by one that vanishes between its two steps."""
    gone, stays = box.create(), box.create()
    proxy.fault("GET", rf"/containers/{gone}/json", Answer(404))
    assert [view.id for view in await through().list({box.label: ""})] == [stays]


async def test_a_listing_that_cannot_be_completed_is_unavailable(proxy: FaultProxy, through: Through, box: Box) -> None:
    """A partial list would look like absence."""
    box.create()
    broken = box.create()
    proxy.fault("GET", rf"/containers/{broken}/json", Answer(500))
    with pytest.raises(EngineUnavailable):
        await through().list({box.label: ""})


async def test_a_slow_stop_delays_nobodys_poll(proxy: FaultProxy, through: Through, box: Box) -> None:
    """With every slow thread at work on a stop, another user's container is still inspected and started."""
    stopping, mine, new = box.run(), box.run(), box.create()
    holds = [Hold(), Hold()]
    for hold in holds:
        proxy.fault("POST", r"/stop", hold, times=1)
    engine = through(slow_threads=2)
    stops = [asyncio.create_task(engine.stop(stopping, grace=0)) for _ in range(3)]
    for hold in holds:
        await asyncio.to_thread(hold.reached.wait, 20)
    view = await engine.inspect(mine)
    assert view is not None
    assert view.running
    await engine.start(new)
    assert len(await engine.list({box.label: ""})) == 3
    assert not any(stop.done() for stop in stops)
    proxy.clear()
    for hold in holds:
        hold.release.set()
    await asyncio.gather(*stops)


async def test_a_slow_start_delays_nobodys_poll(proxy: FaultProxy, through: Through, box: Box) -> None:
    """With every starting thread at work, another user's container is still inspected."""
    starting, mine = box.create(), box.run()
    hold = Hold()
    proxy.fault("POST", r"/start", hold, times=1)
    engine = through(start_threads=1)
    starts = [asyncio.create_task(engine.start(starting)) for _ in range(2)]
    await asyncio.to_thread(hold.reached.wait, 20)
    view = await engine.inspect(mine)
    assert view is not None
    assert view.running
    assert not any(start.done() for start in starts)
    hold.release.set()
    await asyncio.gather(*starts)


async def test_a_stop_may_take_its_whole_grace(engine_url: str, box: Box) -> None:
    """The client's time-out is counted from the end of the grace; the program got its SIGTERM and ignored it."""
    container = box.run()
    engine = DockerEngine(engine_url, slow_timeout=1.5)
    try:
        await engine.stop(container, grace=2.2)
        view = await engine.inspect(container)
    finally:
        engine.close()
    assert view is not None
    assert view.exit_code == 137


async def test_the_end_of_the_event_stream_is_told(proxy: FaultProxy, through: Through, box: Box) -> None:
    """Whoever watches learns that it saw the last event, and can watch again."""
    engine = through()
    events = engine.events()
    waiting = asyncio.ensure_future(anext(events))
    while not any("/events" in request for request in proxy.requests):
        await asyncio.sleep(0.01)
    proxy.cut()
    with pytest.raises(EngineUnavailable):
        await waiting
    proxy.mend()
    again = engine.events()
    waiting = asyncio.ensure_future(anext(again))
    seen = set()
    while not waiting.done():
        seen.add(await asyncio.to_thread(box.run))
    assert waiting.result() in seen
    await again.aclose()  # type: ignore[attr-defined]


async def test_closing_the_event_stream_ends_its_thread(engine: DockerEngine, box: Box) -> None:
    """Nothing is left behind by a watcher that ends, whether it had seen an event or not."""
    events = engine.events()
    waiting = asyncio.ensure_future(anext(events))
    while not waiting.done():
        await asyncio.to_thread(box.run)
    await events.aclose()  # type: ignore[attr-defined]
    cancelled = asyncio.ensure_future(anext(engine.events()))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    for thread in threading.enumerate():
        if thread.name == "ds01-engine-events":
            await asyncio.to_thread(thread.join, 20)
            assert not thread.is_alive()


# -- files of an image


async def test_a_file_is_read_once_and_read_again_after_a_failure(
    proxy: FaultProxy, through: Through, box: Box
) -> None:
    """What was read is kept; a failure isn't."""
    engine = through()
    image_id = await engine.image_id(box.image)
    assert image_id is not None
    proxy.fault("GET", r"/archive", Answer(500), times=1)
    with pytest.raises(EngineUnavailable):
        await engine.image_file(image_id, "/etc/marker")
    assert await engine.image_file(image_id, "/etc/marker") == b"of the image\n"
    before = len(proxy.requests)
    assert await engine.image_file(image_id, "/etc/marker") == b"of the image\n"
    assert len(proxy.requests) == before


async def test_links_are_followed_and_a_folder_is_no_file(engine: DockerEngine, box: Box) -> None:
    """/etc/passwd may be a link in an image."""
    image_id = await engine.image_id(box.image)
    assert image_id is not None
    assert await engine.image_file(image_id, "/etc/link") == b"of the image\n"
    assert await engine.image_file(image_id, "/etc") is None


async def test_a_huge_file_is_refused(engine: DockerEngine, box: Box) -> None:
    """Nobody's image fills the hub's memory."""
    image_id = await engine.image_id(box.image)
    assert image_id is not None
    with pytest.raises(EngineRefused):
        await engine.image_file(image_id, "/bin/busybox")


async def test_what_a_crash_left_of_a_reading_is_taken_away(
    proxy: FaultProxy, through: Through, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next reader finds what is old; what may be another reader's stays."""
    engine = through()
    image_id = await engine.image_id(box.image)
    assert image_id is not None
    proxy.fault("DELETE", r"/containers/", Answer(500), times=1)
    with pytest.raises(EngineUnavailable):
        await engine.image_file(image_id, "/etc/marker")
    left = [view for view in await engine.list() if view.name.startswith("ds01-reads-")]
    assert [view.state for view in left] == ["created"]
    assert await engine.image_file(image_id, "/etc/group") is not None
    assert await engine.inspect(left[0].id) is not None
    monkeypatch.setattr(engine_files, "LEFT_BEHIND", -1)
    assert await engine.image_file(image_id, "/etc/marker") == b"of the image\n"
    assert [view for view in await engine.list() if view.name.startswith("ds01-reads-")] == []


# -- what a container leaves to be told


async def test_output_and_exit_code_are_kept(engine: DockerEngine, box: Box) -> None:
    """The last lines of what it said, and how it ended."""
    container = box.run(Cmd=["/bin/sh", "-c", "for i in 1 2 3; do echo line $i; done; exit 7"])
    box.api.wait(container)
    view = await engine.inspect(container)
    assert view is not None
    assert (view.state, view.exit_code, view.running) == ("exited", 7, False)
    assert await engine.logs(container, lines=2) == "line 2\nline 3\n"


async def test_endless_output_is_cut(engine: DockerEngine, box: Box) -> None:
    """A line has no length limit, what is told of it has."""
    container = box.run(Cmd=["/bin/sh", "-c", "yes long | tr -d '\\n' | head -c 300000; echo end"])
    box.api.wait(container)
    text = await engine.logs(container, lines=1)
    assert len(text) <= 64 << 10


async def test_out_of_memory_is_told(engine: DockerEngine, box: Box) -> None:
    """A user learns that memory, and not the program, was the cause."""
    hungry = "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done"
    host = {"Memory": 8 << 20, "MemorySwap": 8 << 20}
    container = box.run(Cmd=["/bin/sh", "-c", hungry], HostConfig=host)
    box.api.wait(container)
    view = await engine.inspect(container)
    assert view is not None
    assert view.oom_killed

"""The steps of a start, as everybody who watches it sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.hub.hub_in_memory import HubInMemory

STEPS = [
    "Server requested",
    "Reserving limits and devices",
    "Creating the container",
    "Starting the container",
    "Checking limits and devices",
    "Waiting for JupyterLab",
]


class Listener:
    """One page that follows a start; `events` grow as they come, `end` waits for the stream's end."""

    def __init__(self, hub: HubInMemory, user: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.end = asyncio.create_task(self._follow(hub, user))

    async def _follow(self, hub: HubInMemory, user: str) -> None:
        headers = {"Authorization": f"token {hub.tokens[user]}"}
        async with hub.session.get(f"{hub.url}api/users/{user}/server/progress", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: "):
                    self.events.append(json.loads(line[6:]))

    @property
    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]


async def test_every_listener_sees_every_step_in_order(hub: HubInMemory) -> None:
    """Two from the beginning and one that came in the middle: all see the same steps, then the URL."""
    held = hub.engine.hold_next("create")
    asked = asyncio.create_task(hub.spawn("ana"))
    await held.reached.wait()
    later = hub.engine.hold_next("start")
    listeners = [Listener(hub, "ana") for _ in range(2)]
    await hub.until(lambda: all(listener.messages == STEPS[:3] for listener in listeners))
    held.free.set()
    await later.reached.wait()
    listeners.append(Listener(hub, "ana"))
    await hub.until(lambda: listeners[-1].messages == STEPS[:4])
    later.free.set()
    assert (await asked).status == 201
    for listener in listeners:
        await listener.end
        assert listener.messages[:-1] == STEPS
        how_far = [event["progress"] for event in listener.events]
        assert how_far == sorted(how_far)
        assert listener.events[-1]["ready"] is True and listener.events[-1]["url"] == "/user/ana/"


async def test_a_listener_that_comes_before_the_start_misses_nothing(hub: HubInMemory) -> None:
    """The hub may be busy with its own steps when the page is there already."""
    early = asyncio.Event()

    async def wait(*_args: object) -> None:
        await early.wait()

    hub.app.authenticator.pre_spawn_start = wait
    asked = asyncio.create_task(hub.spawn("ana"))
    await hub.until(lambda: bool(hub.spawner("ana")._spawn_pending))
    listener = Listener(hub, "ana")
    await hub.until(lambda: listener.messages == STEPS[:1])
    early.set()
    assert (await asked).status == 201
    await listener.end
    assert listener.messages[:-1] == STEPS


async def test_a_failed_start_tells_its_listeners_why(hub: HubInMemory) -> None:
    """The stream ends with the refusal's own text."""
    held = hub.engine.hold_next("start")
    asked = asyncio.create_task(hub.spawn("ana"))
    await held.reached.wait()
    listener = Listener(hub, "ana")
    await hub.until(lambda: listener.messages == STEPS[:4])
    hub.engine.exit_at_start = 127
    held.free.set()
    message = (await asked).message
    await listener.end
    assert listener.events[-1]["failed"] is True and "code 127" in message
    assert message in listener.messages[-1] and listener.messages[:-1] == STEPS[:4]

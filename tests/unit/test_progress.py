"""Steps of a start for any number of listeners, whenever they come."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.progress import ProgressLog


async def heard(log: ProgressLog) -> list[dict[str, Any]]:
    return [event async for event in log.follow()]


@given(st.lists(st.sampled_from(["step", "listener"]), max_size=12))
def test_whoever_comes_when_hears_everything_once_in_order(what: list[str]) -> None:
    """A listener's events are the log's, whatever was there before it came and however many others listen."""

    async def run() -> None:
        log, listeners, steps = ProgressLog(), [], 0
        for word in what:
            if word == "step":
                log.add(f"step {steps}", steps)
                steps += 1
            else:
                listeners.append(asyncio.create_task(heard(log)))
            await asyncio.sleep(0)
        log.close()
        listeners.append(asyncio.create_task(heard(log)))
        expected = [{"progress": number, "message": f"step {number}"} for number in range(steps)]
        assert await asyncio.gather(*listeners) == [expected] * len(listeners)

    asyncio.run(run())


async def test_steps_that_come_together_are_not_lost() -> None:
    """Two steps before a waiting listener runs again are both heard."""
    log = ProgressLog()
    listener = asyncio.create_task(heard(log))
    await asyncio.sleep(0)
    log.add("one", 1)
    log.add("two", 2)
    assert not log.closed
    log.close()
    assert log.closed
    assert [event["message"] for event in await listener] == ["one", "two"]

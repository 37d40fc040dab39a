"""Waiting for a port: until it accepts, until the container has ended, or until the deadline."""

from __future__ import annotations

import asyncio

import pytest

from ds01_spawner import readiness
from ds01_spawner.core.errors import EngineUnavailable
from ds01_spawner.core.ports import ContainerView
from tests.running_hub import free_port

IP = "127.0.0.1"
RUNNING = ContainerView("c", "main", "running")
ENDED = ContainerView("c", "main", "exited", exit_code=1)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the container at every third try."""
    monkeypatch.setattr(readiness, "CONNECT_EVERY", 0.001)
    monkeypatch.setattr(readiness, "LOOK_EVERY", 0.003)


class Looks:
    """What the engine says, look by look; the last answer stands."""

    def __init__(self, *answers: ContainerView | Exception | None) -> None:
        self.answers = list(answers)
        self.count = 0

    async def __call__(self) -> ContainerView | None:
        answer = self.answers[min(self.count, len(self.answers) - 1)]
        self.count += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_port_that_opens_later() -> None:
    """It returns once the port accepts, however often the container was looked at before."""
    port, looks = free_port(), Looks(RUNNING)
    waiting = asyncio.create_task(readiness.wait_until_listening(IP, port, looks, deadline=30))
    while looks.count < 3:
        await asyncio.sleep(0)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), IP, port)
    assert await waiting is True
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("end", [ENDED, None])
async def test_a_container_that_ended_is_not_waited_for(end: ContainerView | None) -> None:
    """Ended, or removed already by somebody else: False at the next look."""
    looks = Looks(RUNNING, end)
    assert await readiness.wait_until_listening(IP, free_port(), looks, deadline=30) is False
    assert looks.count == 2


async def test_an_engine_without_an_answer_ends_nothing() -> None:
    """Where nobody knows whether the container lives, the wait goes on."""
    looks = Looks(EngineUnavailable("no answer"), EngineUnavailable("no answer"), ENDED)
    assert await readiness.wait_until_listening(IP, free_port(), looks, deadline=30) is False
    assert looks.count == 3


async def test_the_deadline() -> None:
    """A container that lives but never listens: TimeoutError."""
    with pytest.raises(TimeoutError):
        await readiness.wait_until_listening(IP, free_port(), Looks(RUNNING), deadline=0.05)


async def test_a_cancelled_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that meets a refused connection is not lost: nobody would cancel a second time."""

    async def refused(_ip: str, _port: int) -> None:
        # Both in the same round of the loop: the caller is cancelled, and the connection fails.
        me.cancel()
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", refused)
    me = asyncio.create_task(readiness.wait_until_listening(IP, 1, Looks(RUNNING), deadline=5))
    with pytest.raises(asyncio.CancelledError):
        await me

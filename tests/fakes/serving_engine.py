"""A fake engine whose running containers answer HTTP, each on a loopback address of its own."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass, replace

from jupyterhub import __version__

from ds01_spawner.container_spec import PORT
from ds01_spawner.core.ports import ContainerView
from tests.fakes.fake_engine import FakeEngine

ANSWER = (
    f"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: {__version__}\r\nContent-Type: application/json\r\n"
    "Content-Length: 2\r\nConnection: close\r\n\r\n{}"
).encode()
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Held:
    """A call that waits: `reached` is set once it does, and it goes on when `free` is."""

    reached: asyncio.Event
    free: asyncio.Event


class ServingEngine(FakeEngine):
    """`deaf`: containers started from now on never listen. `broken`: they answer every request with a 500.

    `exit_at_start`: they end at once with this code. `most_running` is the largest number of containers that ran at the
    same time. All calls must come from one event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deaf = self.broken = False
        self.exit_at_start: int | None = None
        self.most_running = 0
        self._servers: dict[str, asyncio.Server] = {}
        self._open: set[asyncio.StreamWriter] = set()
        self._addresses = 0
        self._held: dict[str, list[Held]] = {}

    def hold_next(self, method: str) -> Held:
        """The next call of a method waits until it is let go; calls after it don't."""
        held = Held(asyncio.Event(), asyncio.Event())
        self._held.setdefault(method, []).append(held)
        return held

    async def _enter(self, method: str) -> None:
        if waiting := self._held.get(method):
            held = waiting.pop(0)
            held.reached.set()
            await held.free.wait()
        await super()._enter(method)

    async def start(self, container: str) -> None:
        await super().start(container)
        if self._must(container).id in self._servers:
            return
        server = await self._listen()
        view = self._find(container)
        if view is None or not view.running:
            server.close()
            return
        view = self._set(replace(view, ip=server.sockets[0].getsockname()[0]))
        self.most_running = max(self.most_running, sum(other.running for other in self.containers.values()))
        self._servers[view.id] = server
        if self.exit_at_start is not None:
            self._end(view, self.exit_at_start)
        elif self.deaf:
            self._hang_up(view.id)

    async def _listen(self) -> asyncio.Server:
        """A server on the next free address: other test runs on this machine have theirs."""
        while True:
            self._addresses += 1
            ip = f"127.{1 + os.getpid() % 63}.{self._addresses // 250 % 250}.{1 + self._addresses % 250}"
            try:
                return await asyncio.start_server(self._answer, ip, PORT)
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise

    async def close(self) -> None:
        """End every server."""
        self.heal()
        for container in tuple(self._servers):
            self._hang_up(container)
        for writer in tuple(self._open):
            writer.close()
        await asyncio.sleep(0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(BROKEN if self.broken else ANSWER)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # somebody only looked whether the port is open
        finally:
            self._open.discard(writer)
            writer.close()

    def _end(self, view: ContainerView, exit_code: int, *, oom: bool = False) -> None:
        super()._end(view, exit_code, oom=oom)
        self._hang_up(view.id)

    async def remove(self, container: str) -> None:
        before = set(self.containers)
        await super().remove(container)
        for gone in before - set(self.containers):
            self._hang_up(gone)

    def _hang_up(self, container: str) -> None:
        if server := self._servers.pop(container, None):
            server.close()

"""A fake engine whose running containers answer HTTP, each on a loopback address of its own, as a single-user server does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from jupyterhub import __version__

from ds01_spawner.container_spec import PORT
from ds01_spawner.core.ports import ContainerView
from tests.fakes.fake_engine import FakeEngine

ANSWER = (
    f"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: {__version__}\r\nContent-Type: application/json\r\n"
    "Content-Length: 2\r\nConnection: close\r\n\r\n{}"
).encode()
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ServingEngine(FakeEngine):
    """`deaf`: containers started from now on never listen. `broken`: they answer every request with a 500.

    All calls must come from one event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deaf = self.broken = False
        self._servers: dict[str, asyncio.Server] = {}
        self._open: set[asyncio.StreamWriter] = set()
        self._addresses = 0

    @property
    def most_running(self) -> int:
        """The largest number of containers that ran at the same time."""
        return self._most

    _most = 0

    async def start(self, container: str) -> None:
        await super().start(container)
        view = self._must(container)
        if not view.running or view.id in self._servers:
            return
        self._addresses += 1
        view = self._set(replace(view, ip=f"127.1.{self._addresses // 250}.{1 + self._addresses % 250}"))
        self._most = max(self._most, sum(other.running for other in self.containers.values()))
        if not self.deaf:
            self._servers[view.id] = await asyncio.start_server(self._answer, view.ip, PORT)

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

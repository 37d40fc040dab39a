"""The engine's event stream as an async iterator: one thread reads, the event loop is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from docker.types.daemon import CancellableStream

from ds01_spawner.adapters.engine_calls import Clients, translated
from ds01_spawner.core.errors import DS01Error, EngineUnavailable

#: What may change a lease. `create` is ours to know, `exec_*` and health checks are noise.
ACTIONS = ["start", "die", "destroy", "oom"]


async def container_events(clients: Clients, timeout: float) -> AsyncIterator[str]:
    """Ids of containers that something happened to. Raises EngineUnavailable when the stream ends or can't be had."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | DS01Error] = asyncio.Queue()

    def tell(item: str | DS01Error) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    reader = _Reader(clients, timeout, tell)
    reader.start()
    try:
        while True:
            item = await queue.get()
            if isinstance(item, DS01Error):
                raise item
            yield item
    finally:
        reader.close()


class _Reader(threading.Thread):
    """Reads one stream until it ends or is closed. A daemon: no hub waits for it when it ends."""

    def __init__(self, clients: Clients, timeout: float, tell: Callable[[str | DS01Error], None]) -> None:
        super().__init__(name="ds01-engine-events", daemon=True)
        self._clients, self._timeout, self._tell = clients, timeout, tell
        self._lock = threading.Lock()
        self._stream: CancellableStream[Any] | None = None
        self._closed = False

    def run(self) -> None:
        """Tell each id, then why there are no more."""
        try:
            with translated("watch events"):
                self._read()
            self._tell(EngineUnavailable("watch events: the container engine ended the stream"))
        except DS01Error as error:
            self._tell(error)

    def close(self) -> None:
        """End the stream, from any thread."""
        with self._lock:
            self._closed = True
            if self._stream is not None:
                with contextlib.suppress(OSError, AttributeError):  # it ended at this moment
                    self._stream.close()

    def _read(self) -> None:
        client = self._clients.make(self._timeout)
        try:
            stream = client.events(decode=True, filters={"type": "container", "event": ACTIONS})
            with self._lock:
                self._stream = stream
                closed = self._closed
            if closed:
                stream.close()
            for event in stream:
                self._tell(str(event["Actor"]["ID"]))
        finally:
            client.close()

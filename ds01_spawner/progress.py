"""The steps of one start, kept so that every listener sees them from the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class ProgressLog:
    """An append-only list of events with any number of followers. Lives on one event loop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, message: str, percent: int) -> None:
        """One more step, with how far the start is (0 to 100)."""
        self._events.append({"progress": percent, "message": message})
        self._wake()

    @property
    def closed(self) -> bool:
        """Whether the start has ended."""
        return self._closed

    def close(self) -> None:
        """The start has ended, well or badly; followers end after the last event."""
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """All events from the first, then new ones as they come, until closed."""
        seen = 0
        while True:
            changed = self._changed
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            if self._closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        # A new event for the next wait: every follower that waits on the old one wakes exactly once.
        self._changed.set()
        self._changed = asyncio.Event()

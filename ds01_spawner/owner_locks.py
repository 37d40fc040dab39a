"""One thing at a time for each owner's container and lease, within this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from ds01_spawner.core.leases import Owner


class OwnerLocks:
    """Locks by owner. `in_flight` holds the owners, as text, whose start or stop is under way."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Owner, asyncio.Lock] = WeakValueDictionary()
        self.in_flight: set[str] = set()

    @asynccontextmanager
    async def guard(self, owner: Owner, *, wait: bool = True) -> AsyncIterator[bool]:
        """Keep everybody else in this process from this owner's container and lease meanwhile.

        Gives False, without keeping anybody, where `wait` is off and somebody else is at it.
        """
        lock = self._locks.setdefault(owner, asyncio.Lock())
        if lock.locked() and not wait:
            yield False
            return
        async with lock:
            self.in_flight.add(str(owner))
            try:
                yield True
            finally:
                self.in_flight.discard(str(owner))

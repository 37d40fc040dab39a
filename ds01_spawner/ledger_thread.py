"""The one thread in which the ledger is called, so that the hub's loop never waits for a disk.

It also tells the sinks of events (log files) about what was written, in the order in which it was written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import LedgerUnavailable
from ds01_spawner.core.leases import Lease
from ds01_spawner.core.ports import Clock, Event, Ledger

T = TypeVar("T")
_log = logging.getLogger(__name__)


class LedgerThread:
    """Calls of one ledger, one after another. `deadline` is in seconds; `executor` must run one call at a time."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        events: Callable[[Event], None] | None,
        deadline: float,
        executor: Executor | None = None,
    ) -> None:
        self.ledger = ledger
        self._clock, self._sink, self._deadline = clock, events, deadline
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="ds01-ledger")

    def close(self) -> None:
        """Take no further call; one under way ends by itself."""
        self._executor.shutdown(wait=False)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` after what was submitted before."""
        return self._executor.submit(work)

    def submit_quietly(self, work: Callable[[], object]) -> None:
        """The same where nobody waits and a thread that has ended doesn't matter."""
        with suppress(RuntimeError):
            self._executor.submit(work)

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` and give its result. Raises LedgerUnavailable at the deadline; `work` then goes on alone."""
        return await self.answer(self.submit(work))

    async def answer(self, call: Future[T]) -> T:
        """Wait for a submitted call. A write under way is not half done by a cancelled caller."""
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(asyncio.wrap_future(call))
        except TimeoutError:
            if call.done():  # it was the loop that had no time, not the ledger
                return call.result()
            raise LedgerUnavailable(f"the ledger gives no answer within {self._deadline:g} s") from None

    async def change(self, lease_id: str, work: Callable[[], Lease]) -> Lease:
        """Run a change of one lease; the sink hears of it where it changed something."""

        def noted() -> Lease:
            before = self.ledger.get(lease_id)
            lease = work()
            if lease != before:
                self.tell_of(lease)
            return lease

        return await self.call(noted)

    async def record(self, event: Event) -> None:
        """Write an event; the sink hears of it even where the ledger is silent. Raises LedgerUnavailable."""
        try:
            await self.call(lambda: self.ledger.record(event))
        finally:
            self.submit_quietly(lambda: self.tell(event))

    def tell_of(self, lease: Lease) -> None:
        """Tell the sink about a lease's new state."""
        self.tell(lease_events.of_lease(lease, now=self._clock()))

    def tell(self, event: Event) -> None:
        """Tell the sink. A full disk under a log must not keep a container from stopping; the ledger has the event."""
        if self._sink is None:
            return
        try:
            self._sink(event)
        except OSError as problem:
            _log.error("event %s of %s was not logged: %s", event.kind, event.user, problem)

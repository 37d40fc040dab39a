"""The ledger in memory: the same rules as the real one, and an outage at the push of a button."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ds01_spawner.adapters.ledger import MOST_UID
from ds01_spawner.adapters.ledger_rows import check_ways_of_naming
from ds01_spawner.core import lease_events, leases
from ds01_spawner.core.errors import LeaseConflict, LedgerUnavailable
from ds01_spawner.core.leases import Lease, LeaseState
from ds01_spawner.core.ports import Event


class MemoryLedger:
    """`core.ports.Ledger`. `outage` makes every call fail; `lose_answers` counts writes that happen and then fail."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._claims: dict[tuple[str, str], str] = {}
        self._uids: dict[int, str] = {}
        self._current: dict[str, int] = {}
        self._events: list[Event] = []
        self.outage = False
        self.lose_answers = 0

    def reserve(self, decide: Callable[[Sequence[Lease]], Lease], *, now: float) -> Lease:
        with self._transaction():
            lease = decide(self._live())
            self._insert(lease, now)
            return lease

    def move(
        self,
        lease_id: str,
        to: LeaseState,
        *,
        now: float,
        reason: str = "",
        container_id: str = "",
        hold_until: float | None = None,
    ) -> Lease:
        with self._transaction():
            old = self._leases[lease_id]
            new = leases.move(old, to, now=now, reason=reason, container_id=container_id, hold_until=hold_until)
            return self._put(new, now) if new != old else old

    def end(self, lease_id: str, *, now: float, reason: str = "") -> Lease:
        with self._transaction():
            old = self._leases[lease_id]
            new = leases.ended(old, now=now, reason=reason)
            return self._put(new, now) if new != old else old

    def adopt(self, lease: Lease, *, now: float) -> Lease:
        with self._transaction():
            self._insert(lease, now)
            return lease

    def live(self) -> tuple[Lease, ...]:
        with self._answering():
            return self._live()

    def get(self, lease_id: str) -> Lease | None:
        with self._answering():
            return self._leases.get(lease_id)

    def claims(self) -> tuple[tuple[str, str, str], ...]:
        with self._answering():
            return tuple(sorted((gpu, slot, lease) for (gpu, slot), lease in self._claims.items()))

    def uid_of(self, user: str, *, first: int, wanted: int | None = None) -> int:
        with self._transaction():
            current = self._current.get(user)
            if current is not None and wanted in (None, current):
                return current
            uid = wanted if wanted is not None else next(n for n in range(first, MOST_UID + 2) if n not in self._uids)
            if uid > MOST_UID or self._uids.setdefault(uid, user) != user:
                raise LeaseConflict(f"uid {uid} can't be given to {user}")
            self._current[user] = uid
            return uid

    def record(self, event: Event) -> None:
        with self._transaction():
            self._events.append(event)

    def events(self, *, limit: int = 100, lease: str = "") -> tuple[Event, ...]:
        with self._answering():
            found = [event for event in reversed(self._events) if lease in ("", event.lease)]
            return tuple(found[:limit])

    def _live(self) -> tuple[Lease, ...]:
        found = [lease for lease in self._leases.values() if lease.live]
        return tuple(sorted(found, key=lambda lease: (lease.reserved_at, lease.id)))

    def _insert(self, lease: Lease, now: float) -> None:
        for held in self._live():
            if held.owner == lease.owner and held.state is LeaseState.ON_HOLD:
                self._put(leases.ended(held, now=now, reason=f"taken up by lease {lease.id}"), now)
        if lease.id in self._leases or any(other.owner == lease.owner for other in self._live()):
            raise LeaseConflict(f"lease {lease.id}: its id or its owner has one already")
        for device in lease.devices:
            check_ways_of_naming(device, [slot for gpu, slot in self._claims if gpu == device.gpu_uuid])
        wanted = [(device.gpu_uuid, slot) for device in lease.devices for slot in device.slots]
        if len(set(wanted)) != len(wanted) or any(slot in self._claims for slot in wanted):
            raise LeaseConflict(f"lease {lease.id}: a slot is claimed already")
        self._claims.update(dict.fromkeys(wanted, lease.id))
        self._put(lease, now)

    def _put(self, lease: Lease, now: float) -> Lease:
        self._leases[lease.id] = lease
        if not lease.live:
            self._claims = {slot: owner for slot, owner in self._claims.items() if owner != lease.id}
        self._events.append(lease_events.of_lease(lease, now=now))
        return lease

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self.outage:
            raise LedgerUnavailable("the ledger gives no answer: injected")
        with self._lock:
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._answering():
            saved = dict(self._leases), dict(self._claims), dict(self._uids), dict(self._current), len(self._events)
            try:
                yield
            except BaseException:
                self._leases, self._claims, self._uids, self._current = saved[:4]
                del self._events[saved[4] :]
                raise
        if self.lose_answers:
            self.lose_answers -= 1
            raise LedgerUnavailable("the ledger's answer was lost: injected")

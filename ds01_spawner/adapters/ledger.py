"""The ledger in SQLite or PostgreSQL: the database of intent, with one writer.

Every error of the database becomes ours here: no answer is LedgerUnavailable, a claim that another lease has is
LeaseConflict. Each change of a lease writes its event in the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ds01_spawner.adapters import ledger_engine, ledger_rows
from ds01_spawner.adapters import ledger_schema as t
from ds01_spawner.core import lease_events, leases
from ds01_spawner.core.errors import LeaseConflict, LedgerUnavailable
from ds01_spawner.core.leases import Lease, LeaseState
from ds01_spawner.core.ports import Event

#: No uid beyond this: what follows has a meaning of its own to the kernel.
MOST_UID = 2**31 - 2


class SqlLedger:
    """`core.ports.Ledger` on a database. Opening it brings its schema up to date.

    `url`: `sqlite:////var/lib/ds01/hub/ledger.sqlite` (the file is made with mode 0600) or `postgresql://…`;
    `schema`: the PostgreSQL schema that is only ours, made when missing; `timeout`: seconds to wait for a lock.
    """

    def __init__(self, url: str, *, schema: str = "ds01_hub", timeout: float = 5.0) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise ValueError(f"schema {schema!r}: use lower-case letters, digits and _")
        with _translated():
            self._engine = ledger_engine.connect(url, schema=schema, timeout=timeout)
            with ledger_engine.writing(self._engine) as connection:
                ledger_engine.schema_maker(self._engine, schema)(connection)
                _migrate(connection)

    def close(self) -> None:
        """Close all connections. The next call opens new ones."""
        self._engine.dispose()

    # -- leases

    def reserve(self, decide: Callable[[Sequence[Lease]], Lease], *, now: float) -> Lease:
        """Decide on all live leases and write the new one, in one transaction. See the port."""
        with self._write() as connection:
            live = _live(connection)
            return _insert(connection, decide(live), live, now)

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
        """Move a lease by the table. Raises IllegalTransition, KeyError."""
        with self._write() as connection:
            old = _one(connection, lease_id)
            new = leases.move(old, to, now=now, reason=reason, container_id=container_id, hold_until=hold_until)
            return _change(connection, new, now) if new != old else old

    def end(self, lease_id: str, *, now: float, reason: str = "") -> Lease:
        """Release a live lease; an ended one stays. Raises KeyError."""
        with self._write() as connection:
            old = _one(connection, lease_id)
            new = leases.ended(old, now=now, reason=reason)
            return _change(connection, new, now) if new != old else old

    def adopt(self, lease: Lease, *, now: float) -> Lease:
        """Write a bound lease for a container that has none. Raises LeaseConflict."""
        with self._write() as connection:
            return _insert(connection, lease, _live(connection), now)

    def live(self) -> tuple[Lease, ...]:
        """All live leases, oldest first."""
        with self._read() as connection:
            return _live(connection)

    def get(self, lease_id: str) -> Lease | None:
        """One lease, ended ones too."""
        with self._read() as connection:
            rows = connection.execute(select(t.lease).where(t.lease.c.id == lease_id)).all()
            return next(iter(ledger_rows.read_leases(connection, rows)), None)

    def claims(self) -> tuple[tuple[str, str, str], ...]:
        """All claims as (GPU UUID, slot, lease id)."""
        query = select(t.claim.c.gpu_uuid, t.claim.c.slot, t.claim.c.lease_id)
        with self._read() as connection:
            return tuple(sorted((row.gpu_uuid, row.slot, row.lease_id) for row in connection.execute(query)))

    # -- people and events

    def uid_of(self, user: str, *, first: int, wanted: int | None = None) -> int:
        """The user's stable uid. Raises LeaseConflict where `wanted` belongs to somebody else, or none is left."""
        with self._write() as connection:
            rows = connection.execute(select(t.person).where(t.person.c.user_name == user)).all()
            current = next((int(row.uid) for row in rows if row.current), None)
            if current is not None and wanted in (None, current):
                return current
            uid = wanted if wanted is not None else _next_uid(connection, first)
            connection.execute(update(t.person).where(t.person.c.user_name == user).values(current=0))
            if any(row.uid == uid for row in rows):
                connection.execute(update(t.person).where(t.person.c.uid == uid).values(current=1))
            else:
                connection.execute(insert(t.person).values(uid=uid, user_name=user, current=1))
            return uid

    def record(self, event: Event) -> None:
        """Append an event."""
        with self._write() as connection:
            ledger_rows.write_event(connection, event)

    def events(self, *, limit: int = 100, lease: str = "") -> tuple[Event, ...]:
        """The newest events, newest first."""
        query = select(t.event).order_by(t.event.c.id.desc()).limit(limit)
        if lease:
            query = query.where(t.event.c.lease_id == lease)
        with self._read() as connection:
            return tuple(map(ledger_rows.read_event, connection.execute(query)))

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with _translated(), ledger_engine.writing(self._engine) as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise LeaseConflict(f"the ledger refused: {error.orig}") from error
    except (SQLAlchemyError, CommandError, OSError) as error:
        raise LedgerUnavailable(f"the ledger gives no answer: {getattr(error, 'orig', None) or error}") from error


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _live(connection: Connection) -> tuple[Lease, ...]:
    query = select(t.lease).where(t.lease.c.state != LeaseState.RELEASED.value)
    return ledger_rows.read_leases(
        connection, connection.execute(query.order_by(t.lease.c.reserved_at, t.lease.c.id)).all()
    )


def _insert(connection: Connection, lease: Lease, live: Sequence[Lease], now: float) -> Lease:
    for held in live:
        if held.owner == lease.owner and held.state is LeaseState.ON_HOLD:
            _change(connection, leases.ended(held, now=now, reason=f"taken up by lease {lease.id}"), now)
    ledger_rows.insert_lease(connection, lease)
    ledger_rows.write_event(connection, lease_events.of_lease(lease, now=now))
    return lease


def _one(connection: Connection, lease_id: str) -> Lease:
    rows = connection.execute(select(t.lease).where(t.lease.c.id == lease_id)).all()
    if not rows:
        raise KeyError(lease_id)
    return ledger_rows.read_leases(connection, rows)[0]


def _change(connection: Connection, lease: Lease, now: float) -> Lease:
    ledger_rows.update_lease(connection, lease)
    ledger_rows.write_event(connection, lease_events.of_lease(lease, now=now))
    return lease


def _next_uid(connection: Connection, first: int) -> int:
    uid = first
    for taken in connection.scalars(select(t.person.c.uid).where(t.person.c.uid >= first).order_by(t.person.c.uid)):
        if taken > uid:
            break
        uid = int(taken) + 1
    if uid > MOST_UID:
        raise LeaseConflict(f"no uid from {first} to {MOST_UID} is left")
    return uid

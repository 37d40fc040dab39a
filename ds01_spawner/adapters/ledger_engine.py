"""How the ledger's database is reached: SQLite so that an acknowledged write survives a power cut, or PostgreSQL."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL

_WRITES = "ds01_writes"
_MEMORY = {None, "", ":memory:"}


def connect(url: str, *, schema: str, timeout: float) -> Engine:
    """An engine for `url`. `timeout` (seconds) bounds every wait for a lock or for the server."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, timeout)
    return _postgresql(parsed, schema, timeout)


def writing(engine: Engine) -> AbstractContextManager[Connection]:
    """A transaction with the write lock from its first statement: what it reads stays true until it ends."""
    return engine.execution_options(**{_WRITES: True}).begin()


def _sqlite(url: URL, timeout: float) -> Engine:
    if url.database not in _MEMORY:
        _private_file(Path(str(url.database)))
    engine = create_engine(url, connect_args={"timeout": timeout})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver would open transactions by itself, and only before a write: we say BEGIN ourselves.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _private_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    # SQLite gives its own two files beside it the same mode.
    path.chmod(0o600)


def _postgresql(url: URL, schema: str, timeout: float) -> Engine:
    url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    milliseconds = int(timeout * 1000)
    options = f"-csearch_path={schema} -cstatement_timeout={milliseconds} -clock_timeout={milliseconds}"
    arguments = {"options": options, "connect_timeout": max(int(timeout), 2)}
    # A connection that the server closed meanwhile is noticed before it is used.
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True)
    lock = zlib.crc32(f"ds01 ledger {schema}".encode())

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

    return engine


def schema_maker(engine: Engine, schema: str) -> Callable[[Connection], None]:
    """What makes the schema where the database has such a thing."""

    def make(connection: Connection) -> None:
        if engine.dialect.name == "postgresql":
            quoted = engine.dialect.identifier_preparer.quote(schema)
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted}"))

    return make

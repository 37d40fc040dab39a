"""The ledger's tables. Changes go through a new file in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData()

lease = Table(
    "lease",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user_name", Text, nullable=False),
    Column("server_name", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reserved_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("container_name", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("memory", BigInteger),
    Column("image_id", Text, nullable=False),
    Column("container_id", Text, nullable=False),
    Column("bound_at", Float(53)),
    Column("hold_until", Float(53)),
    Column("ended_at", Float(53)),
    Column("reason", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    # One live lease for each container of a user: the database itself says so.
    Index(
        "lease_one_live_for_each_owner",
        "user_name",
        "server_name",
        unique=True,
        sqlite_where=text("state <> 'released'"),
        postgresql_where=text("state <> 'released'"),
    ),
    Index("lease_state", "state"),
)

#: GPU-equivalents are exact: compute slices over the GPU's slices, kept as the two numbers.
lease_device = Table(
    "lease_device",
    metadata,
    Column("lease_id", String(64), ForeignKey("lease.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("node", Text, nullable=False),
    Column("gpu_uuid", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("start_slot", Integer),
    Column("size", Integer),
    Column("slices", Integer, nullable=False),
    Column("gpu_slices", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("uuid", Text, nullable=False),
    Column("gi", Integer),
)

#: The key makes overlap impossible: one slot of one GPU is in one live lease.
claim = Table(
    "claim",
    metadata,
    Column("gpu_uuid", String(96), primary_key=True),
    Column("slot", String(16), primary_key=True),
    Column("lease_id", String(64), ForeignKey("lease.id"), nullable=False, index=True),
)

#: Every uid that was ever given, so that none is given twice; `current` is the user's own now.
person = Table(
    "person",
    metadata,
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("user_name", Text, nullable=False),
    Column("current", Integer, nullable=False),
    Index(
        "person_one_current",
        "user_name",
        unique=True,
        sqlite_where=text("current = 1"),
        postgresql_where=text("current = 1"),
    ),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float(53), nullable=False),
    Column("kind", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("server_name", Text, nullable=False),
    Column("lease_id", String(64), nullable=False, index=True),
    Column("data", Text, nullable=False),
    # An id is never used again, so "newer than the last one seen" is always right.
    sqlite_autoincrement=True,
)

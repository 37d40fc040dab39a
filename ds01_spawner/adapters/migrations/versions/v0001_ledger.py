"""The first ledger: leases with their devices and claims, people's uids, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    _lease()
    _lease_device()
    op.create_table(
        "claim",
        sa.Column("gpu_uuid", sa.String(96), primary_key=True),
        sa.Column("slot", sa.String(16), primary_key=True),
        sa.Column("lease_id", sa.String(64), sa.ForeignKey("lease.id"), nullable=False, index=True),
    )
    op.create_table(
        "person",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("current", sa.Integer, nullable=False),
    )
    _unique_where("person_one_current", "person", ["user_name"], "current = 1")
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("server_name", sa.Text, nullable=False),
        sa.Column("lease_id", sa.String(64), nullable=False, index=True),
        sa.Column("data", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )


def _lease() -> None:
    op.create_table(
        "lease",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("server_name", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reserved_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=False),
        sa.Column("container_name", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("memory", sa.BigInteger),
        sa.Column("image_id", sa.Text, nullable=False),
        sa.Column("container_id", sa.Text, nullable=False),
        sa.Column("bound_at", sa.Float(53)),
        sa.Column("hold_until", sa.Float(53)),
        sa.Column("ended_at", sa.Float(53)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
    )
    _unique_where("lease_one_live_for_each_owner", "lease", ["user_name", "server_name"], "state <> 'released'")
    op.create_index("lease_state", "lease", ["state"])


def _lease_device() -> None:
    op.create_table(
        "lease_device",
        sa.Column("lease_id", sa.String(64), sa.ForeignKey("lease.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("gpu_uuid", sa.Text, nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("start_slot", sa.Integer),
        sa.Column("size", sa.Integer),
        sa.Column("slices", sa.Integer, nullable=False),
        sa.Column("gpu_slices", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("uuid", sa.Text, nullable=False),
        sa.Column("gi", sa.Integer),
    )


def _unique_where(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Drop all tables."""
    for table in ("event", "person", "claim", "lease_device", "lease"):
        op.drop_table(table)

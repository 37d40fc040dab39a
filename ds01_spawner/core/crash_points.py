"""The named points between reserve and release at which a process can be killed in a test."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class CrashPoint(StrEnum):
    """Each is reached right after what its name says."""

    RESERVE_COMMITTED = "reserve-committed"
    CREATED = "created"
    STARTED = "started"
    CONFIRMED = "confirmed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REMOVED = "removed"
    RELEASE_COMMITTED = "release-committed"


#: Called at each point. A test's own raises or kills.
CrashHook = Callable[[CrashPoint], None]


def no_crash(point: CrashPoint) -> None:
    """The hook of production: nothing happens."""

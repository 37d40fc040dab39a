"""The system's clock: the only place where the server reads the time of day."""

from __future__ import annotations

import time


def system_clock() -> float:
    """POSIX seconds."""
    return time.time()

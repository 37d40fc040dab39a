"""`events.jsonl`: every event as one line of JSON with a schema version, and a way to have several sinks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ds01_spawner.core.ports import Event

VERSION = 1


class EventLog:
    """A sink of events. Opens the file for each line, so that a log rotation may move it away at any time.

    Made with mode 0600: the lines name users and the last output of containers that ended. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Append one line."""
        append_line(self._path, line_of(event), 0o600)


def line_of(event: Event) -> str:
    """The line of one event, without its end."""
    values = {
        "v": VERSION,
        "at": event.at,
        "kind": event.kind,
        "user": event.user,
        "server": event.server,
        "lease": event.lease,
        "data": dict(event.data),
    }
    return json.dumps(values, ensure_ascii=False)


def append_line(path: Path, line: str, mode: int) -> None:
    """One write of one line, so that readers never see half of it. Makes the folder and the file where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        os.write(descriptor, (line + "\n").encode("utf-8", errors="replace"))
    finally:
        os.close(descriptor)


def fan_out(*sinks: Callable[[Event], None]) -> Callable[[Event], None]:
    """One sink that tells all of these. Every one is told before the first error is raised."""

    def tell(event: Event) -> None:
        problems: list[OSError] = []
        for sink in sinks:
            try:
                sink(event)
            except OSError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    return tell

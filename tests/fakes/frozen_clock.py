"""A clock that stands still until told otherwise."""

from __future__ import annotations


class FrozenClock:
    """`core.ports.Clock`; `advance` moves it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

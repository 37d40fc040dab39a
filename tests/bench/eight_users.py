"""Eight users at once: until the last container runs, by the engine's own clock, and until the last server is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import docker

from tests.bench.figures import Figure, Goal, alone, in_turns
from tests.bench.hubs import click, peers
from tests.running_hub import RunningHub

PAIRS = 3
USERS = 8


def measure(pairs: int = PAIRS) -> Sequence[Figure]:
    """Both times from the same rounds."""
    with peers(USERS) as both:
        ours, stock = in_turns(pairs, _round(both.ours), _round(both.stock))
    return (
        Figure(
            f"{USERS} users at once: last container running",
            "from the first request until the engine's `start` event of the last container.",
            "s",
            [running for running, _ in ours],
            [running for running, _ in stock],
            Goal("at least 1.4 times as fast", lambda ratio: ratio >= 1.4),
            by_stock=True,
        ),
        Figure(
            f"{USERS} users at once: last server ready",
            "from the first request until the hub has said of the last server that it is ready.",
            "s",
            [ready for _, ready in ours],
            [ready for _, ready in stock],
            Goal("at most 0.7", lambda ratio: ratio <= 0.7),
        ),
    )


def _round(hub: RunningHub) -> Callable[[int], tuple[float, float]]:
    def once(_: int) -> tuple[float, float]:
        users = hub.users[:USERS]
        began, clock = time.time(), time.perf_counter()
        with ThreadPoolExecutor(USERS) as threads:
            list(threads.map(lambda user: click(hub, user), users))
        ready = time.perf_counter() - clock
        running = _last_start(began) - began
        with ThreadPoolExecutor(USERS) as threads:
            list(threads.map(hub.stop_server, users))
        return running, ready

    return once


def _last_start(began: float) -> float:
    """The engine's time of the last start of a container since `began`; exactly as many as users must have started."""
    kinds = {"type": "container", "event": "start"}
    events = docker.from_env().events(since=int(began), until=int(time.time()) + 1, filters=kinds, decode=True)
    starts = [at for event in events if (at := float(event["timeNano"]) / 1e9) >= began]
    assert len(starts) == USERS, starts
    return max(starts)


def main() -> None:
    """Measure and print."""
    alone(measure, PAIRS)


if __name__ == "__main__":
    main()

"""Click to "server ready", one user: ours beside stock DockerSpawner with the same packages by plain pip."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.bench.figures import Figure, Goal, alone, in_turns
from tests.bench.hubs import click, page, peers
from tests.running_hub import RunningHub

PAIRS = 10
USER = "bench0"


def measure(pairs: int = PAIRS) -> Sequence[Figure]:
    """Seconds until ready, and until the first page, which shows that work was not just moved behind "ready"."""
    with peers(1) as both:
        ours, stock = in_turns(pairs, _once(both.ours), _once(both.stock))
    return (
        Figure(
            "one user: click to server ready",
            "from the request to start a server until the hub says that it is ready, by the hub's REST API.",
            "s",
            [ready for ready, _ in ours],
            [ready for ready, _ in stock],
            Goal("at most 0.6", lambda ratio: ratio <= 0.6),
        ),
        Figure(
            "one user: click to the first JupyterLab page",
            "the same, until the server has delivered its first page through the proxy.",
            "s",
            [shown for _, shown in ours],
            [shown for _, shown in stock],
        ),
    )


def _once(hub: RunningHub) -> Callable[[int], tuple[float, float]]:
    def once(_: int) -> tuple[float, float]:
        began = time.perf_counter()
        ready = click(hub, USER)
        page(hub, USER)
        shown = time.perf_counter() - began
        hub.stop_server(USER)
        return ready, shown

    return once


def main() -> None:
    """Measure and print."""
    alone(measure, PAIRS)


if __name__ == "__main__":
    main()

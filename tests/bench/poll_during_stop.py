"""A status poll of one user's server while another user's container takes ten seconds to stop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from threading import Thread

import docker

from tests.bench.figures import Figure, Goal, alone, in_turns
from tests.bench.hubs import click, peers
from tests.running_hub import RunningHub

PAIRS = 3
SLOW, OTHER = "bench0", "bench1"
#: Seconds after the request to stop when the poll is made: the stop is under way then.
AFTER = 0.5
MOST = 0.1


def measure(pairs: int = PAIRS) -> Sequence[Figure]:
    """Seconds that the other user's poll takes, and how long the slow stop really took."""
    with peers(2) as both:
        for hub in (both.ours, both.stock):
            click(hub, OTHER)
        ours, stock = in_turns(pairs, _once(both.ours), _once(both.stock))
    stops = {
        "ours": statistics.median(stop for _, stop in ours) * 1000,
        "stock": statistics.median(stop for _, stop in stock) * 1000,
    }
    return (
        Figure(
            "a status poll while another's container takes 10 s to stop",
            f"a request to start a server that runs already, {AFTER:g} s after another user's stop began: the hub asks "
            "`poll()` and refuses. The container ignores SIGTERM, since its first process is halted by SIGSTOP. The "
            "parts are the stops.",
            "ms",
            [poll * 1000 for poll, _ in ours],
            [poll * 1000 for poll, _ in stock],
            Goal("below 100 ms", lambda median: median < MOST * 1000),
            of_median=True,
            parts=stops,
        ),
    )


def _once(hub: RunningHub) -> Callable[[int], tuple[float, float]]:
    def once(_: int) -> tuple[float, float]:
        click(hub, SLOW)
        _halt(hub)
        stopped: list[float] = []

        def stop() -> None:
            began = time.perf_counter()
            hub.stop_server(SLOW)
            stopped.append(time.perf_counter() - began)

        stopping = Thread(target=stop)
        stopping.start()
        time.sleep(AFTER)
        began = time.perf_counter()
        answer = hub.spawn(OTHER)
        seconds = time.perf_counter() - began
        assert answer.status_code == 400 and "already running" in answer.text, answer.text
        stopping.join()
        assert stopped[0] > 9, f"the stop took {stopped[0]:.1f} s only: nothing was proved"
        return seconds, stopped[0]

    return once


def _halt(hub: RunningHub) -> None:
    """Halt the slow user's container, by its user's name in what the hub set for it."""
    (container,) = (
        container
        for container in docker.from_env().containers.list()
        if f"JUPYTERHUB_USER={SLOW}" in container.attrs["Config"]["Env"]
        and any(f":{hub.hub_port}/" in value for value in container.attrs["Config"]["Env"])
    )
    container.kill("SIGSTOP")


def main() -> None:
    """Measure and print."""
    alone(measure, PAIRS)


if __name__ == "__main__":
    main()

"""Both hubs side by side on one engine, and the click that is measured, the same for both."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import requests

from tests.bench.stock import StockHub
from tests.running_hub import RunningHub

#: Enough for eight at once on a small machine, and the same for both.
LIMITS = f"version: 1\ndefaults: {{max_cpus: {StockHub.cpus}, memory: {StockHub.memory.lower()}, shm_size: 64m}}\n"
#: Seconds between two comparisons: what an admin gets by default.
RECONCILE_EVERY = 15.0
READY_SECONDS = 120


@dataclass(frozen=True)
class Peers:
    """Ours and the stock hub, both serving."""

    ours: RunningHub
    stock: StockHub


@contextmanager
def peers(users: int) -> Iterator[Peers]:
    """Both hubs with this many users, each of whom has started once: images, folders and imports are warm."""
    names = tuple(f"bench{number}" for number in range(users))
    with tempfile.TemporaryDirectory(prefix="ds01-bench-") as folder:
        ours = RunningHub(Path(folder) / "ours", LIMITS, users=names, every=RECONCILE_EVERY)
        stock = StockHub(Path(folder) / "stock", "", users=names)
        try:
            for hub in (ours, stock):
                hub.start()
                with ThreadPoolExecutor(users) as threads:
                    list(threads.map(lambda name, hub=hub: click(hub, name), names))
                    list(threads.map(hub.stop_server, names))
            yield Peers(ours, stock)
        finally:
            for hub in (ours, stock):
                hub.stop()
            stock.clean()
            for container in docker.from_env().containers.list(
                all=True, filters={"label": f"ds01.instance={ours.instance}"}
            ):
                container.remove(force=True, v=True)


def click(hub: RunningHub, user: str) -> float:
    """Ask for the user's server and wait until the hub says that it is ready; the seconds that took.

    The hub answers 201 when the server is ready, or 202 after ten seconds; then the progress stream tells, as a
    browser's page would.
    """
    began = time.perf_counter()
    answer = hub.spawn(user)
    if answer.status_code == 202:
        _follow(hub, user)
    elif answer.status_code != 201:
        raise AssertionError(f"{user}: {answer.status_code} {answer.text}\n{hub.log[-3000:]}")
    return time.perf_counter() - began


def _follow(hub: RunningHub, user: str) -> None:
    with requests.get(
        f"{hub.url}/hub/api/users/{user}/server/progress",
        headers={"Authorization": f"token {hub.token}"},
        stream=True,
        timeout=READY_SECONDS,
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                if event.get("ready"):
                    return
                assert not event.get("failed"), event
    raise AssertionError(f"{user}: the progress stream ended before the server was ready\n{hub.log[-3000:]}")


def page(hub: RunningHub, user: str) -> None:
    """The first JupyterLab page, through the public proxy."""
    answer = requests.get(
        f"{hub.url}/user/{user}/lab", headers={"Authorization": f"token {hub.token}"}, timeout=READY_SECONDS
    )
    assert answer.ok and "jupyter-config-data" in answer.text, (answer.status_code, answer.text[:300])

"""What limits and a GPU lease add to a start: all of DS01's own steps, in process, on the real engine and ledger.

GPUs are read through pynvml from the stand-in library; the ledger is SQLite with synchronous=FULL, as shipped.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from traitlets.config import Config

from ds01_spawner import options_form
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.container_spec import PORT
from ds01_spawner.core.leases import Owner
from ds01_spawner.core.ports import ContainerView, Engine, Payload
from ds01_spawner.hub import DS01Hub
from ds01_spawner.launch import Launch
from tests.bench.figures import Figure, Goal, alone
from tests.fakes import nvml_library
from tests.running_hub import ROOT

STARTS = 30
USER = "bench0"
#: The progress of a start, in percent, when the container runs and is waited for.
WAITING = 75
SETTLE = 1.0
LIMITS = """
version: 1
defaults: {max_mig_instances: 1, max_cpus: 1, memory: 500m, shm_size: 64m, pids_limit: 300}
groups:
  students: {members: [ana, ben], memory: 400m}
  researchers: {members: [bench0], max_mig_instances: 2, memory: 700m}
user_overrides:
  bench0: {max_cpus: 2, reason: "the bench"}
"""
SIMULATED = ROOT / "config/simulated"
T = TypeVar("T")


class Spans:
    """When calls were under way."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    async def during(self, work: Awaitable[T]) -> T:
        """Wait for `work` and note when it was under way."""
        began = time.perf_counter()
        try:
            return await work
        finally:
            self.spans.append((began, time.perf_counter()))

    def covered(self) -> float:
        """The seconds in which at least one was."""
        total, end = 0.0, float("-inf")
        for began, ended in sorted(self.spans):
            total += max(0.0, ended - max(began, end))
            end = max(end, ended)
        return total


class TimedEngine(DockerEngine):
    """Notes the calls that a stock start makes as well: image, create, start, and one look for the address.

    The container runs a small web server instead of JupyterLab: what happens before it answers is measured.
    """

    def __init__(self, base_url: str | None = None) -> None:
        super().__init__(base_url)
        self.stock, self.started = Spans(), False

    async def image_id(self, reference: str) -> str | None:
        """Stock looks whether the image is there."""
        return await self.stock.during(super().image_id(reference))

    async def create(self, name: str, payload: Payload) -> str:
        """Stock creates too."""
        command = {"Entrypoint": ["python3", "-m", "http.server", str(PORT)], "Cmd": []}
        return await self.stock.during(super().create(name, {**payload, **command}))

    async def start(self, container: str) -> None:
        """Stock starts too."""
        await self.stock.during(super().start(container))
        self.started = True

    async def inspect(self, container: str) -> ContainerView | None:
        """Stock looks once after the start; every other look is ours."""
        if not self.started:
            return await super().inspect(container)
        self.started = False
        return await self.stock.during(super().inspect(container))


class BenchHub(DS01Hub):
    """The shipped parts with the timed engine."""

    def make_engine(self) -> Engine:
        """The real engine, timed."""
        self.timed = TimedEngine()
        return self.timed


def measure(pairs: int = STARTS) -> Sequence[Figure]:
    """Milliseconds added to each of some starts with one MIG instance. Runs in a process that finds the stand-in."""
    return asyncio.run(_measure(pairs))


async def _measure(starts: int) -> Sequence[Figure]:
    with tempfile.TemporaryDirectory(prefix="ds01-bench-") as folder:
        nvml_library.build(Path(folder))
        machine = Path(folder) / "machine"
        topology = nvml_library.topology(SIMULATED / "dgx-a100.yaml", SIMULATED / "boards.yaml")
        nvml_library.Machine(topology).write(machine)
        os.environ[nvml_library.VARIABLE] = str(machine)
        with nvml_library.loaded(Path(folder) / nvml_library.LIBRARY):
            hub = _hub(Path(folder) / "root")
            try:
                await hub.ready()
                samples = [await _start(hub, number) for number in range(starts + 1)][1:]
            finally:
                await hub.reconciler.stop()
    parts = {name: statistics.median(sample[name] for sample in samples) for name in samples[0] if name != "added"}
    return (
        Figure(
            "time added by limits and lease",
            "from the call of the spawner's start until it waits for JupyterLab, less the engine calls that a stock "
            "start makes as well (look at the image, create, start, look for the address): read and resolve the YAML, "
            "check the options, look for leftovers, reserve with the GPUs read anew through NVML, identity and "
            "folders, sign labels, confirm, read limits and devices back.",
            "ms",
            [sample["added"] for sample in samples],
            goal=Goal("at most 50 ms", lambda median: median <= 50),
            parts=parts,
        ),
    )


def _hub(root: Path) -> BenchHub:
    keys = root / "var/lib/ds01/secrets"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "label_key").write_text(secrets.token_hex(32))
    (root / "limits.yaml").write_text(LIMITS)
    settings = {
        "root": str(root),
        "instance": f"bench-{secrets.token_hex(3)}",
        "resource_limits": str(root / "limits.yaml"),
        "network": "ds01-test",
        # So that no start meets a comparison of the timer's.
        "reconcile_every": 600.0,
    }
    hub = BenchHub(config=Config(DS01Hub=settings))
    hub.open()
    return hub


async def _start(hub: BenchHub, number: int) -> dict[str, float]:
    """One start and stop; the milliseconds added, and those of its parts."""
    # What the stop before woke the reconciler for is over by then.
    await asyncio.sleep(SETTLE)
    hub.timed.stock = Spans()
    spans = {"resolve": Spans(), "reserve": Spans(), "confirm": Spans(), "read back": Spans()}
    with _Watched(hub, spans):
        began = time.perf_counter()
        resolved = await spans["resolve"].during(hub.resolve(USER, ()))
        request = options_form.parse({"environment": "base", "gpu": "1g"}, resolved, hub.environment_names)
        waiting: list[float] = []
        owner = Owner(USER, "")
        launch = Launch(owner, request, resolved, {}, (), lambda _, percent: _note(waiting, percent))
        started = await hub.launcher.start(launch)
    total = waiting[0] - began
    await hub.launcher.stop(owner, started.view.id, grace=0)
    parts = {name: span.covered() * 1000 for name, span in spans.items()}
    known = sum(parts.values())
    added = (total - hub.timed.stock.covered()) * 1000
    return {"added": added, **parts, "all else": added - known}


def _note(waiting: list[float], percent: int) -> None:
    if percent == WAITING:
        waiting.append(time.perf_counter())


class _Watched:
    """Notes when the steps of a start were under way."""

    def __init__(self, hub: BenchHub, spans: dict[str, Spans]) -> None:
        self._steps: list[tuple[Any, str, Spans]] = [
            (hub.allocator, "reserve", spans["reserve"]),
            (hub.allocator, "confirm", spans["confirm"]),
            (hub.launcher, "_verify", spans["read back"]),
        ]

    def __enter__(self) -> None:
        for thing, name, span in self._steps:
            setattr(thing, name, _timed(getattr(thing, name), span))

    def __exit__(self, *_: object) -> None:
        for thing, name, _span in self._steps:
            delattr(thing, name)


def _timed(work: Callable[..., Awaitable[Any]], span: Spans) -> Callable[..., Awaitable[Any]]:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        return await span.during(work(*args, **kwargs))

    return timed


def main() -> None:
    """Measure and print."""
    alone(measure, STARTS)


if __name__ == "__main__":
    main()

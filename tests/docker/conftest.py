"""Fixtures for tests on a real engine: containers that go away again, and an engine behind a proxy with faults."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from ds01_spawner.adapters.engine import DockerEngine
from tests.fakes.fault_proxy import FaultProxy

#: As PID 1 it ignores SIGTERM, so that a stop takes its whole grace.
SLEEP = ["/bin/sleep", "600"]
#: Reads names of scripts, runs each, and leaves its output and its exit code beside it.
OBEY = "while read -r o; do sh /box/$o >/box/$o.out 2>&1 </dev/null; echo $? >/box/$o.code; done <>/box/orders"
_numbers = itertools.count()


class Box:
    """Makes containers of the tiny image by docker-py alone; all of them are removed after the test."""

    def __init__(self, api: docker.APIClient, image: str) -> None:
        self.api = api
        self.image = image
        self.label = f"ds01-test-{os.getpid()}-{next(_numbers)}"
        self._made = itertools.count()
        self._shells: dict[str, tuple[Path, int]] = {}

    def name(self) -> str:
        return f"{self.label}.{next(self._made)}"

    def payload(self, **changes: Any) -> dict[str, Any]:
        host = {"NetworkMode": "none", **changes.pop("HostConfig", {})}
        return {"Image": self.image, "Cmd": SLEEP, "Labels": {self.label: ""}, "HostConfig": host, **changes}

    def create(self, **changes: Any) -> str:
        made = self.api.create_container_from_config(self.payload(**changes), self.name())
        return str(made["Id"])

    def run(self, **changes: Any) -> str:
        container = self.create(**changes)
        self.api.start(container)
        return container

    def shell(self, **changes: Any) -> str:
        """A running container that `execute` works on: its first process runs what it is told.

        Not by the engine's exec, which inside a chroot enters the outer root instead of the container.
        """
        folder = Path(tempfile.mkdtemp(prefix="ds01-box-"))
        folder.chmod(0o777)
        os.mkfifo(folder / "orders")
        (folder / "orders").chmod(0o666)
        # Held open for reading and writing, so that neither side ever waits for the other to open it.
        pipe = os.open(folder / "orders", os.O_RDWR)
        host = changes.pop("HostConfig", {})
        mounts = [*host.get("Mounts", []), {"Type": "bind", "Source": str(folder), "Target": "/box"}]
        container = self.run(Cmd=["/bin/sh", "-c", OBEY], HostConfig={**host, "Mounts": mounts}, **changes)
        self._shells[container] = folder, pipe
        return container

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        """Run a command in a `shell` container; exit code and output."""
        folder, pipe = self._shells[container]
        order = folder / f"order{next(self._made)}"
        order.write_text(shlex.join(command))
        order.chmod(0o644)
        os.write(pipe, f"{order.name}\n".encode())
        code = order.with_suffix(".code")
        deadline = time.monotonic() + 60
        while not (code.exists() and code.read_text().endswith("\n")):
            assert time.monotonic() < deadline, f"no answer to {command}"
            time.sleep(0.02)
        return int(code.read_text()), order.with_suffix(".out").read_text()

    def clean(self) -> None:
        for found in self.api.containers(all=True, filters={"label": self.label}):
            self.api.remove_container(found["Id"], force=True, v=True)
        for folder, pipe in self._shells.values():
            os.close(pipe)
            shutil.rmtree(folder)
        self._shells.clear()


@pytest.fixture
def box(engine_api: docker.APIClient, tiny_image: str) -> Iterator[Box]:
    """A maker of containers."""
    box = Box(engine_api, tiny_image)
    yield box
    box.clean()


@pytest.fixture
def proxy(engine_url: str) -> Iterator[FaultProxy]:
    """A proxy before the test engine."""
    proxy = FaultProxy(engine_url)
    yield proxy
    proxy.close()


@pytest.fixture
async def through(proxy: FaultProxy) -> AsyncIterator[Callable[..., DockerEngine]]:
    """Makes engine adapters that talk to the engine through the proxy."""
    engines: list[DockerEngine] = []

    def make(**settings: Any) -> DockerEngine:
        engines.append(DockerEngine(proxy.url, **settings))
        return engines[-1]

    yield make
    proxy.clear()
    for engine in engines:
        engine.close()

"""Fixtures for tests on a real engine: containers that go away again, and an engine behind a proxy with faults."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import docker
import pytest

from ds01_spawner.adapters.engine import DockerEngine
from tests.fakes.fault_proxy import FaultProxy

#: As PID 1 it ignores SIGTERM, so that a stop takes its whole grace.
SLEEP = ["/bin/sleep", "600"]
_numbers = itertools.count()


class Box:
    """Makes containers of the tiny image by docker-py alone; all of them are removed after the test."""

    def __init__(self, api: docker.APIClient, image: str) -> None:
        self.api = api
        self.image = image
        self.label = f"ds01-test-{os.getpid()}-{next(_numbers)}"
        self._made = itertools.count()

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

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        """Run a command in it; exit code and output."""
        made = self.api.exec_create(container, list(command))
        output = self.api.exec_start(made["Id"])
        return int(self.api.exec_inspect(made["Id"])["ExitCode"]), output.decode()

    def clean(self) -> None:
        for found in self.api.containers(all=True, filters={"label": self.label}):
            self.api.remove_container(found["Id"], force=True, v=True)


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

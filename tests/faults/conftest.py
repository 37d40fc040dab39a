"""Fixtures for faults on the real engine: an install that outlives its processes, and GPUs played through NVML."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.fakes import nvml_library
from tests.faults.driver import Install, Parts, client, remove_all
from tests.hub_fixtures import gpu_env, play
from tests.running_hub import ROOT


@pytest.fixture
def gpus(nvml_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A DGX-like machine for this process; the environment in which another one sees the same."""
    play("dgx-a100", tmp_path / "machine")
    env = gpu_env(nvml_folder, tmp_path / "machine")
    monkeypatch.setenv(nvml_library.VARIABLE, env[nvml_library.VARIABLE])
    with nvml_library.loaded(nvml_folder / nvml_library.LIBRARY):
        yield {**os.environ, **env}


@pytest.fixture
def install(engine_url: str, tiny_image: str, tmp_path: Path) -> Iterator[Install]:
    """A ledger, an engine and a name; its containers are removed afterwards."""
    with client(engine_url) as api:
        image = str(api.inspect_image(tiny_image)["Id"])
    install = Install(str(tmp_path), engine_url, image, f"faults-{secrets.token_hex(3)}")
    yield install
    remove_all(engine_url, install.instance)


@pytest.fixture
def hub(install: Install, gpus: dict[str, str]) -> Iterator[Callable[..., Parts]]:
    """Makes the parts of a new hub process; all of them are closed afterwards."""
    made: list[Parts] = []

    def make(**settings: Any) -> Parts:
        made.append(Parts(install, **settings))
        return made[-1]

    yield make
    for parts in made:
        parts.close()


class Dockerd:
    """The lab's engine, to be killed and started again."""

    def __init__(self, lab: str) -> None:
        self._lab = lab

    def kill(self) -> None:
        """End the engine at once; its containers' processes go on without it."""
        pid = int(Path(f"/run/{self._lab}/engine.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            os.sched_yield()

    def restart(self, how: str = "TERM") -> None:
        """Restart it, after a kill too; returns when it answers."""
        command = [str(ROOT / "tests/engine.sh"), "restart", how]
        subprocess.run(command, env={**os.environ, "DS01_TEST_NAME": self._lab}, check=True, capture_output=True)


@pytest.fixture
def dockerd(engine_url: str) -> Iterator[Dockerd]:
    """The engine itself; it answers again when the test is over."""
    lab = os.environ.get("DS01_TEST_LAB", "")
    if not lab:
        pytest.skip("the engine is not a lab of tests/engine.sh, so it is not restarted")
    dockerd = Dockerd(lab)
    yield dockerd
    try:
        with client(engine_url) as api:
            api.ping()
    except docker.errors.DockerException:
        dockerd.restart()

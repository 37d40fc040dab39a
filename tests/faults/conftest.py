"""Fixtures for faults on the real engine: an install that outlives its processes, and GPUs played through NVML."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.fakes import nvml_library
from tests.faults.driver import Install, Parts, remove_all
from tests.hub_fixtures import gpu_env, play


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
    api = docker.APIClient(base_url=engine_url, version="auto")
    image = str(api.inspect_image(tiny_image)["Id"])
    api.close()
    install = Install(str(tmp_path), engine_url, image, f"faults-{secrets.token_hex(3)}")
    yield install
    remove_all(engine_url, install.instance)


@pytest.fixture
def hub(install: Install, gpus: dict[str, str]) -> Iterator[Callable[[], Parts]]:
    """Makes the parts of a new hub process; all of them are closed afterwards."""
    made: list[Parts] = []

    def make() -> Parts:
        made.append(Parts(install, timeout=5.0, slow_timeout=20.0))
        return made[-1]

    yield make
    for parts in made:
        parts.close()

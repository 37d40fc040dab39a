"""Fixtures of real hubs, for every folder of tests that needs one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import pytest

from tests.fakes import nvml_library
from tests.running_hub import PROXY, ROOT, RunningHub

SIMULATED = ROOT / "config/simulated"
LIMITS = """
version: 1
defaults: {max_mig_instances: 1, max_cpus: 1, memory: "700m", shm_size: "96m", pids_limit: 300}
groups:
  students: {members: [ana], memory: "800m"}
  researchers: {members: [carla], max_mig_instances: 2}
"""


@pytest.fixture(scope="session")
def whole_engine() -> None:
    """A real engine with the base environment, and the proxy; skipped with the reason where one is missing."""
    if "DOCKER_HOST" not in os.environ:
        pytest.skip("no private engine: run ./test")
    try:
        docker.from_env().images.get("ds01/base:latest")
    except docker.errors.DockerException as problem:
        pytest.skip(f"no base environment on the engine ({problem}): run ./test")
    if not PROXY.exists():
        pytest.skip("configurable-http-proxy is not installed: run ./test")


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of NVIDIA's library, compiled from our own source."""
    if nvml_library.compiler() is None:
        pytest.skip("no C compiler for the NVML stand-in")
    folder = tmp_path_factory.mktemp("nvml")
    nvml_library.build(folder)
    return folder


def play(machine: str, file: Path) -> None:
    """Let the library at `file`'s hub play one of the machines in config/simulated."""
    topology = nvml_library.topology(SIMULATED / f"{machine}.yaml", SIMULATED / "boards.yaml")
    nvml_library.Machine(topology).write(file)


def gpu_env(folder: Path, file: Path) -> Mapping[str, str]:
    """The environment in which pynvml finds the stand-in."""
    return {"LD_LIBRARY_PATH": str(folder), nvml_library.VARIABLE: str(file)}


@pytest.fixture
def site_config() -> str:
    """More lines of a site's configuration; a module of tests may override this."""
    return ""


@pytest.fixture
def gpu_hub(whole_engine: None, nvml_folder: Path, tmp_path: Path, site_config: str) -> Iterator[RunningHub]:
    """A hub on the real engine that reads a DGX-like machine through pynvml."""
    play("dgx-a100", tmp_path / "machine")
    greedy = 'c.DS01Hub.environments = {"base": "ds01/base:latest", "greedy": "ds01-test/greedy:latest"}'
    hub = RunningHub(
        tmp_path / "hub", LIMITS, env=gpu_env(nvml_folder, tmp_path / "machine"), extra=f"{greedy}\n{site_config}"
    )
    yield from running(hub)


@pytest.fixture
def ten_hub(whole_engine: None, tmp_path: Path) -> Iterator[RunningHub]:
    """A hub without GPU whose limits let ten containers run on a small machine."""
    limits = 'version: 1\ndefaults: {max_cpus: 1, memory: "400m", shm_size: "64m"}\n'
    yield from running(RunningHub(tmp_path / "hub", limits, users=tuple(f"user{n}" for n in range(10))))


def running(hub: RunningHub) -> Iterator[RunningHub]:
    """Start it, give it, end it with everything that it made on the engine."""
    try:
        yield hub.start()
    finally:
        hub.stop()
        client = docker.from_env()
        for container in client.containers.list(all=True, filters={"label": f"ds01.instance={hub.instance}"}):
            container.remove(force=True, v=True)

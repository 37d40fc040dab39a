"""What the contract suites share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import nvml_library
from tests.fakes.gpu_world import World, nvml_world


@pytest.fixture(scope="session")
def nvml_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in `libnvidia-ml.so.1`, compiled once."""
    if nvml_library.compiler() is None:
        pytest.skip("no C compiler: the NVML stand-in can't be built")
    return nvml_library.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A machine behind the real NVML adapter."""
    with nvml_world(tmp_path, nvml_stand_in, monkeypatch.setenv) as world:
        yield world


@pytest.fixture(params=["simulated", "nvml"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A machine behind each inventory in turn."""
    if request.param == "simulated":
        return World(tmp_path, None)
    found: World = request.getfixturevalue("nvml")
    return found

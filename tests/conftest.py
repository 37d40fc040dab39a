"""Fixtures for every test: a container engine where one answers, and an image that is a handful of programs.

The engine is the one that DOCKER_HOST names, never the machine's own by default: tests create, kill and remove.
`tests/engine.sh up` makes a private one and `tests/engine.sh exec pytest …` runs tests with it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest

from ds01_spawner.adapters.engine import DockerEngine

pytest_plugins = ["tests.hub_fixtures"]

TINY = "ds01-test/tiny:latest"
APPLETS = ("sh", "sleep", "id", "cat", "ls", "echo", "nc", "wget", "stat", "ln", "rm", "mkdir", "touch", "yes", "true")
IMAGE_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nimage-user:x:1000:1000::/home/image-user:/bin/sh\n",
    "etc/group": b"root:x:0:\nimage-group:x:1000:\n",
    "etc/marker": b"of the image\n",
}


def pytest_configure(config: pytest.Config) -> None:
    """docker-py leaves the socket of a refused connection to the garbage collector."""
    refused = "unclosed <socket.socket fd=[0-9]+, family=1, type=1, proto=0>"
    config.addinivalue_line("filterwarnings", f"ignore:{refused}:ResourceWarning")


@pytest.fixture(scope="session")
def engine_url() -> str:
    """The test engine's address; a test that needs it is skipped where none answers."""
    url = os.environ.get("DOCKER_HOST", "")
    if not url:
        pytest.skip("no test engine: DOCKER_HOST is not set (tests/engine.sh exec sets it)")
    try:
        client = docker.APIClient(base_url=url, version="auto", timeout=10)
        client.ping()
        client.close()
    except docker.errors.DockerException as error:
        pytest.skip(f"no test engine answers at {url}: {error}")
    return url


@pytest.fixture(scope="session")
def tiny_image(engine_url: str) -> str:
    """An image with a static busybox and a passwd file, imported once: tests need no registry."""
    busybox = next((Path(p) for p in ("/bin/busybox", "/usr/bin/busybox") if Path(p).exists()), None)
    if busybox is None:
        pytest.skip("no busybox on this machine: apt-get install busybox-static")
    client = docker.APIClient(base_url=engine_url, version="auto", timeout=60)
    client.import_image_from_data(_archive(busybox.read_bytes()), repository="ds01-test/tiny", tag="latest")
    client.close()
    return TINY


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[DockerEngine]:
    """The real engine adapter."""
    engine = DockerEngine(engine_url)
    yield engine
    engine.close()


@pytest.fixture
def engine_api(engine_url: str) -> Iterator[docker.APIClient]:
    """docker-py itself, to arrange what the adapter doesn't do and to see what it did."""
    client = docker.APIClient(base_url=engine_url, version="auto", timeout=60)
    yield client
    client.close()


def _archive(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        _add(archive, "bin/busybox", busybox, 0o755)
        for path, content in IMAGE_FILES.items():
            _add(archive, path, content, 0o644)
        for link, target in [*((f"bin/{name}", "busybox") for name in APPLETS), ("etc/link", "marker")]:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))

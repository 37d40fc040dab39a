"""A real JupyterHub in this process: the shipped configuration with the engine, the GPUs and the proxy in memory."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from ds01_spawner import hub as hub_module
from ds01_spawner.adapters.metrics import Metrics
from ds01_spawner.spawner import DS01Spawner
from tests.fakes.memory_proxy import MemoryProxy
from tests.hub.hub_in_memory import LIMITS, PASSWORD, FakeHub, HubInMemory
from tests.running_hub import ROOT, free_port


def shipped_config(root: Path, limits: Path, setenv: Callable[[str, str], None]) -> Config:
    """What the shipped jupyterhub_config.py says for an install below `root`. DS01Spawner.ds01 is open afterwards."""
    keys = root / "var/lib/ds01/secrets"
    keys.mkdir(parents=True)
    for name in ("cookie_secret", "proxy_token", "label_key"):
        (keys / name).write_text(secrets.token_hex(32))
        (keys / name).chmod(0o600)
    (keys / "shared_password").write_text(PASSWORD)
    (keys / "admin_password").write_text("another password, for the admins of this install")
    for name, value in {
        "DS01_ROOT": str(root),
        "DS01_INSTANCE": "in-memory",
        "DS01_AUTHENTICATOR": "shared-password",
        "DS01_ADMINS": "admin",
        "DS01_RESOURCE_LIMITS": str(limits),
        "DS01_HUB_PORT": str(free_port()),
        "DS01_PORT": str(free_port()),
        "DS01_PROXY_API_PORT": str(free_port()),
    }.items():
        setenv(name, value)
    return PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()


@pytest.fixture
def limits_file(tmp_path: Path) -> Path:
    """The YAML of limits that the hub reads; a test may write it anew."""
    file = tmp_path / "limits.yaml"
    file.write_text(LIMITS)
    return file


@pytest.fixture
def hub_settings() -> Callable[[Config], None]:
    """What a module changes in the hub's configuration before it starts; nothing by default."""
    return lambda config: None


@pytest.fixture
async def hub(
    hub_app: Callable[..., Awaitable[Any]],
    hub_settings: Callable[[Config], None],
    tmp_path: Path,
    limits_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[HubInMemory]:
    """A hub that runs the shipped configuration; its engine, its GPUs (seven 1g slices) and its proxy are in memory."""
    if os.geteuid() != 0:
        pytest.skip("the hub gives home folders to their users, which takes root")
    mask = os.umask(0o077)
    monkeypatch.setenv("JUPYTERHUB_TEST_DB_URL", "sqlite:///:memory:")
    monkeypatch.setattr(hub_module, "DS01Hub", FakeHub)
    monkeypatch.setattr(hub_module, "Metrics", lambda: Metrics(CollectorRegistry()))
    config = shipped_config(tmp_path / "root", limits_file, monkeypatch.setenv)
    config.JupyterHub.proxy_class = MemoryProxy
    config.DS01Spawner.stop_grace = 0.0
    config.JupyterHub.log_level = logging.WARNING
    hub_settings(config)
    ds01 = DS01Spawner.ds01
    assert isinstance(ds01, FakeHub)
    app = await hub_app(config=config)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        hub = HubInMemory(app, ds01, session, limits_file)
        for name in ("ana", "ben", "carla"):
            hub.add_user(name)
        hub.add_user("admin", admin=True)
        yield hub
    await ds01.reconciler.stop()
    await hub.engine.close()
    ds01.allocator.close()
    app.db_file.close()
    Path(app.pid_file).unlink(missing_ok=True)
    os.umask(mask)

"""What the shipped jupyterhub_config.py decides, as the hub that runs it sees it."""

from __future__ import annotations

import stat
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement

from ds01_spawner.spawner import DS01Spawner
from tests.hub.hub_in_memory import HubInMemory
from tests.running_hub import ROOT


def test_versions_are_pinned_to_what_the_hooks_were_tried_on() -> None:
    """JupyterHub 6 from 6.1.1 and DockerSpawner 14: their hooks' order is what this code relies on."""
    needed = {need.name: need for need in map(Requirement, requires("ds01-hub") or ()) if need.marker}
    for name, oldest, newest in (("jupyterhub", "6.1.1", "7.0.0"), ("dockerspawner", "14.0.0", "15.0.0")):
        allowed = needed[name].specifier
        assert allowed.contains(oldest) and not allowed.contains(newest) and allowed.contains(version(name))
    assert not needed["jupyterhub"].specifier.contains("6.1.0")


async def test_a_restart_cuts_nobody_off(hub: HubInMemory) -> None:
    """The hub leaves containers and proxy alone when it ends, and gives servers time to answer when it comes back."""
    config = hub.app.config
    assert hub.app.cleanup_servers is False and hub.app.cleanup_proxy is False
    assert config.ConfigurableHTTPProxy.should_start is False
    assert config.ConfigurableHTTPProxy.api_url.startswith("http://127.0.0.1:")
    spawner = hub.spawner("ana")
    assert spawner.http_timeout >= 60 and spawner.start_timeout >= hub.ds01.ready_timeout + 60


async def test_limits_are_ours(hub: HubInMemory) -> None:
    """Named servers are on; the hub's own throttles are off, since the ledger counts, for the target user."""
    assert hub.app.spawner_class is DS01Spawner
    assert hub.app.allow_named_servers is True
    assert hub.app.concurrent_spawn_limit == 0 and hub.app.active_server_limit == 0
    assert hub.spawner("ana").consecutive_failure_limit == 0


async def test_the_hub_listens_for_containers_alone(hub: HubInMemory) -> None:
    """Its own port is bound to the containers' gateway, never to every address."""
    assert hub.app.config.JupyterHub.hub_bind_url == f"http://{hub.ds01.gateway}:{hub.app.hub.port}"
    assert hub.app.config.JupyterHub.bind_url.startswith("http://127.0.0.1:")


async def test_least_privilege(hub: HubInMemory) -> None:
    """Admins get our two scopes by a role of ours; nobody else gets any."""
    (role,) = hub.app.load_roles
    assert role["users"] == ["admin"] and all(scope.startswith("custom:ds01:") for scope in role["scopes"])
    spawner = hub.spawner("ana")
    assert not spawner.server_token_scopes


async def test_secrets_and_state_are_private(hub: HubInMemory) -> None:
    """What the hub makes below its root is for its own user only."""
    made = [path for path in hub.ds01.state.rglob("*") if "users" not in path.parts and "identity" not in path.parts]
    assert {"ledger.sqlite"} <= {path.name for path in made}
    exported = {path for path in made if path.name in ("gpu-state.json",) or "container-metadata" in path.parts}
    for path in set(made) - exported:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


def test_the_configuration_wires_and_does_nothing_else() -> None:
    """No function, no class, no loop: logic that only a running install would try has no place there."""
    text = (ROOT / "jupyterhub_config.py").read_text()
    for word in ("def ", "class ", "lambda", "for ", "while ", "try:"):
        assert not any(line.startswith(word) for line in text.splitlines()), word


@pytest.mark.parametrize("trait", ["mem_limit", "cpu_limit"])
async def test_nothing_is_limited_by_traits(hub: HubInMemory, trait: str) -> None:
    """Traits are evaluated when a spawner is made, not at its start: limits never come from them."""
    assert not getattr(hub.spawner("ana"), trait)
    assert "DS01Spawner" not in hub.app.config or trait not in hub.app.config.DS01Spawner

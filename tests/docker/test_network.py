"""The containers' bridge network on a real engine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

import docker
import pytest

from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.core.errors import ConfigError

NAME = "ds01-net-test"


@pytest.fixture(autouse=True)
def cleaned(engine_api: docker.APIClient) -> Iterator[Callable[[], None]]:
    """No network of this name before and after."""

    def clean() -> None:
        for found in engine_api.networks(names=[NAME]):
            engine_api.remove_network(found["Id"])

    clean()
    yield clean
    clean()


async def test_the_network_is_a_bridge_without_traffic_between_containers(
    engine: DockerEngine, engine_api: docker.APIClient
) -> None:
    """Made as asked for, once; the gateway is an address of its subnet."""
    gateway = await engine.ensure_network(NAME, bridge="br-net-test")
    assert await engine.ensure_network(NAME, bridge="br-net-test") == gateway
    found = engine_api.inspect_network(NAME)
    assert found["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert found["Options"]["com.docker.network.bridge.name"] == "br-net-test"
    assert ipaddress.ip_address(gateway) in ipaddress.ip_network(found["IPAM"]["Config"][0]["Subnet"])
    assert len(engine_api.networks(names=[NAME])) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"com.docker.network.bridge.name": "br-net-test"},
        {"com.docker.network.bridge.name": "br-net-test", "com.docker.network.bridge.enable_icc": "true"},
        {"com.docker.network.bridge.enable_icc": "false"},
    ],
    ids=["icc by default", "icc on", "another bridge"],
)
async def test_an_existing_network_that_is_not_ours_is_refused(
    engine: DockerEngine, engine_api: docker.APIClient, options: dict[str, str]
) -> None:
    """Neither used, since its containers would reach each other, nor changed, since it is somebody's."""
    engine_api.create_network(NAME, driver="bridge", options=options)
    with pytest.raises(ConfigError):
        await engine.ensure_network(NAME, bridge="br-net-test")
    assert engine_api.inspect_network(NAME)["Options"] == options

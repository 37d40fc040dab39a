"""The containers' bridge network: made when missing, never believed when it isn't what we would have made."""

from __future__ import annotations

import ipaddress
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound

from ds01_spawner.core.errors import ConfigError

ICC = "com.docker.network.bridge.enable_icc"
BRIDGE = "com.docker.network.bridge.name"


def ensure_bridge(client: APIClient, name: str, bridge: str) -> str:
    """The gateway's address of network `name` on interface `bridge`. Raises ConfigError, docker-py's errors."""
    found = _find(client, name)
    if found is None:
        try:
            client.create_network(name, driver="bridge", options={BRIDGE: bridge, ICC: "false"}, check_duplicate=True)
        except APIError:
            # Another process may have been faster; whatever it was, what is there now decides.
            if _find(client, name) is None:
                raise
        found = client.inspect_network(name)
    _check(found, name, bridge)
    return _gateway(found, name)


def _find(client: APIClient, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.inspect_network(name)
    except NotFound:
        return None
    # The engine takes the start of an id for a name too.
    return found if found["Name"] == name else None


def _check(found: dict[str, Any], name: str, bridge: str) -> None:
    options = found.get("Options") or {}
    remedy = f"Remove it (docker network rm {name}), or set another name."
    if found["Driver"] != "bridge" or options.get(BRIDGE) != bridge:
        raise ConfigError(f"network {name!r} exists and is not the bridge {bridge!r}. {remedy}", key="network")
    if options.get(ICC) != "false":
        raise ConfigError(f"network {name!r} exists and lets containers reach each other. {remedy}", key="network")
    if found.get("EnableIPv6"):
        raise ConfigError(f"network {name!r} exists and has IPv6, which is closed here. {remedy}", key="network")


def _gateway(found: dict[str, Any], name: str) -> str:
    for pool in found["IPAM"]["Config"] or ():
        if pool.get("Gateway"):
            return str(ipaddress.ip_interface(pool["Gateway"]).ip)
        if pool.get("Subnet"):
            return str(next(ipaddress.ip_network(pool["Subnet"]).hosts()))
    raise ConfigError(f"network {name!r} has no gateway address", key="network")

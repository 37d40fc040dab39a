"""The signed labels of our containers: which instance, whose, which lease, which devices.

A label can be written by anybody who reaches the engine, so nothing is believed whose signature doesn't verify.
The container's name is signed too: labels copied to another container are no longer valid there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping

from ds01_spawner.core.leases import Lease, Owner
from ds01_spawner.core.ports import ContainerView

PREFIX = "ds01."
INSTANCE = "ds01.instance"
USER = "ds01.user"
SERVER = "ds01.server"
LEASE = "ds01.lease"
DEVICES = "ds01.devices"
SPEC = "ds01.spec"
ENVIRONMENT = "ds01.environment"
SIGNATURE = "ds01.sig"


def of_lease(lease: Lease, *, instance: str, environment: str = "", spec: str = "") -> dict[str, str]:
    """The labels of a lease's container, not yet signed. `spec` is a digest of what the container was made of."""
    return {
        INSTANCE: instance,
        USER: lease.owner.user,
        SERVER: lease.owner.server,
        LEASE: lease.id,
        DEVICES: ",".join(device.uuid for device in lease.devices),
        SPEC: spec,
        ENVIRONMENT: environment,
    }


def sign(labels: Mapping[str, str], key: bytes, *, name: str) -> dict[str, str]:
    """The labels with `ds01.sig`, which covers every `ds01.` label and the container's name."""
    return {**labels, SIGNATURE: _signature(labels, key, name)}


def verify(labels: Mapping[str, str], key: bytes, *, name: str) -> bool:
    """True where `ds01.sig` is ours and fits these labels and this name."""
    return hmac.compare_digest(
        labels.get(SIGNATURE, "").encode(errors="replace"), _signature(labels, key, name).encode()
    )


def trusts(container: ContainerView, *, instance: str, key: bytes) -> bool:
    """True for a container of this instance whose signature verifies."""
    return container.labels.get(INSTANCE) == instance and verify(container.labels, key, name=container.name)


def owner_of(labels: Mapping[str, str]) -> Owner:
    """Whose container the labels say that it is; to be believed only where they verify."""
    return Owner(labels.get(USER, ""), labels.get(SERVER, ""))


def devices_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The device UUIDs in the labels."""
    return tuple(uuid for uuid in labels.get(DEVICES, "").split(",") if uuid)


def _signature(labels: Mapping[str, str], key: bytes, name: str) -> str:
    signed = {label: value for label, value in labels.items() if label.startswith(PREFIX) and label != SIGNATURE}
    text = json.dumps([name, signed], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

"""Values that many tests need: owners, limits, leases, requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ds01_spawner.core import labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Device
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import Limits, ResolvedLimits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.requests import Request, parse_gpu
from tests.fakes.fake_engine import IMAGE
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory

INSTANCE = "test"
KEY = b"a key of tests"
GIB = 1 << 30
HOST = Host(memory=64 * GIB, memory_reserve=4 * GIB, cpus=16)
ANA, BEN = Owner("ana"), Owner("ben")
CPU_ONLY = Request("base")
ONE_SLICE = Request("base", parse_gpu("1g"))


def slice_at(start: int) -> Device:
    """One of seven `1g.5gb` devices of GPU 0."""
    return FakeInventory(SEVEN_SLICES).now.devices()[start]


def limits_of(user: str, **values: Any) -> ResolvedLimits:
    """Resolved limits that let a test's user do as it likes, except for `values`."""
    free = Limits(max_mig_instances=None, max_containers_per_user=None, memory=GIB, memory_swap=GIB)
    return ResolvedLimits(user, None, replace(free, **values))


def a_lease(**values: Any) -> Lease:
    """A reservation of ana's with one slice."""
    lease = Lease(
        id="L1",
        owner=ANA,
        node="local",
        state=LeaseState.RESERVED,
        reserved_at=100.0,
        expires_at=220.0,
        container_name="main._.ana.x",
        request="1 x 1g",
        devices=(slice_at(0),),
        memory=GIB,
        image_id=IMAGE,
        priority=10,
    )
    return replace(lease, **values)


def signed(lease: Lease, name: str = "", **changes: str) -> dict[str, str]:
    """The signed labels of a lease's container."""
    values = {**labels.of_lease(lease, instance=INSTANCE, environment="base"), **changes}
    return labels.sign(values, KEY, name=name or lease.container_name)


def payload_of(lease: Lease) -> Mapping[str, Any]:
    """A create call's body as the hub would make it, as far as leases care."""
    requests = [{"Driver": "nvidia", "DeviceIDs": [device.uuid for device in lease.devices]}] if lease.devices else []
    host = {"Memory": lease.memory or 0, "DeviceRequests": requests}
    return {"Image": lease.image_id, "Labels": signed(lease), "HostConfig": host}


def view_of(lease: Lease, **values: Any) -> ContainerView:
    """The running container of a lease."""
    view = ContainerView(
        id=lease.container_id or f"c-{lease.id}",
        name=lease.container_name,
        state="running",
        labels=signed(lease),
        image_id=lease.image_id,
        device_ids=tuple(device.uuid for device in lease.devices),
        memory=lease.memory or 0,
    )
    return replace(view, **values)

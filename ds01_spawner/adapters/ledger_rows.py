"""Leases and events as rows of the ledger's tables, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from ds01_spawner.adapters import ledger_schema as t
from ds01_spawner.core.devices import Device
from ds01_spawner.core.errors import LeaseConflict
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import Event

_UNKNOWN_PLACE = "gi:"


def write_event(connection: Connection, event: Event) -> None:
    """Append an event."""
    connection.execute(
        insert(t.event).values(
            at=event.at,
            kind=event.kind,
            user_name=event.user,
            server_name=event.server,
            lease_id=event.lease,
            data=json.dumps(dict(event.data), sort_keys=True, ensure_ascii=False),
        )
    )


def read_event(row: Row[Any]) -> Event:
    """One event."""
    return Event(row.at, row.kind, row.user_name, row.server_name, row.lease_id, json.loads(row.data))


def read_leases(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[Lease, ...]:
    """The leases of these rows, with their devices, in the same order."""
    devices: dict[str, list[Device]] = {row.id: [] for row in rows}
    # SQLite takes a bounded number of parameters, so many leases are read in portions.
    ids = list(devices)
    for first in range(0, len(ids), 500):
        portion = select(t.lease_device).where(t.lease_device.c.lease_id.in_(ids[first : first + 500]))
        for row in connection.execute(portion.order_by(t.lease_device.c.lease_id, t.lease_device.c.position)):
            devices[row.lease_id].append(_device(row))
    return tuple(_lease(row, tuple(devices[row.id])) for row in rows)


def insert_lease(connection: Connection, lease: Lease) -> None:
    """A new lease with its devices and claims."""
    connection.execute(insert(t.lease).values(id=lease.id, **_values(lease)))
    if not lease.devices:
        return
    connection.execute(insert(t.lease_device), [_device_values(lease.id, n, d) for n, d in enumerate(lease.devices)])
    _check_ways_of_naming(connection, lease)
    connection.execute(
        insert(t.claim),
        [{"gpu_uuid": d.gpu_uuid, "slot": slot, "lease_id": lease.id} for d in lease.devices for slot in d.slots],
    )


def update_lease(connection: Connection, lease: Lease) -> None:
    """A lease after a move; the claims of an ended one go."""
    connection.execute(update(t.lease).where(t.lease.c.id == lease.id).values(**_values(lease)))
    if not lease.live:
        connection.execute(delete(t.claim).where(t.claim.c.lease_id == lease.id))


def _check_ways_of_naming(connection: Connection, lease: Lease) -> None:
    """Numbered slots and `gi:` slots of one GPU can't be compared by the key, so they never stand beside each other."""
    for device in lease.devices:
        taken = connection.scalars(select(t.claim.c.slot).where(t.claim.c.gpu_uuid == device.gpu_uuid))
        check_ways_of_naming(device, taken)


def check_ways_of_naming(device: Device, taken: Iterable[str]) -> None:
    """Raises LeaseConflict where a device's slots are named in another way than those that are taken on its GPU."""
    unknown = device.slots[0].startswith(_UNKNOWN_PLACE)
    if any(slot.startswith(_UNKNOWN_PLACE) is not unknown for slot in taken):
        raise LeaseConflict(f"{device.id} can't be compared with what is claimed on {device.gpu_uuid}")


def _values(lease: Lease) -> dict[str, Any]:
    return {
        "user_name": lease.owner.user,
        "server_name": lease.owner.server,
        "node": lease.node,
        "state": lease.state.value,
        "reserved_at": lease.reserved_at,
        "expires_at": lease.expires_at,
        "container_name": lease.container_name,
        "request": lease.request,
        "memory": lease.memory,
        "image_id": lease.image_id,
        "container_id": lease.container_id,
        "bound_at": lease.bound_at,
        "hold_until": lease.hold_until,
        "ended_at": lease.ended_at,
        "reason": lease.reason,
        "priority": lease.priority,
    }


def _lease(row: Row[Any], devices: tuple[Device, ...]) -> Lease:
    return Lease(
        id=row.id,
        owner=Owner(row.user_name, row.server_name),
        node=row.node,
        state=LeaseState(row.state),
        reserved_at=row.reserved_at,
        expires_at=row.expires_at,
        container_name=row.container_name,
        request=row.request,
        devices=devices,
        memory=row.memory,
        image_id=row.image_id,
        container_id=row.container_id,
        bound_at=row.bound_at,
        hold_until=row.hold_until,
        ended_at=row.ended_at,
        reason=row.reason,
        priority=row.priority,
    )


def _device_values(lease_id: str, position: int, device: Device) -> dict[str, Any]:
    return {
        "lease_id": lease_id,
        "position": position,
        "node": device.node,
        "gpu_uuid": device.gpu_uuid,
        "profile": device.profile,
        "start_slot": device.start,
        "size": device.size,
        "slices": device.slices,
        "gpu_slices": device.gpu_slices,
        "memory_mib": device.memory_mib,
        "uuid": device.uuid,
        "gi": device.gi,
    }


def _device(row: Row[Any]) -> Device:
    return Device(
        node=row.node,
        gpu_uuid=row.gpu_uuid,
        profile=row.profile,
        start=row.start_slot,
        size=row.size,
        slices=row.slices,
        gpu_slices=row.gpu_slices,
        memory_mib=row.memory_mib,
        uuid=row.uuid,
        gi=row.gi,
    )

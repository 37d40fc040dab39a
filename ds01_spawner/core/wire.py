"""JSON shapes of the hub's API, version 1: pure values in, plain dicts out."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

from ds01_spawner.core.devices import Device
from ds01_spawner.core.grant import Availability
from ds01_spawner.core.leases import Lease
from ds01_spawner.core.limits import Limits, ResolvedLimits, SharedFolder
from ds01_spawner.core.quota import NOT_IN_FORCE
from ds01_spawner.core.usage import Usage


def plain(value: object) -> object:
    """A limit's value as JSON knows it: exact fractions as text (`3/7`), folders as dicts."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else str(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, SharedFolder):
        return {"name": value.name, "path": value.path, "mode": "rw" if value.writable else "ro"}
    return value


def limits(resolved: ResolvedLimits, usage: Usage) -> dict[str, Any]:
    """One user's limits, each with the rule and line behind it, and what the user uses of them."""
    keys = {}
    for field in fields(Limits):
        source = resolved.source(field.name)
        keys[field.name] = {
            "value": plain(getattr(resolved.limits, field.name)),
            "source": source.rule,
            "line": source.line,
            "in_force": field.name not in NOT_IN_FORCE,
        }
    return {
        "user": resolved.user,
        "group": resolved.group,
        "limits": keys,
        "usage": {
            "containers": usage.containers,
            "devices": usage.devices,
            "gpu_equivalents": str(usage.gpueq),
            "memory": usage.memory,
        },
        "notes": list(resolved.notes),
    }


def device(value: Device) -> dict[str, Any]:
    """One device of a lease."""
    return {
        "id": value.id,
        "class": value.mig_class,
        "profile": value.profile,
        "gpu": value.gpu_uuid,
        "uuid": value.uuid,
        "gpu_equivalents": str(value.gpueq),
    }


def lease(value: Lease) -> dict[str, Any]:
    """One lease. Times are POSIX seconds."""
    return {
        "id": value.id,
        "user": value.owner.user,
        "server": value.owner.server,
        "node": value.node,
        "state": value.state.value,
        "request": value.request,
        "devices": [device(item) for item in value.devices],
        "memory": value.memory,
        "container": value.container_name,
        "container_id": value.container_id,
        "image_id": value.image_id,
        "reserved_at": value.reserved_at,
        "bound_at": value.bound_at,
        "hold_until": value.hold_until,
        "reason": value.reason,
    }


def availability(value: Availability) -> dict[str, Any]:
    """What is free, by class; nothing about whose the rest is."""
    return {
        "simulated": value.simulated,
        "frozen": value.frozen,
        "classes": {found.name: {"free": found.free, "total": found.total} for found in value.classes},
    }

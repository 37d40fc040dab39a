"""What is written down about leases, refusals and ended containers: one event for each, as plain JSON values."""

from __future__ import annotations

from ds01_spawner.core.errors import Refusal
from ds01_spawner.core.leases import Lease, Owner
from ds01_spawner.core.ports import ContainerView, Event
from ds01_spawner.core.requests import Request

REFUSED = "lease.refused"
EXITED = "container.exited"
ADOPTED = "container.adopted"
SWEPT = "container.removed"
QUARANTINED = "container.quarantined"
FORGED = "container.forged"
LOST = "lease.lost"


def of_lease(lease: Lease, *, now: float) -> Event:
    """`lease.<state>`: the lease as it is after a move."""
    return Event(
        at=now,
        kind=f"lease.{lease.state}",
        user=lease.owner.user,
        server=lease.owner.server,
        lease=lease.id,
        data={
            "container": lease.container_name,
            "container_id": lease.container_id,
            "request": lease.request,
            "devices": [device.id for device in lease.devices],
            "uuids": [device.uuid for device in lease.devices],
            "gpu_equivalents": str(lease.gpueq),
            "priority": lease.priority,
            "hold_until": lease.hold_until,
            "reason": lease.reason,
        },
    )


def of_refusal(owner: Owner, request: Request, container: str, priority: int, refusal: Refusal, *, now: float) -> Event:
    """`lease.refused`: who asked for what, and why not."""
    data = {
        "container": container,
        "request": str(request),
        "gpu": request.gpu is not None,
        "priority": priority,
        "reason": refusal.reason.value,
        "message": refusal.message,
    }
    return Event(at=now, kind=REFUSED, user=owner.user, server=owner.server, data=data)


def of_container(
    kind: str, owner: Owner, container: ContainerView, *, now: float, lease: str = "", **data: object
) -> Event:
    """An event about a container, with how it ended where it has."""
    values = {
        "container": container.name,
        "container_id": container.id,
        "exit_code": container.exit_code,
        "out_of_memory": container.oom_killed,
        "error": container.error,
        **data,
    }
    return Event(at=now, kind=kind, user=owner.user, server=owner.server, lease=lease, data=values)


def exit_cause(container: ContainerView) -> str:
    """How a container ended, for people: the reason that its lease ends with."""
    if container.oom_killed:
        return "out of memory: the container was killed at its memory limit"
    if container.error:
        return f"the engine reported: {container.error}"
    if container.exit_code is None:
        return f"the container is {container.state}"
    return f"the container exited with code {container.exit_code}"

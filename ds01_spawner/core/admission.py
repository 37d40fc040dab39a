"""May this user have this, whatever is free? Limits against usage, and the machine's memory.

Raises `Refusal` with what was asked, used and allowed, the rule that says so, and what would work.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ds01_spawner.core.devices import Device
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.requests import GpuKind, Request
from ds01_spawner.core.units import format_bytes
from ds01_spawner.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: memory in bytes with the part that no container gets, and CPUs."""

    memory: int
    memory_reserve: int
    cpus: int

    @property
    def for_containers(self) -> int:
        """Bytes that all containers may have together."""
        return max(self.memory - self.memory_reserve, 0)


def admit(request: Request, resolved: ResolvedLimits, mine: Usage, everybody: Usage, host: Host) -> None:
    """Check everything that needs no placement. Returns nothing: what isn't refused is admitted."""
    _check_containers(resolved, mine)
    _check_devices(request, resolved, mine)
    _check_memory(resolved, mine, everybody, host)


def admit_devices(devices: tuple[Device, ...], resolved: ResolvedLimits, mine: Usage) -> None:
    """Check the exact GPU-equivalents of the devices that placement chose."""
    allowed = resolved.limits.max_gpu_equivalents
    asked = sum((device.gpueq for device in devices), Fraction(0))
    if allowed is None or mine.gpueq + asked <= allowed:
        return
    raise Refusal(
        Reason.GPU_EQUIVALENTS,
        f"This would be {mine.gpueq + asked} GPU-equivalents; you may have {allowed} over all your containers "
        f"({resolved.source('max_gpu_equivalents')}) and use {mine.gpueq}. Ask for less or stop a container.",
        asked=str(asked),
        used=str(mine.gpueq),
        allowed=str(allowed),
        rule=str(resolved.source("max_gpu_equivalents")),
    )


def _check_containers(resolved: ResolvedLimits, mine: Usage) -> None:
    allowed = resolved.limits.max_containers_per_user
    if allowed is None or mine.containers < allowed:
        return
    rule = str(resolved.source("max_containers_per_user"))
    raise Refusal(
        Reason.CONTAINERS,
        f"You run {mine.containers} of at most {allowed} containers ({rule}). Stop one of them first.",
        asked=1,
        used=mine.containers,
        allowed=allowed,
        rule=rule,
    )


def _check_devices(request: Request, resolved: ResolvedLimits, mine: Usage) -> None:
    if request.gpu is None:
        return
    limits = resolved.limits
    if request.gpu.kind is GpuKind.FULL and not limits.allow_full_gpu:
        rule = str(resolved.source("allow_full_gpu"))
        raise Refusal(
            Reason.FULL_GPU,
            f"A full GPU is not allowed for you ({rule}). Ask for a MIG class such as '1g' or a size such as '>=20GB'.",
            asked="full",
            allowed=False,
            rule=rule,
        )
    allowed = limits.max_mig_instances
    if allowed is None or mine.devices + request.count <= allowed:
        return
    rule = str(resolved.source("max_mig_instances"))
    left = max(allowed - mine.devices, 0)
    way_out = f"Ask for at most {left}." if left else "Stop a container that has a GPU, or ask for none."
    raise Refusal(
        Reason.DEVICES,
        f"You asked for {request.count} GPU device(s) and use {mine.devices} of at most {allowed} ({rule}). {way_out}",
        asked=request.count,
        used=mine.devices,
        allowed=allowed,
        rule=rule,
        fits=left,
    )


def _check_memory(resolved: ResolvedLimits, mine: Usage, everybody: Usage, host: Host) -> None:
    asked = resolved.limits.memory
    if asked is None:
        return
    room = host.for_containers
    rule = str(resolved.source("memory"))
    for used, reason, whose in (
        (mine.memory, Reason.USER_MEMORY, "your containers have"),
        (everybody.memory, Reason.HOST_MEMORY, "all containers together have"),
    ):
        if used + asked > room:
            raise Refusal(
                reason,
                f"A container of yours gets {format_bytes(asked)} of memory ({rule}); {whose} {format_bytes(used)} "
                f"of the {format_bytes(room)} that this machine gives to containers. Stop one, or try again later.",
                asked=asked,
                used=used,
                allowed=room,
                rule=rule,
            )

"""What a running container really got, against what it was granted. Three things differ: a value, no limit, unknown."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.units import format_bytes

UNLIMITED = math.inf
#: The kernel rounds memory to pages, of 64 KiB at most.
PAGE = 64 << 10
#: CPU quotas are whole microseconds of a period.
CPU_STEP = 0.001
#: Where cgroup v1 means "no limit" it shows the largest multiple of a page.
V1_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Applied:
    """Limits as the kernel has them. `UNLIMITED` where there is none, None where it can't be read.

    Sizes in bytes; `memory_swap` is memory and swap together; `cpus` in CPUs; `pids` in processes.
    """

    memory: float | None = None
    memory_swap: float | None = None
    cpus: float | None = None
    pids: float | None = None


def number(text: str | None) -> float | None:
    """One number of a cgroup file: `max`, `-1` and v1's largest are UNLIMITED, what is no number is unknown."""
    word = (text or "").strip()
    if word in {"max", "-1"}:
        return UNLIMITED
    if not (word.isascii() and word.isdigit()):
        return None
    return UNLIMITED if int(word) >= V1_UNLIMITED else float(word)


def cpus(quota: str | None, period: str | None) -> float | None:
    """CPUs of a quota and its period, both in microseconds."""
    limit, each = number(quota), number(period)
    if limit is None or limit == UNLIMITED:
        return limit
    return limit / each if each and each != UNLIMITED else None


def plus(memory: float | None, swap: float | None) -> float | None:
    """Memory and swap together; unknown where either is."""
    return None if memory is None or swap is None else memory + swap


def compare(
    limits: Limits, applied: Applied, view: ContainerView, expected_device_ids: Collection[str]
) -> tuple[str, ...]:
    """What isn't as granted, one sentence each; nothing where all is.

    What the cgroup says counts. Where it can't be read the engine's own record must say the same as the limits.
    """
    wanted_cpus = None if limits.max_cpus is None else float(limits.max_cpus)
    swap = None if limits.memory is None else limits.memory_swap
    checks = (
        _check("memory", limits.memory, applied.memory, view.memory, PAGE),
        _check("memory and swap", swap, applied.memory_swap, view.memory_swap, PAGE),
        _check("CPUs", wanted_cpus, applied.cpus, view.cpus, CPU_STEP),
        _check("processes", limits.pids_limit, applied.pids, view.pids_limit, 0),
        _shared_memory(limits, view),
        _devices(view, expected_device_ids),
    )
    return tuple(text for text in checks if text)


def _check(what: str, wanted: float | None, got: float | None, recorded: float, tolerance: float) -> str:
    """`wanted` None is no limit, `got` None is unknown, `recorded` 0 is no limit."""
    limit = UNLIMITED if wanted is None else wanted
    if got is None:
        found, whose = recorded or UNLIMITED, "the engine's record (the cgroup can't be read)"
    else:
        found, whose = got, "its cgroup"
    # Equality first: the difference of two infinities is no number.
    if found == limit or abs(found - limit) <= tolerance:
        return ""
    return f"{what}: {_text(what, limit)} was granted, {_text(what, found)} is in {whose}"


def _shared_memory(limits: Limits, view: ContainerView) -> str:
    if limits.shm_size is None or view.shm_size == limits.shm_size:
        return ""
    return (
        f"shared memory: {format_bytes(limits.shm_size)} was granted, the container has {format_bytes(view.shm_size)}"
    )


def _devices(view: ContainerView, expected: Collection[str]) -> str:
    if not view.all_devices and sorted(view.device_ids) == sorted(expected):
        return ""
    found = "all of them" if view.all_devices else ", ".join(view.device_ids) or "none"
    return f"GPU devices: {', '.join(expected) or 'none'} granted, the container has {found}"


def _text(what: str, value: float) -> str:
    if value == UNLIMITED:
        return "no limit"
    return format_bytes(int(value)) if what.startswith("memory") else f"{value:g}"

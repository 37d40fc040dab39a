"""What one user may have: defaults, then the user's group, then the user's override, merged key by key.

`parse` reads the file's tree, `resolve` decides for one user at one time, `clamp` lowers to what the machine has.
Every value carries the rule and line that it came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from ds01_spawner.core.admission import Host
from ds01_spawner.core.limits import BUILT_IN, Limits, ResolvedLimits, Source
from ds01_spawner.core.principals import Principal
from ds01_spawner.core.quota_policy import Group, Override, QuotaPolicy, Rule, with_members
from ds01_spawner.core.quota_reader import parse, read
from ds01_spawner.core.quota_schema import KEYS, NOT_IN_FORCE
from ds01_spawner.core.units import format_bytes, format_fraction

__all__ = ["KEYS", "NOT_IN_FORCE", "QuotaPolicy", "clamp", "merge", "parse", "read", "resolve", "with_members"]

HOST = Source("host")


@dataclass(frozen=True, slots=True)
class Merged:
    """Limits out of several rules and the source of each key that one set; `conflicts`: keys that gave way, and how."""

    limits: Limits
    sources: dict[str, Source]
    conflicts: tuple[tuple[str, str], ...] = ()


def resolve(policy: QuotaPolicy, principal: Principal, *, now: float) -> ResolvedLimits:
    """The limits of one user at `now` (POSIX seconds). An absent key inherits, None is unlimited. Never raises."""
    mine = policy.groups_of(principal.name, principal.groups)
    group = policy.best(mine)
    override = policy.overrides.get(principal.name)
    notes = _tie(policy, mine, group)
    if override is not None and override.expires is not None and override.expires <= now:
        notes = (*notes, _expired(override))
        override = None
    merged = merge(rules_of(policy, group, override))
    return ResolvedLimits(
        principal.name,
        group.name if group else None,
        merged.limits,
        merged.sources,
        (*notes, *(text for _, text in merged.conflicts)),
        override.reason if override else "",
    )


def rules_of(policy: QuotaPolicy, group: Group | None, override: Override | None) -> tuple[Rule, ...]:
    """The rules that hold for a user, lowest first."""
    parts = (policy.defaults, group.rule if group else None, override.rule if override else None)
    return tuple(rule for rule in parts if rule is not None)


def merge(rules: Iterable[Rule]) -> Merged:
    """Later rules win, key by key."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for rule in rules:
        for key, setting in rule.settings.items():
            values[key] = setting.value
            sources[key] = Source(rule.name, setting.line)
    return _consistent(replace(Limits(), **values), sources)


def _consistent(limits: Limits, sources: dict[str, Source]) -> Merged:
    """Memory decides: swap is never below it and shared memory never above, whichever rules these came from."""
    conflicts: list[tuple[str, str]] = []
    memory, swap, shm = limits.memory, limits.memory_swap, limits.shm_size
    if "memory_swap" not in sources or memory is None or (swap is not None and swap < memory):
        if "memory_swap" in sources and memory is not None:
            conflicts.append(
                ("memory_swap", f"{_conflict('memory_swap', swap, sources, 'less')}: raised to it, no swap")
            )
        limits = replace(limits, memory_swap=memory)
        _follow_memory(sources, "memory_swap")
    if memory is not None and shm is not None and shm > memory:
        if "shm_size" in sources:
            conflicts.append(("shm_size", f"{_conflict('shm_size', shm, sources, 'more')}: lowered to it"))
        limits = replace(limits, shm_size=memory)
        _follow_memory(sources, "shm_size")
    return Merged(limits, sources, tuple(conflicts))


def _conflict(key: str, size: int | None, sources: dict[str, Source], how: str) -> str:
    memory = sources.get("memory", BUILT_IN)
    return f"{key} of {sources[key]} is {format_bytes(size)}, {how} than memory of {memory}"


def _follow_memory(sources: dict[str, Source], key: str) -> None:
    """A key that took memory's value has memory's source."""
    sources.pop(key, None)
    if "memory" in sources:
        sources[key] = sources["memory"]


def _tie(policy: QuotaPolicy, mine: tuple[Group, ...], best: Group | None) -> tuple[str, ...]:
    names = [group.name for group in mine if best and policy.priority(group) == policy.priority(best)]
    if best is None or len(names) < 2:
        return ()
    return (
        f"in {len(names)} groups of priority {policy.priority(best)} ({', '.join(names)}): "
        f"{best.name} counts, the first in the file",
    )


def _expired(override: Override) -> str:
    ended = datetime.fromtimestamp(override.expires or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{Source(override.rule.name, override.rule.line)} expired on {ended} and no longer counts"


def clamp(resolved: ResolvedLimits, host: Host) -> ResolvedLimits:
    """CPUs and memory lowered to what this machine has, each with a note: the engine refuses more CPUs than exist, and
    a container that asks for more memory than containers get could never be admitted. Unlimited stays unlimited,
    but for shared memory, which always has a size: that of the container's memory.
    """
    limits, sources, notes = resolved.limits, dict(resolved.sources), list(resolved.notes)
    cpus, room = Fraction(host.cpus), host.for_containers
    if limits.max_cpus is not None and limits.max_cpus > cpus:
        asked = format_fraction(limits.max_cpus)
        notes.append(_lowered("max_cpus", resolved, asked, f"{host.cpus} CPUs of this machine"))
        limits = replace(limits, max_cpus=cpus)
        sources["max_cpus"] = HOST
    if limits.memory is not None and limits.memory > room > 0:
        there = f"{format_bytes(room)} that this machine gives to containers"
        notes.append(_lowered("memory", resolved, format_bytes(limits.memory), there))
        swap = None if limits.memory_swap is None else room + limits.memory_swap - limits.memory
        limits = replace(limits, memory=room, memory_swap=swap)
        sources |= {"memory": HOST} if swap is None else {"memory": HOST, "memory_swap": HOST}
    most_shm = limits.memory or room or None
    if most_shm is not None and (limits.shm_size is None or limits.shm_size > most_shm):
        limits = replace(limits, shm_size=most_shm)
        sources["shm_size"] = HOST if limits.memory is None else sources.get("memory", HOST)
    return replace(resolved, limits=limits, sources=sources, notes=tuple(notes))


def _lowered(key: str, resolved: ResolvedLimits, value: str, there: str) -> str:
    return f"{key} of {resolved.source(key)} is {value}: lowered to the {there}"

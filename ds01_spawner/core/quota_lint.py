"""What a limits file that loads may still have wrong: between its rules, and against the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Health, Inventory
from ds01_spawner.core.quota import merge, rules_of
from ds01_spawner.core.quota_policy import Finding, Override, QuotaPolicy, Rule, Setting, Severity, in_order
from ds01_spawner.core.quota_schema import KEYS, NOT_IN_FORCE
from ds01_spawner.core.units import format_bytes, format_fraction

UNCOMPARED = ", so GPU limits were not compared with it"


def findings(
    policy: QuotaPolicy, inventory: Inventory | None = None, host: Host | None = None, *, now: float | None = None
) -> tuple[Finding, ...]:
    """Everything worth saying of a policy, by line. Without inventory, host or time (POSIX seconds) less is checked."""
    found = [*_members(policy), *_between_rules(policy), *_not_in_force(policy)]
    if now is not None:
        found += _expired(policy, now)
    if host is not None:
        found += _beyond_host(policy, host)
    if inventory is not None:
        found += _beyond_gpus(policy, inventory)
    return in_order(found, policy.file)


def _rules(policy: QuotaPolicy) -> Iterator[Rule]:
    yield policy.defaults
    yield from (group.rule for group in policy.groups)
    yield from (override.rule for override in policy.overrides.values())


def _set(policy: QuotaPolicy, key: str) -> Iterator[tuple[Rule, Setting]]:
    """Every place that sets a key."""
    for rule in _rules(policy):
        if setting := rule.settings.get(key):
            yield rule, setting


def _finding(policy: QuotaPolicy, severity: Severity, message: str, rule: Rule, key: str) -> Finding:
    setting = rule.settings.get(key)
    return Finding(severity, message, policy.file, setting.line if setting else rule.line, f"{rule.name}.{key}")


def _members(policy: QuotaPolicy) -> Iterator[Finding]:
    for group in policy.groups:
        path = f"{group.rule.name}.members"
        counted: Counter[str] = Counter()
        for member in group.members:
            counted[member.name] += 1
            if counted[member.name] == 2:
                yield Finding(Severity.WARNING, f"{member.name!r} is listed twice", member.file, member.line, path)
            if member.name != member.name.lower():
                yield Finding(Severity.WARNING, _cased(member.name), member.file, member.line, path)
            if tied := _tied_before(policy, group.name, member.name):
                yield Finding(
                    Severity.ERROR,
                    f"{member.name!r} is in {tied!r} too, which has the same priority, {policy.priority(group)}: "
                    "give one group a higher one",
                    member.file, member.line, path,
                )  # fmt: skip
    for override in policy.overrides.values():
        if override.user != override.user.lower():
            yield Finding(Severity.WARNING, _cased(override.user), policy.file, override.rule.line, override.rule.name)


def _cased(name: str) -> str:
    return f"{name!r} has upper-case letters: the hub lowers names at login, so this matches nobody"


def _tied_before(policy: QuotaPolicy, group: str, user: str) -> str:
    """An earlier group of this user that ties with `group` for the decision; empty where none does."""
    mine = policy.groups_of(user)
    best = policy.best(mine)
    tied = [g.name for g in mine if best and policy.priority(g) == policy.priority(best)]
    return tied[0] if group in tied[1:] else ""


def _between_rules(policy: QuotaPolicy) -> Iterator[Finding]:
    """Memory of one rule against the sizes of another, for every group and override that the file names."""
    chains = [rules_of(policy, group, None) for group in policy.groups]
    chains += [_chain(policy, override) for override in policy.overrides.values()]
    for chain in ((policy.defaults,), *chains):
        below = {text for _, text in merge(chain[:-1]).conflicts}
        for key, text in merge(chain).conflicts:
            if text not in below:
                # Swap can be raised without harm; shared memory that can't be had is a broken promise.
                severity = Severity.ERROR if key == "shm_size" else Severity.WARNING
                own = next((k for k in ("memory", key) if k in chain[-1].settings), key)
                yield _finding(policy, severity, text, chain[-1], own)


def _chain(policy: QuotaPolicy, override: Override) -> tuple[Rule, ...]:
    return rules_of(policy, policy.best(policy.groups_of(override.user)), override)


def _not_in_force(policy: QuotaPolicy) -> Iterator[Finding]:
    for key in (key for key in KEYS if key in NOT_IN_FORCE):
        lines = [setting.line for _, setting in _set(policy, key)]
        if lines:
            also = f" (lines {', '.join(map(str, lines))})" if len(lines) > 1 else ""
            yield Finding(Severity.NOTE, f"not in force yet: nothing acts on it{also}", policy.file, lines[0], key)


def _expired(policy: QuotaPolicy, now: float) -> Iterator[Finding]:
    for override in policy.overrides.values():
        if override.expires is not None and override.expires <= now:
            rule, message = override.rule, "expired, counts no longer: remove it"
            yield Finding(Severity.WARNING, message, policy.file, rule.line, rule.name)


def _beyond_host(policy: QuotaPolicy, host: Host) -> Iterator[Finding]:
    for rule, setting in _set(policy, "max_cpus"):
        if isinstance(setting.value, Fraction) and setting.value > host.cpus:
            message = f"{format_fraction(setting.value)} CPUs, and this machine has {host.cpus}"
            yield _finding(policy, Severity.ERROR, message, rule, "max_cpus")
    room = host.for_containers
    for key in ("memory", "shm_size", "storage_tmp"):
        for rule, setting in _set(policy, key):
            if isinstance(setting.value, int) and setting.value > room:
                message = f"{format_bytes(setting.value)}, and this machine has {format_bytes(room)} for containers"
                yield _finding(policy, Severity.ERROR, message, rule, key)


@dataclass(frozen=True, slots=True)
class _Gpus:
    """What a machine has when everything is well: an ill GPU is no reason to lower limits."""

    gpus: int
    devices: int


def _count(inventory: Inventory) -> _Gpus:
    well = replace(inventory, gpus=tuple(replace(gpu, health=Health.OK) for gpu in inventory.gpus))
    return _Gpus(len(well.gpus), len(well.devices()))


def _beyond_gpus(policy: QuotaPolicy, inventory: Inventory) -> Iterator[Finding]:
    if not inventory.gpus:
        yield Finding(Severity.NOTE, f"this machine has no GPU{UNCOMPARED}", policy.file)
        return
    if any(gpu.mig is None for gpu in inventory.gpus):
        yield Finding(Severity.WARNING, f"a GPU of this machine can't be read fully{UNCOMPARED}", policy.file)
        return
    there = _count(inventory)
    simulated = " (simulated)" if inventory.simulated else ""
    for rule, setting in _set(policy, "max_mig_instances"):
        if isinstance(setting.value, int) and setting.value > there.devices:
            message = f"{setting.value} of {there.devices} GPU device(s) on this machine{simulated}"
            yield _finding(policy, Severity.ERROR, message, rule, "max_mig_instances")
    for rule, setting in _set(policy, "max_gpu_equivalents"):
        if isinstance(setting.value, Fraction) and setting.value > there.gpus:
            message = f"{format_fraction(setting.value)} of {there.gpus} GPU(s) on this machine{simulated}"
            yield _finding(policy, Severity.ERROR, message, rule, "max_gpu_equivalents")

"""From the limits file to one user's limits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.admission import Host
from ds01_spawner.core.limits import Limits, ResolvedLimits, Source
from ds01_spawner.core.principals import Principal
from ds01_spawner.core.quota import KEYS, clamp, merge, resolve, with_members
from ds01_spawner.core.quota_policy import Rule, Setting
from tests.unit.core.trees import policy_of

GB = 1 << 30
HOUR = 3600.0
#: The seed's README, its example of defaults, of a group and of an override, as they stand.
SEED = """\
defaults:
  max_mig_instances: 1           # Max GPUs per user
  max_cpus: 8                    # CPU cores per container
  memory: "32g"                  # RAM per container
  shm_size: "8g"                 # Shared memory
  max_containers_per_user: 3     # Max simultaneous containers
  idle_timeout: "48h"            # Auto-stop after idle time
  priority: 10                   # Allocation priority (1-100)
groups:
  students:
    members: [alice, bob, newstudent]
user_overrides:
  thesis_student:
    max_mig_instances: 2
    memory: "64g"
    idle_timeout: "168h"  # 1 week
    priority: 100
    reason: "Thesis work - approved by Prof. Smith"
"""
LAB = """\
version: 1
defaults:
  max_cpus: 8
  memory: 32g
  max_mig_instances: 1
  priority: 10
default_group: students
groups:
  students:
    members: [alice, both, "12345", yes]
  researchers:
    members: [rita, both]
    max_cpus: 16
    max_mig_instances: 4
    priority: 50
  admins:
    max_mig_instances: null
    max_cpus: null
    memory: null
    priority: 90
user_overrides:
  rita:
    memory: 64g
    reason: a deadline
  guest:
    max_mig_instances: 2
    expires: 2026-03-31
    reason: a visit
"""
END_OF_VISIT = 1_775_001_600.0  # 2026-04-01T00:00:00Z


def limits_of(text: str, user: str, *groups: str, now: float = 0.0) -> ResolvedLimits:
    """One user's limits under a YAML text."""
    return resolve(policy_of(text), Principal(user, groups), now=now)


def test_the_seeds_own_examples_load_as_they_stand() -> None:
    """Without a version it is version 1; every value keeps its meaning and knows its line."""
    resolved = limits_of(SEED, "thesis_student")
    assert resolved.limits == replace(
        Limits(),
        max_mig_instances=2,
        max_cpus=Fraction(8),
        memory=64 * GB,
        memory_swap=64 * GB,
        shm_size=8 * GB,
        idle_timeout=168 * HOUR,
        priority=100,
    )
    assert resolved.source("memory") == Source("user_overrides.thesis_student", 15)
    assert resolved.source("memory_swap") == Source("user_overrides.thesis_student", 15)
    assert resolved.source("max_cpus") == Source("defaults", 3)
    assert (resolved.group, resolved.reason) == (None, "Thesis work - approved by Prof. Smith")


@pytest.mark.parametrize(
    ("user", "groups", "group", "expected"),
    [
        ("alice", (), "students", {"max_cpus": 8, "max_mig_instances": 1, "memory": 32 * GB}),
        ("12345", (), "students", {"max_cpus": 8}),
        ("yes", (), "students", {"max_cpus": 8}),
        ("nobody-knows", (), "students", {"max_cpus": 8, "max_mig_instances": 1}),
        ("Alice", ("unknown-group",), "students", {"max_cpus": 8}),
        ("both", (), "researchers", {"max_cpus": 16, "max_mig_instances": 4}),
        ("alice", ("researchers",), "researchers", {"max_cpus": 16}),
        (
            "ada",
            ("admins",),
            "admins",
            {"max_cpus": None, "memory": None, "memory_swap": None, "max_mig_instances": None},
        ),
        ("rita", ("admins",), "admins", {"max_cpus": None, "memory": 64 * GB}),
        ("rita", (), "researchers", {"max_cpus": 16, "max_mig_instances": 4, "memory": 64 * GB, "priority": 50}),
    ],
)
def test_who_gets_what(user: str, groups: tuple[str, ...], group: str, expected: dict[str, Any]) -> None:
    """Defaults, then the group, then the override, key by key: an override keeps the group's other values.

    The group is that of the highest priority among those in the file and the hub's; null is unlimited; whoever is in
    none is in the default group; an override without `priority` keeps its group's.
    """
    resolved = limits_of(LAB, user, *groups)
    assert resolved.group == group
    assert {key: getattr(resolved.limits, key) for key in expected} == expected
    assert resolved.notes == ()


def test_without_a_default_group_a_stranger_gets_the_defaults() -> None:
    """A group is a benefit, not a condition."""
    assert limits_of(SEED, "stranger").group is None
    assert limits_of(SEED, "stranger").source("max_cpus") == Source("defaults", 3)


def test_an_override_ends_with_its_day() -> None:
    """It counts until the last moment of the date, UTC; then the user is told that it did, and gets the group's."""
    last = limits_of(LAB, "guest", now=END_OF_VISIT - 1)
    after = limits_of(LAB, "guest", now=END_OF_VISIT)
    assert (last.limits.max_mig_instances, last.reason, last.notes) == (2, "a visit", ())
    assert (after.limits.max_mig_instances, after.reason) == (1, "")
    assert after.notes == ("user_overrides.guest (line 25) expired on 2026-03-31 23:59 UTC and no longer counts",)


def test_a_tie_between_groups_goes_to_the_first_and_says_so() -> None:
    """In the file's order, whatever order the hub names them in."""
    text = """
        groups:
          a: {max_cpus: 1}
          b: {max_cpus: 2, members: [ana]}
        """
    resolved = limits_of(text, "ana", "b", "a")
    assert (resolved.group, resolved.limits.max_cpus) == ("a", 1)
    assert resolved.notes == ("in 2 groups of priority 10 (a, b): a counts, the first in the file",)


def test_a_groups_priority_is_inherited_from_the_defaults() -> None:
    """A group without its own has the defaults', which may be above another's."""
    text = "{defaults: {priority: 60}, groups: {low: {priority: 50, members: [ana]}, plain: {members: [ana]}}}"
    assert limits_of(text, "ana").group == "plain"


def test_member_files_are_members() -> None:
    """One name a line; comments and blank lines are none; a name that no hub could have is found with its line."""
    policy = policy_of("groups: {students: {members: [ana], members_file: s.members}}")
    text = "# our students\n\nben  # since May\r\n12345\n"
    complete, problems = with_members(policy, {"s.members": text})
    assert problems == ()
    assert [resolve(complete, Principal(name), now=0).group for name in ("ana", "ben", "12345", "since")] == [
        "students",
        "students",
        "students",
        None,
    ]
    _, problems = with_members(policy, {"s.members": "ben\nana, carla\n"})
    assert [(p.file, p.line) for p in problems] == [("s.members", 2)]


def test_swap_follows_memory_of_a_higher_rule() -> None:
    """Memory that a group raises above an inherited memory_swap means no swap, and a note; unlimited takes it along."""
    text = """
        defaults: {memory: 32g, memory_swap: 48g}
        groups:
          big: {memory: 64g}
          open: {memory: null}
          small: {memory: 40g}
        """
    big, unlimited, small = (limits_of(text, "ana", group) for group in ("big", "open", "small"))
    assert (big.limits.memory_swap, unlimited.limits.memory_swap, small.limits.memory_swap) == (64 * GB, None, 48 * GB)
    assert big.source("memory_swap") == Source("groups.big", 4)
    assert big.notes == (
        "memory_swap of defaults (line 2) is 48 GiB, less than memory of groups.big (line 4): raised to it, no swap",
    )
    assert unlimited.notes == small.notes == ()


def test_shared_memory_is_never_more_than_memory() -> None:
    """It counts as memory; where the file asked for more, a note says what gave way."""
    text = "{defaults: {shm_size: 16g, memory: 32g}, groups: {small: {memory: 8g}}}"
    small = limits_of(text, "ana", "small")
    assert small.limits.shm_size == 8 * GB
    assert small.notes == (
        "shm_size of defaults (line 1) is 16 GiB, more than memory of groups.small (line 1): lowered to it",
    )
    tiny = limits_of("defaults: {memory: 32m}", "ana")
    assert (tiny.limits.shm_size, tiny.notes) == (32 << 20, ())
    large = limits_of("defaults: {shm_size: 8g}", "ana")
    assert (large.limits.shm_size, large.source("shm_size").rule) == (4 * GB, "built-in")


HOST = Host(memory=10 * GB, memory_reserve=2 * GB, cpus=4)


def clamped(host: Host = HOST, **values: Any) -> ResolvedLimits:
    """Limits that all come from the defaults, lowered to a machine."""
    rule = Rule("defaults", 1, {key: Setting(value, 5) for key, value in values.items()})
    merged = merge([rule])
    return clamp(ResolvedLimits("ana", None, merged.limits, merged.sources), host)


def test_cpus_beyond_the_machine_are_lowered() -> None:
    """The engine refuses a container with more CPUs than exist."""
    resolved = clamped(max_cpus=Fraction(9, 2))
    assert (resolved.limits.max_cpus, resolved.source("max_cpus")) == (4, Source("host"))
    assert resolved.notes == ("max_cpus of defaults (line 5) is 4.5: lowered to the 4 CPUs of this machine",)


def test_memory_beyond_the_machine_is_lowered_with_what_hangs_on_it() -> None:
    """To what containers get; the same amount of swap stays, shared memory shrinks with it."""
    resolved = clamped(memory=32 * GB, memory_swap=33 * GB, shm_size=16 * GB)
    assert (resolved.limits.memory, resolved.limits.memory_swap, resolved.limits.shm_size) == (8 * GB, 9 * GB, 8 * GB)
    assert {resolved.source(key) for key in ("memory", "memory_swap", "shm_size")} == {Source("host")}
    assert resolved.notes == (
        "memory of defaults (line 5) is 32 GiB: lowered to the 8 GiB that this machine gives to containers",
    )
    assert clamped(memory=32 * GB, memory_swap=None).limits.memory_swap is None


def test_what_the_machine_has_is_not_touched() -> None:
    """Exactly as much is enough, and unlimited stays unlimited."""
    exact = clamped(max_cpus=Fraction(4), memory=8 * GB)
    assert (exact.limits.max_cpus, exact.limits.memory, exact.notes) == (4, 8 * GB, ())
    unlimited = clamped(max_cpus=None, memory=None)
    assert (unlimited.limits.max_cpus, unlimited.limits.memory, unlimited.notes) == (None, None, ())


def test_unlimited_shared_memory_has_the_size_of_memory() -> None:
    """An engine without a size makes 64 MiB, which is no way to be unlimited."""
    bounded = clamped(memory=6 * GB, shm_size=None)
    assert (bounded.limits.shm_size, bounded.source("shm_size")) == (6 * GB, Source("defaults", 5))
    open_ended = clamped(memory=None, shm_size=None)
    assert (open_ended.limits.shm_size, open_ended.source("shm_size")) == (8 * GB, Source("host"))
    assert clamped(shm_size=None).limits.shm_size == 4 * GB


def test_a_machine_that_gives_nothing_to_containers_changes_no_memory() -> None:
    """0 would be read as unlimited by the engine; admission refuses such a start."""
    none = Host(memory=GB, memory_reserve=GB, cpus=1)
    assert clamped(none, memory=2 * GB).limits.memory == 2 * GB
    assert clamped(none, memory=None, shm_size=None).limits.shm_size is None


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "max_cpus": st.none() | st.fractions(1, 64, max_denominator=8),
    "max_mig_instances": st.none() | st.integers(0, 8),
    "memory": st.none() | st.integers(6 << 20, 1 << 38),
    "memory_swap": st.none() | st.integers(6 << 20, 1 << 38),
    "shm_size": st.none() | st.integers(1 << 20, 1 << 38),
    "priority": st.integers(1, 100),
}
RULES = st.fixed_dictionaries({}, optional=VALUES).map(
    lambda values: {key: Setting(value, line) for line, (key, value) in enumerate(values.items(), 1)}
)
HOSTS = st.builds(Host, st.integers(1 << 30, 1 << 40), st.integers(0, 1 << 28), st.integers(1, 256))


@given(RULES, RULES, RULES, HOSTS)
def test_the_highest_rule_that_sets_a_key_wins(
    defaults: dict[str, Setting], group: dict[str, Setting], override: dict[str, Setting], host: Host
) -> None:
    """Every key has the value of the last rule that names it, with that source; only sizes tied to memory give way.

    Lowered to any machine, the sizes still agree: shared memory within memory, memory within memory and swap.
    """
    rules = [Rule("defaults", 1, defaults), Rule("groups.g", 2, group), Rule("user_overrides.u", 3, override)]
    merged = merge(rules)
    for key in KEYS:
        setters = [rule for rule in rules if key in rule.settings]
        if setters and key not in ("memory_swap", "shm_size"):
            setting = setters[-1].settings[key]
            assert getattr(merged.limits, key) == setting.value
            assert merged.sources[key] == Source(setters[-1].name, setting.line)
    for limits in (merged.limits, clamp(ResolvedLimits("u", "g", merged.limits, merged.sources), host).limits):
        if limits.memory is not None:
            assert limits.memory_swap is None or limits.memory_swap >= limits.memory
            assert limits.shm_size is None or limits.shm_size <= limits.memory
    assert limits.max_cpus is None or limits.max_cpus <= host.cpus
    assert limits.memory is None or limits.memory <= host.for_containers
    assert limits.shm_size is not None

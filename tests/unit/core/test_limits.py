"""Resolved limits and where each value came from."""

from __future__ import annotations

from dataclasses import fields

from ds01_spawner.core.limits import BUILT_IN, Limits, ResolvedLimits, Source
from ds01_spawner.core.principals import Principal
from ds01_spawner.core.quota import KEYS, NOT_IN_FORCE, QuotaPolicy, merge, resolve


def test_every_key_of_the_file_is_a_limit_and_the_reverse() -> None:
    """No limit without a key to set it, no key that nothing holds; in one order everywhere."""
    assert list(KEYS) == [field.name for field in fields(Limits)]
    assert set(KEYS) >= NOT_IN_FORCE


def test_a_value_that_no_rule_set_is_built_in() -> None:
    """The source of a key is never missing."""
    resolved = ResolvedLimits("ana", None, Limits(), {"memory": Source("defaults", 3)})
    assert resolved.source("memory") == Source("defaults", 3)
    assert resolved.source("max_cpus") is BUILT_IN


def test_a_source_reads_as_rule_and_line() -> None:
    """What has no line in a file shows none."""
    assert (str(Source("groups.students", 12)), str(Source("host"))) == ("groups.students (line 12)", "host")


def test_the_built_in_limits_agree_with_each_other() -> None:
    """Without any file nobody gets swap, and nothing has to give way."""
    assert merge([]).conflicts == ()
    resolved = resolve(QuotaPolicy(), Principal("ana"), now=0.0)
    assert resolved == ResolvedLimits("ana", None, Limits())
    assert resolved.limits.memory_swap == resolved.limits.memory

"""What a container got against what was granted."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.readback import UNLIMITED, Applied, compare, cpus, number, plus

GRANTED = Limits(memory=256 << 20, memory_swap=256 << 20, max_cpus=Fraction(1, 2), pids_limit=64, shm_size=64 << 20)
APPLIED = Applied(memory=256 << 20, memory_swap=256 << 20, cpus=0.5, pids=64)
RECORDED = ContainerView(
    id="c", name="main._.1.0", state="running", memory=256 << 20, memory_swap=256 << 20, cpus=0.5, pids_limit=64,
    shm_size=64 << 20, device_ids=("MIG-b", "MIG-a"),
)  # fmt: skip
DEVICES = ["MIG-a", "MIG-b"]


def test_what_is_as_granted_is_no_mismatch() -> None:
    """Equal in every value; the order of devices means nothing."""
    assert compare(GRANTED, APPLIED, RECORDED, DEVICES) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": UNLIMITED}, "memory: 256 MiB was granted, no limit is in its cgroup"),
        ({"memory": 512 << 20}, "memory: 256 MiB was granted, 512 MiB is in its cgroup"),
        ({"memory": (256 << 20) - (128 << 10)}, "memory: 256 MiB was granted"),
        ({"memory_swap": UNLIMITED}, "memory and swap: 256 MiB was granted, no limit"),
        ({"cpus": UNLIMITED}, "CPUs: 0.5 was granted, no limit"),
        ({"cpus": 1.0}, "CPUs: 0.5 was granted, 1 is"),
        ({"pids": UNLIMITED}, "processes: 64 was granted, no limit"),
        ({"pids": 65}, "processes: 64 was granted, 65 is"),
    ],
)
def test_a_limit_that_differs_in_the_cgroup_is_told(change: dict[str, float], words: str) -> None:
    """The kernel's word counts, even where the engine's record is right."""
    found = compare(GRANTED, replace(APPLIED, **change), RECORDED, DEVICES)
    assert len(found) == 1
    assert found[0].startswith(words)


def test_rounding_to_pages_and_microseconds_is_tolerated() -> None:
    """The kernel can't hold every number."""
    limits = replace(GRANTED, memory=(256 << 20) + 4095, max_cpus=Fraction(1, 3))
    applied = replace(APPLIED, cpus=0.33333)
    assert compare(limits, applied, RECORDED, DEVICES) == ()


def test_without_a_cgroup_the_engines_record_confirms() -> None:
    """A limit that can't be read is believed where the engine recorded it."""
    assert compare(GRANTED, Applied(), RECORDED, DEVICES) == ()


def test_what_neither_confirms_is_a_mismatch() -> None:
    """Unknown is not equal: without cgroup and record the limit counts as missing, each by itself."""
    found = compare(GRANTED, Applied(), ContainerView(id="c", name="n", state="running", shm_size=64 << 20), [])
    assert len(found) == 4
    assert all("no limit is in the engine's record" in text for text in found)


def test_no_limit_is_granted_as_no_limit() -> None:
    """Unlimited is a grant: a limit in its place is a mismatch."""
    limits = Limits(memory=None, memory_swap=1 << 30, max_cpus=None, pids_limit=None, shm_size=None)
    view = ContainerView(id="c", name="n", state="running", shm_size=5)
    free = Applied(memory=UNLIMITED, memory_swap=UNLIMITED, cpus=UNLIMITED, pids=UNLIMITED)
    assert compare(limits, free, view, []) == ()
    assert compare(limits, Applied(), view, []) == ()
    assert compare(limits, replace(free, pids=64), view, [])[0].startswith("processes: no limit was granted, 64")


def test_swap_without_limit_is_granted_as_such() -> None:
    """`memory_swap: null` means any amount of swap beside limited memory."""
    limits = replace(GRANTED, memory_swap=None)
    assert compare(limits, replace(APPLIED, memory_swap=UNLIMITED), RECORDED, DEVICES) == ()


def test_shared_memory_is_compared_with_the_record() -> None:
    """The size of /dev/shm is in no cgroup."""
    found = compare(replace(GRANTED, shm_size=1 << 30), APPLIED, RECORDED, DEVICES)
    assert found == ("shared memory: 1 GiB was granted, the container has 64 MiB",)


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({"device_ids": ("MIG-a",)}, DEVICES, "MIG-a, MIG-b granted, the container has MIG-a"),
        ({"device_ids": ("MIG-a", "MIG-c")}, DEVICES, "the container has MIG-a, MIG-c"),
        ({"all_devices": True}, DEVICES, "the container has all of them"),
        ({"all_devices": True, "device_ids": ()}, [], "none granted, the container has all of them"),
        ({"device_ids": ()}, DEVICES, "the container has none"),
        ({"device_ids": ("MIG-a", "MIG-a")}, ["MIG-a"], "the container has MIG-a, MIG-a"),
    ],
)
def test_devices_must_be_exactly_those_leased(change: dict[str, Any], expected: list[str], words: str) -> None:
    """Not one more, not one less, not another."""
    found = compare(GRANTED, APPLIED, replace(RECORDED, **change), expected)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max\n", UNLIMITED), ("-1\n", UNLIMITED), ("9223372036854771712\n", UNLIMITED), ("0", 0.0),
        ("268435456\n", 268435456.0), ("", None), (None, None), ("many", None), ("-5", None), ("٣", None),
    ],
)  # fmt: skip
def test_a_cgroup_number_is_a_value_no_limit_or_unknown(text: str | None, value: float | None) -> None:
    """Three different things, whatever the version of cgroups."""
    assert number(text) == value


@pytest.mark.parametrize(
    ("quota", "period", "value"),
    [
        ("50000", "100000", 0.5), ("max", "100000", UNLIMITED), ("-1", "100000", UNLIMITED), (None, "100000", None),
        ("50000", None, None), ("50000", "0", None), ("50000", "max", None),
    ],
)  # fmt: skip
def test_cpus_are_quota_over_period(quota: str | None, period: str | None, value: float | None) -> None:
    """Unknown where half of it is, never a division by nothing."""
    assert cpus(quota, period) == value


def test_memory_and_swap_add_up_where_both_are_known() -> None:
    """Version 2 has two limits where the engine means their sum."""
    assert plus(3.0, 4.0) == 7.0
    assert plus(3.0, math.inf) == math.inf
    assert plus(None, 4.0) is None
    assert plus(3.0, None) is None


@given(st.integers(1 << 20, 1 << 40), st.integers(1 << 20, 1 << 40))
def test_memory_is_confirmed_exactly_within_a_page(granted: int, got: int) -> None:
    """For every pair of sizes: a mismatch if and only if they are more than a page apart."""
    limits = Limits(memory=granted, memory_swap=granted, max_cpus=None, pids_limit=None, shm_size=None)
    applied = Applied(memory=got, memory_swap=granted, cpus=UNLIMITED, pids=UNLIMITED)
    view = ContainerView(id="c", name="n", state="running")
    assert bool(compare(limits, applied, view, [])) == (abs(granted - got) > 64 << 10)

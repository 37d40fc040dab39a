"""MIG profiles by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.mig import MigProfile, parse_profile

PARTS = st.integers(1, 999)
ATTRIBUTES = st.sampled_from(["", "+me", "-me", "+gfx", "+me.all"])
PROFILES = st.builds(MigProfile, PARTS, PARTS, ATTRIBUTES, st.none() | PARTS)


@given(PROFILES)
def test_a_profile_reads_back_from_its_own_name(profile: MigProfile) -> None:
    """Name and parts are two spellings of one thing."""
    assert parse_profile(str(profile)) == profile


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("2g.10gb", MigProfile(2, 10)),
        ("1g.5gb+me", MigProfile(1, 5, "+me")),
        ("1g.24gb-me", MigProfile(1, 24, "-me")),
        ("1g.24gb+me.all", MigProfile(1, 24, "+me.all")),
        ("1c.3g.20gb", MigProfile(3, 20, compute=1)),
        (" 7G.141GB\n", MigProfile(7, 141)),
    ],
)
def test_names_as_nvidia_prints_them(name: str, parts: MigProfile) -> None:
    """Every kind of name that NVML and nvidia-smi print is understood, with its case and blanks forgiven."""
    assert parse_profile(name) == parts


@pytest.mark.parametrize(
    "name",
    ["", "full", "2g", "0g.5gb", "1g.0gb", "1g.5", "g.5gb", "1g.5gb+", "1g.5gbx", "1g5gb", "MIG 1g.5gb", "-1g.5gb"],
)
def test_anything_else_is_refused(name: str) -> None:
    """What isn't a profile's name is an error that quotes it, never a guess."""
    with pytest.raises(ValueError, match="is not a MIG profile such as"):
        parse_profile(name)


def test_the_class_is_the_compute_slices() -> None:
    """A user asks for `3g`, whatever the memory, the attribute or the part of it."""
    assert {parse_profile(name).mig_class for name in ("3g.20gb", "3g.71gb+gfx", "1c.3g.20gb")} == {"3g"}


def test_profiles_sort_by_slices_then_memory() -> None:
    """Sorting is by size and not by spelling: 1g.10gb comes after 1g.5gb, and 2g.10gb after both."""
    names = ["7g.40gb", "1g.10gb", "2g.10gb", "1g.5gb+me", "1g.5gb"]
    assert sorted(names, key=parse_profile) == ["1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "7g.40gb"]

"""Sizes, durations and numbers: strict in, readable out."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core import units
from ds01_spawner.core.units import (
    compact_bytes,
    format_bytes,
    format_duration,
    format_fraction,
    parse_bytes,
    parse_duration,
    parse_fraction,
    parse_whole,
)

NOT_TEXT = [None, True, False, 48, 0.5, float("nan"), ["1g"], {"g": 1}]
HOSTILE = [
    "",
    " ",
    "g",
    "-1g",
    "+1g",
    "1e3g",
    "nang",
    "infg",
    "1,5g",
    "0x10g",
    "٣g",
    "1g\n2g",
    "1\u212a",
    "9" * 400 + "g",
]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32g", 32 << 30),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("100G", 100 << 30),
        ("64MiB", 64 << 20),
        ("64MB", 64 << 20),
        (" 8 gb ", 8 << 30),
        ("1t", 1 << 40),
        ("2p", 2 << 50),
        ("10b", 10),
        ("0.3k", 307),
        ("0g", 0),
    ],
)
def test_a_size_is_a_number_with_a_binary_unit(text: str, size: int) -> None:
    """Units multiply by 1024 under every spelling, as Docker's do; part of a byte is dropped."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("value", [*NOT_TEXT, *HOSTILE, "32", "1.g", ".5g", "1gg", "1 g b", "1x"])
def test_what_is_no_size_is_refused(value: object) -> None:
    """A bare number has no unit to guess; booleans, NaN and other scripts' digits are no sizes."""
    with pytest.raises(ValueError, match="needs a number and a unit such as '32g'"):
        parse_bytes(value)


def test_a_size_that_no_engine_can_hold_is_refused() -> None:
    """The engine counts in signed 64 bits."""
    with pytest.raises(ValueError, match="can't be more than 4096 PiB"):
        parse_bytes("999999999999999p")


@given(st.integers(0, units.MAX_BYTES))
def test_compact_bytes_are_exact(size: int) -> None:
    """What goes to the engine reads back to the byte."""
    assert parse_bytes(compact_bytes(size)) == size


@given(st.integers(1, 1023), st.sampled_from("kmgt"))
def test_whole_multiples_read_back_from_the_text_for_people(amount: int, unit: str) -> None:
    """`32g` shows as `32 GiB` and that is a size again."""
    size = parse_bytes(f"{amount}{unit}")
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(0, 1 << 60))
def test_the_text_for_people_is_near_and_short(size: int) -> None:
    """One decimal at most, never 1024 of a unit that has a larger one, within a twentieth of the value."""
    text = format_bytes(size)
    assert not text.startswith("1024 ") or text == "1024 PiB"
    assert abs(parse_bytes(text) - size) <= size * 0.05


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "unlimited"),
        (0, "0 B"),
        (3 << 29, "1.5 GiB"),
        ((1 << 30) - 1, "1 GiB"),
        (4 << 30, "4 GiB"),
        (1023, "1023 B"),
    ],
)
def test_how_a_size_looks(size: int | None, text: str) -> None:
    """None is unlimited; the largest unit that fits is taken after rounding."""
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("48h", 172_800.0),
        ("1h30m", 5400.0),
        ("90s", 90.0),
        ("7d", 604_800.0),
        ("1w", 604_800.0),
        ("0.5h", 1800.0),
        (" 1D 12H ", 129_600.0),
        ("0s", 0.0),
        ("0.25s", 0.25),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    """Decimals, several units and either case read; `0.5h` is half an hour."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [*NOT_TEXT, *HOSTILE, "48", "h", "1h30", "0", "unlimited", "1 hour", "1:30"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    """A bare number is an error: nobody knows 48 of what."""
    with pytest.raises(ValueError, match="needs a number and a unit"):
        parse_duration(value)


@pytest.mark.parametrize("text", ["30m1h", "1h1h", "1s1m"])
def test_units_of_a_duration_come_once_and_in_order(text: str) -> None:
    """`30m1h` is more likely a slip than a wish."""
    with pytest.raises(ValueError, match="larger ones first"):
        parse_duration(text)


def test_a_duration_of_centuries_is_refused() -> None:
    """Beyond ten years it is a mistake, and no date could be made from it."""
    with pytest.raises(ValueError, match="can't be more than 3650d"):
        parse_duration("4000d")


@given(st.integers(0, units.MAX_SECONDS))
def test_whole_seconds_read_back(seconds: int) -> None:
    """The text for people loses nothing."""
    assert parse_duration(format_duration(seconds)) == seconds


def test_how_durations_look() -> None:
    """None is unlimited, and zero is something."""
    assert [format_duration(value) for value in (None, 0.0, 5400.0, 172_800.0)] == ["unlimited", "0s", "1h30m", "2d"]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (8, Fraction(8)),
        (0.5, Fraction(1, 2)),
        (0.1, Fraction(1, 10)),
        ("1/7", Fraction(1, 7)),
        ("0.5", Fraction(1, 2)),
        (0, 0),
    ],
)
def test_numbers_are_exact(value: object, number: Fraction) -> None:
    """A tenth in the file is a tenth and not its nearest binary number."""
    assert parse_fraction(value) == number


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        "1/0",
        "-1/7",
        "1e9",
        "1/7/2",
        "a",
        "",
        "1//7",
        "0.1/7",
        [1],
    ],
)
def test_what_is_no_number_is_refused(value: object) -> None:
    """Negative, infinite, not a number, a boolean, a division by zero."""
    with pytest.raises(ValueError, match="must be a number from zero"):
        parse_fraction(value)


@given(st.fractions(0, 1000, max_denominator=10_000))
def test_numbers_read_back(number: Fraction) -> None:
    """A seventh stays `1/7`, a half is `0.5`: both give the same number again."""
    assert parse_fraction(format_fraction(number)) == number


def test_how_numbers_look() -> None:
    """None is unlimited; what decimals can't say stays a fraction."""
    values = (None, Fraction(8), Fraction(1, 2), Fraction(3, 7), Fraction(100))
    assert [format_fraction(value) for value in values] == ["unlimited", "8", "0.5", "3/7", "100"]


@pytest.mark.parametrize("value", [True, -1, 2.0, "2", None, float("nan"), [2]])
def test_a_whole_number_is_nothing_else(value: object) -> None:
    """True is not 1, and "2" is a text."""
    with pytest.raises(ValueError, match="whole number from zero"):
        parse_whole(value)


def test_whole_numbers_begin_at_zero() -> None:
    """Zero devices is a limit."""
    assert [parse_whole(value) for value in (0, 7)] == [0, 7]

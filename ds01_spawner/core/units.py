"""Sizes, durations and exact numbers: read strictly, written so that they read back.

A unit is never guessed: `48` is no duration and `32` no size. Every reader raises ValueError with a sentence that
says what would be right.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

#: Binary multiples under every spelling, as Docker counts: `32g`, `32GB` and `32GiB` are the same.
_POWERS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"
_BYTES = re.compile(rf"({_NUMBER}) ?(?:([kmgtp])(?:i?b)?|b)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}[wdhms] ?)+", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})([wdhms])", re.IGNORECASE | re.ASCII)
_FRACTION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", re.ASCII)
MAX_BYTES = 1 << 62
MAX_SECONDS = 3650 * 86_400


def parse_bytes(value: object) -> int:
    """Bytes in `32g`, `1.5g`, `64MiB`; part of a byte is dropped. Raises ValueError: no unit, no number, too large."""
    found = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a size needs a number and a unit such as '32g' or '512m'")
    multiple = 1 << 10 * _POWERS[(found[2] or "b").lower()]
    size = math.floor(Fraction(found[1]) * multiple)
    if size > MAX_BYTES:
        raise ValueError(f"a size can't be more than {format_bytes(MAX_BYTES)}")
    return size


def format_bytes(size: int | None) -> str:
    """For people: `32 GiB`, `1.5 GiB`, `unlimited` for None."""
    if size is None:
        return "unlimited"
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    # Compared after rounding, so that nothing is ever "1024 MiB".
    while power + 1 < len(units) and round(size / 1024**power, 1) >= 1024:
        power += 1
    return f"{round(size / 1024**power, 1):.1f}".removesuffix(".0") + f" {units[power]}"


def compact_bytes(size: int) -> str:
    """Exact, in the largest unit that divides it: `32g`, `1536m`, `1023b`. `parse_bytes` reads it back."""
    for unit in ("p", "t", "g", "m", "k"):
        if size and size % 1024 ** _POWERS[unit] == 0:
            return f"{size // 1024 ** _POWERS[unit]}{unit}"
    return f"{size}b"


def parse_duration(value: object) -> float:
    """Seconds in `48h`, `1h30m`, `90s`, `7d`, `1w`; larger units first. Raises ValueError, also for a bare number."""
    text = value.strip() if isinstance(value, str) else ""
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration needs a number and a unit (w, d, h, m, s) such as '48h' or '1h30m'")
    parts = [(number, unit.lower()) for number, unit in _DURATION_PART.findall(text)]
    order = [list(_SECONDS).index(unit) for _, unit in parts]
    if order != sorted(set(order)):
        raise ValueError("a duration names each unit once, larger ones first, such as '1d12h'")
    seconds = sum((Fraction(number) * _SECONDS[unit] for number, unit in parts), Fraction(0))
    if seconds > MAX_SECONDS:
        raise ValueError(f"a duration can't be more than {format_duration(MAX_SECONDS)}")
    return float(seconds)


def format_duration(seconds: float | None) -> str:
    """`2d`, `1h30m`, `0s`, `unlimited` for None; whole seconds read back by `parse_duration`."""
    if seconds is None:
        return "unlimited"
    left, text = round(seconds), ""
    for unit in ("d", "h", "m", "s"):
        amount, left = divmod(left, _SECONDS[unit])
        text += f"{amount}{unit}" if amount else ""
    return text or "0s"


def parse_fraction(value: object) -> Fraction:
    """An exact number from zero: `8`, `0.5`, `"1/7"`. Raises ValueError: negative, NaN, a boolean, other text."""
    if isinstance(value, float) and math.isfinite(value) and value >= 0:
        # The shortest text that gives this float is what stood in the file: 0.1 is a tenth.
        return Fraction(repr(value))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Fraction(value)
    if isinstance(value, str) and _FRACTION.fullmatch(value.strip()):
        return Fraction(value.strip())
    raise ValueError("this must be a number from zero such as 8, 0.5 or '1/7'")


def format_fraction(value: Fraction | None) -> str:
    """`8`, `0.5`, `1/7`, `unlimited` for None; exact, so a third stays `1/3`. `parse_fraction` reads it back."""
    if value is None:
        return "unlimited"
    decimal = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return decimal if Fraction(decimal) == value else str(value)


def parse_whole(value: object) -> int:
    """A whole number from zero, never a boolean, a text or 2.0. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("this must be a whole number from zero, without quotes")
    return value

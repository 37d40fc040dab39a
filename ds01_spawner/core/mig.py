"""MIG profiles by name: `2g.10gb`, `1g.5gb+me`, `1c.3g.20gb`.

The geometry of a board (which start slots, how wide) is read from NVML and never derived from a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PROFILE = re.compile(
    r"(?:(?P<compute>[1-9][0-9]*)c\.)?(?P<slices>[1-9][0-9]*)g\.(?P<gb>[1-9][0-9]*)gb(?P<attribute>[+-][a-z.]+)?"
)


@dataclass(frozen=True, slots=True, order=True)
class MigProfile:
    """A profile's name in its parts. Sorts by compute slices, then memory, then attribute."""

    slices: int
    memory_gb: int
    attribute: str = ""
    compute: int | None = None

    def __str__(self) -> str:
        part = f"{self.compute}c." if self.compute is not None else ""
        return f"{part}{self.slices}g.{self.memory_gb}gb{self.attribute}"

    @property
    def mig_class(self) -> str:
        """What a user asks for: `2g`."""
        return f"{self.slices}g"


def parse_profile(name: str) -> MigProfile:
    """Read a profile's name as NVML and nvidia-smi print it. Raises ValueError where it isn't one."""
    found = _PROFILE.fullmatch(name.strip().lower())
    if not found:
        raise ValueError(f"{name!r} is not a MIG profile such as '2g.10gb'")
    compute = found["compute"]
    return MigProfile(
        int(found["slices"]), int(found["gb"]), found["attribute"] or "", int(compute) if compute else None
    )

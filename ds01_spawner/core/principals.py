"""Who asks: a hub user with the groups that the authenticator knows. Identity is the hub's, never a label's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A hub user. `groups` are hub groups, which count as members of the YAML's groups of the same name."""

    name: str
    groups: tuple[str, ...] = ()
    admin: bool = False

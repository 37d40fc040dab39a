"""A configuration file's content with its lines, free of any file format: what an adapter reads and the core judges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

#: What a scalar can be once read; a `datetime` is a `date` too.
Plain = bool | int | float | str | date | datetime | None


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """One value. `text` is how the file has it (`0123`, `yes`): names are taken from that. `line` is 1-based."""

    value: Plain
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list of nodes."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, always as text, with its own line and its node."""

    key: str
    line: int
    node: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping in the file's order; keys are unique."""

    entries: tuple[Entry, ...]
    line: int


Node = ScalarNode | ListNode | MapNode


def is_null(node: Node) -> bool:
    """True for `null` and for a section that holds nothing but comments."""
    return isinstance(node, ScalarNode) and node.value is None


def shown(node: Node) -> str:
    """A node in an error message: the value as written, cut short, or what kind of thing it is."""
    if isinstance(node, ScalarNode):
        return repr(node.text if len(node.text) <= 40 else node.text[:40] + "…")
    return "a list" if isinstance(node, ListNode) else "a mapping"

"""The keys of the limits file: what each may hold, how its value is read and how it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from ds01_spawner.core import units
from ds01_spawner.core.limits import SharedFolder
from ds01_spawner.core.tree import ListNode, MapNode, Node, ScalarNode, is_null, shown

VERSION = 1
MOST_CONTAINERS = 1000
MOST_PIDS = 1 << 22
#: Docker takes no container with less.
LEAST_MEMORY = 6 << 20
LEAST_CPUS = Fraction(1, 100)
_FOLDER_KEYS = ("name", "path", "mode")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:/~-]{0,199}", re.ASCII)
#: Folders that would hand a container the host itself; what lies below /var/run and /run may be a socket.
_NEVER_SHARED = (
    *("/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys"),
    *("/var/lib/docker", "/var/lib/ds01", "/var/run"),
)


Reader = Callable[[Node], object]


class SettingError(ValueError):
    """A value that a key can't have. `line` where a part of the value is meant, not the key."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `read` gives the value or raises ValueError, `show` writes it for people, `null` is what null means."""

    read: Reader
    show: Callable[[Any], str]
    nullable: bool = True
    group_only: bool = False
    null: object = None

    def value(self, node: Node) -> object:
        """The value in a node; None is unlimited. Raises SettingError."""
        if not is_null(node):
            return self.read(node)
        if self.nullable:
            return self.null
        raise SettingError("this can't be null: leave the key out to inherit, or give a value")


def _scalar(parse: Callable[[object], Any], low: Any, high: Any, show: Callable[[Any], str]) -> Reader:
    """A reader of one value between two bounds, both included."""

    def read(node: Node) -> object:
        if not isinstance(node, ScalarNode):
            raise SettingError(f"this must be one value, not {shown(node)}")
        try:
            value = parse(node.value)
        except ValueError as error:
            raise SettingError(f"{shown(node)}: {error}") from None
        if not low <= value <= high:
            raise SettingError(f"{shown(node)}: this must be from {show(low)} to {show(high)}")
        return value

    return read


def _whole(low: int, high: int) -> Reader:
    return _scalar(units.parse_whole, low, high, str)


def _size(low: int) -> Reader:
    return _scalar(units.parse_bytes, low, units.MAX_BYTES, units.format_bytes)


def _number(low: Fraction, high: int) -> Reader:
    return _scalar(units.parse_fraction, low, Fraction(high), units.format_fraction)


def _duration(low: float) -> Reader:
    return _scalar(units.parse_duration, low, float(units.MAX_SECONDS), units.format_duration)


def _true_or_false(node: Node) -> bool:
    if isinstance(node, ScalarNode) and isinstance(node.value, bool):
        return node.value
    raise SettingError(f"this must be true or false, not {shown(node)}")


def _environments(node: Node) -> tuple[str, ...]:
    if not isinstance(node, ListNode):
        raise SettingError(f"this must be a list of environments, or null for all, not {shown(node)}")
    return tuple(text_of(item, _ENVIRONMENT, "the name of an environment") for item in node.items)


def _shared(node: Node) -> tuple[SharedFolder, ...]:
    if not isinstance(node, ListNode):
        raise SettingError(f"this must be a list of {{name, path, mode}}, not {shown(node)}")
    folders = [_folder(item) for item in node.items]
    for folder, item in zip(folders, node.items, strict=True):
        if sum(folder.name == other.name for other in folders) > 1:
            raise SettingError(f"two folders can't both be /shared/{folder.name}", item.line)
    return tuple(folders)


def _folder(node: Node) -> SharedFolder:
    if not isinstance(node, MapNode):
        raise SettingError(f"this must be {{name, path, mode}}, not {shown(node)}", node.line)
    parts: dict[str, Node] = {}
    for entry in node.entries:
        if entry.key not in _FOLDER_KEYS:
            hint = closest(entry.key, _FOLDER_KEYS)
            raise SettingError(f"unknown key {entry.key!r} in a shared folder{hint}", entry.line)
        parts[entry.key] = entry.node
    if not {"name", "path"} <= set(parts):
        raise SettingError("a shared folder needs a name and a path", node.line)
    mode = parts.get("mode")
    if mode is not None and not (isinstance(mode, ScalarNode) and mode.value in ("ro", "rw")):
        raise SettingError(f"mode: {shown(mode)} is neither ro nor rw", mode.line)
    writable = isinstance(mode, ScalarNode) and mode.value == "rw"
    return SharedFolder(text_of(parts["name"], _FOLDER, "a folder's name"), _host_path(parts["path"]), writable)


def _host_path(node: Node) -> str:
    path = node.value if isinstance(node, ScalarNode) else None
    if not isinstance(path, str) or not path.isprintable() or path != "/" + "/".join(path.strip("/").split("/")):
        raise SettingError(f"path: {shown(node)} is no absolute path such as /srv/datasets", node.line)
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise SettingError(
            f"path: {shown(node)} must be plain: without '.', '..' and '//', and not the root", node.line
        )
    if any(path == root or path.startswith(root + "/") for root in _NEVER_SHARED):
        raise SettingError(f"path: {shown(node)} belongs to the host and is never shared", node.line)
    return path


def text_of(node: Node, pattern: re.Pattern[str], what: str) -> str:
    """The text of a scalar as written, if it has this form. Raises SettingError."""
    if isinstance(node, ScalarNode) and pattern.fullmatch(node.text) and not is_null(node):
        return node.text
    raise SettingError(f"{shown(node)} is not {what}", node.line)


def _show_list(values: tuple[Any, ...] | None) -> str:
    if values is None:
        return "all"
    return ", ".join(_show_folder(v) if isinstance(v, SharedFolder) else str(v) for v in values) or "none"


def _show_folder(folder: SharedFolder) -> str:
    return f"/shared/{folder.name} from {folder.path} ({'rw' if folder.writable else 'ro'})"


def _show_plain(value: object) -> str:
    return "unlimited" if value is None else str(value).lower()


#: In the order in which they are shown; the field of the same name in `core.limits.Limits` holds the value.
KEYS: Mapping[str, Key] = {
    "max_mig_instances": Key(_whole(0, MOST_CONTAINERS), _show_plain),
    "max_gpu_equivalents": Key(_number(Fraction(0), MOST_CONTAINERS), units.format_fraction),
    "allow_full_gpu": Key(_true_or_false, _show_plain, nullable=False),
    "max_cpus": Key(_number(LEAST_CPUS, 10_000), units.format_fraction),
    "memory": Key(_size(LEAST_MEMORY), units.format_bytes),
    "memory_swap": Key(_size(LEAST_MEMORY), units.format_bytes),
    "shm_size": Key(_size(1 << 20), units.format_bytes),
    "pids_limit": Key(_whole(16, MOST_PIDS), _show_plain),
    "storage_tmp": Key(_size(1 << 20), units.format_bytes),
    "max_containers_per_user": Key(_whole(0, MOST_CONTAINERS), _show_plain),
    "idle_timeout": Key(_duration(60.0), units.format_duration),
    "max_runtime": Key(_duration(60.0), units.format_duration),
    "gpu_hold_after_stop": Key(_duration(0.0), units.format_duration),
    "priority": Key(_whole(1, 100), _show_plain, nullable=False),
    "environments": Key(_environments, _show_list),
    "share": Key(_whole(1, 1000), _show_plain, nullable=False, group_only=True),
    "shared": Key(_shared, _show_list, group_only=True, null=()),
}
#: Keys that load, since the seed's files have them, and that nothing enforces so far. `priority` as a queue weight:
#: between two groups of one user it decides already.
NOT_IN_FORCE = frozenset({"idle_timeout", "max_runtime", "gpu_hold_after_stop", "priority", "share"})


def closest(key: str, known: Iterable[str]) -> str:
    """`; did you mean 'memory'?`, or the keys that there are."""
    words = sorted(known)
    near = get_close_matches(key, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(words)}"


def read_expiry(node: Node) -> float:
    """POSIX seconds when an override ends: a time, or a date's last moment; UTC without a zone. Raises SettingError."""
    value = node.value if isinstance(node, ScalarNode) else None
    if isinstance(value, str):
        value = _from_iso(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time.max, UTC).timestamp()
    raise SettingError(f"{shown(node)} is neither a date nor a time such as 2026-07-31 or 2026-07-31T18:00:00Z")


def _from_iso(text: str) -> date | datetime | None:
    for kind in (date, datetime):
        try:
            return kind.fromisoformat(text.strip())
        except ValueError:
            continue
    return None

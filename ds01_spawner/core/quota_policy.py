"""The limits file as typed values: rules with the line of every setting, and what is wrong with the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.limits import Limits


class Severity(StrEnum):
    """`error`: the file isn't taken. `warning`: it is, but hardly meant so. `note`: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a configuration file. `line` is 1-based, None where the whole file is meant; `key` is a path."""

    severity: Severity
    message: str
    file: str = ""
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.severity.value, self.key, self.message) if part)

    def as_error(self) -> ConfigError:
        """The exception with the same content."""
        return ConfigError(self.message, file=self.file, line=self.line, key=self.key)


def in_order(findings: Iterable[Finding], file: str) -> tuple[Finding, ...]:
    """Sorted for reading: `file` first, then others (member files), each by line."""
    return tuple(sorted(findings, key=lambda f: (f.file != file, f.file, f.line or 0, f.severity, f.key)))


@dataclass(frozen=True, slots=True)
class Setting:
    """One key's value with its line; None is unlimited."""

    value: object
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """`defaults`, `groups.<name>` or `user_overrides.<name>` with what it sets; what it doesn't name is inherited."""

    name: str
    line: int | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A user named in a group, and where."""

    name: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class MemberFile:
    """A file with one user name on each line, named in a group. Relative paths count from the limits file."""

    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group with its rule and its members; those of member files are in once `with_members` ran."""

    name: str
    rule: Rule
    members: tuple[Member, ...] = ()
    member_files: tuple[MemberFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """One user's exceptions. `expires` is POSIX seconds, None for never."""

    user: str
    rule: Rule
    reason: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """The whole limits file. An empty one is valid: the built-in limits hold for everybody."""

    file: str = ""
    defaults: Rule = field(default_factory=lambda: Rule("defaults"))
    groups: tuple[Group, ...] = ()
    overrides: Mapping[str, Override] = field(default_factory=dict)
    default_group: str | None = None

    def group(self, name: str | None) -> Group | None:
        """The group of this name."""
        return next((group for group in self.groups if group.name == name), None)

    def priority(self, group: Group) -> int:
        """What decides between two groups of a user: the group's own priority, the defaults', or the built-in one."""
        for rule in (group.rule, self.defaults):
            if (setting := rule.settings.get("priority")) and isinstance(setting.value, int):
                return setting.value
        return Limits().priority

    def groups_of(self, user: str, hub_groups: Iterable[str] = ()) -> tuple[Group, ...]:
        """The user's groups, in file order: named in the file or a member file, or a hub group of the same name."""
        known = set(hub_groups)
        return tuple(g for g in self.groups if g.name in known or any(member.name == user for member in g.members))

    def best(self, groups: Iterable[Group]) -> Group | None:
        """The group that counts: highest priority, among equals the first in the file; of none, the default group."""
        return max(groups, key=self.priority, default=self.group(self.default_group))


def with_members(policy: QuotaPolicy, contents: Mapping[str, str]) -> tuple[QuotaPolicy, tuple[Finding, ...]]:
    """The policy with the members of its member files; `contents` is each file's text by the path in the policy."""
    findings: list[Finding] = []
    groups = []
    for group in policy.groups:
        members = list(group.members)
        for file in group.member_files:
            found, problems = _read_members(contents.get(file.path, ""), file.path)
            members += found
            findings += problems
        groups.append(replace(group, members=tuple(members)))
    return replace(policy, groups=tuple(groups)), tuple(findings)


def _read_members(text: str, file: str) -> tuple[list[Member], list[Finding]]:
    members, findings = [], []
    for line, content in enumerate(text.split("\n"), 1):
        name = content.partition("#")[0].strip()
        if name and (problem := user_name_problem(name)):
            findings.append(Finding(Severity.ERROR, problem, file, line))
        elif name:
            members.append(Member(name, file, line))
    return members, findings


def user_name_problem(name: str) -> str:
    """Why this can't be a hub user's name; empty where it can."""
    if not name or len(name) > 255:
        return "a user name has 1 to 255 characters"
    if not name.isprintable() or any(char.isspace() or char in ",/" for char in name):
        return f"{name[:40]!a} is no user name: one name, without spaces, commas and slashes"
    return ""

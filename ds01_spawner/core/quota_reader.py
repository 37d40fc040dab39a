"""From a positioned tree to a policy: strict, and with every finding at once, each with its path and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ds01_spawner.core.quota_policy import (
    Finding,
    Group,
    Member,
    MemberFile,
    Override,
    QuotaPolicy,
    Rule,
    Setting,
    Severity,
    in_order,
    user_name_problem,
)
from ds01_spawner.core.quota_schema import KEYS, VERSION, SettingError, closest, read_expiry
from ds01_spawner.core.tree import Entry, ListNode, MapNode, Node, ScalarNode, is_null, shown
from ds01_spawner.core.units import format_bytes

SECTIONS = ("version", "defaults", "default_group", "groups", "user_overrides")
_DEFAULTS = tuple(key for key, spec in KEYS.items() if not spec.group_only)
_GROUP = (*KEYS, "members", "members_file")
_OVERRIDE = (*_DEFAULTS, "reason", "expires")


def parse(tree: Node | None, *, file: str = "") -> QuotaPolicy:
    """The policy in a tree (None: an empty file). Raises ConfigError for the first thing that is wrong."""
    policy, findings = read(tree, file=file)
    for finding in findings:
        raise finding.as_error()
    return policy


def read(tree: Node | None, *, file: str = "") -> tuple[QuotaPolicy, tuple[Finding, ...]]:
    """The policy with what could be read of it, and everything that is wrong, by line. Taken only without findings."""
    reader = _Reader(file)
    policy = reader.policy(tree)
    return policy, in_order(reader.findings, file)


@dataclass(slots=True)
class _Reader:
    """Collects what is wrong while it reads."""

    file: str
    findings: list[Finding] = field(default_factory=list)

    def wrong(self, message: str, line: int, key: str = "") -> None:
        self.findings.append(Finding(Severity.ERROR, message, self.file, line, key))

    def policy(self, tree: Node | None) -> QuotaPolicy:
        sections: dict[str, Entry] = {}
        for entry in self.entries(tree, "", 1):
            if entry.key in SECTIONS:
                sections[entry.key] = entry
            else:
                self.wrong(_unknown(entry.key, SECTIONS), entry.line, entry.key)
        self.version(sections.get("version"))
        groups = tuple(self.group(entry) for entry in self.section(sections, "groups"))
        overrides = [self.override(entry) for entry in self.section(sections, "user_overrides")]
        return QuotaPolicy(
            self.file,
            self.rule("defaults", self.line(sections, "defaults"), self.section(sections, "defaults"), _DEFAULTS),
            groups,
            {override.user: override for override in overrides},
            self.default_group(sections.get("default_group"), groups),
        )

    def line(self, sections: Mapping[str, Entry], name: str) -> int | None:
        return sections[name].line if name in sections else None

    def section(self, sections: Mapping[str, Entry], name: str) -> tuple[Entry, ...]:
        entry = sections.get(name)
        return self.entries(entry.node, name, entry.line) if entry else ()

    def entries(self, node: Node | None, path: str, line: int) -> tuple[Entry, ...]:
        """A mapping's entries; nothing for null, which is what a section of comments is."""
        if node is None or is_null(node):
            return ()
        if isinstance(node, MapNode):
            return node.entries
        self.wrong(f"this must hold keys with values, not {shown(node)}", line, path)
        return ()

    def version(self, entry: Entry | None) -> None:
        if entry is None:
            return
        value = entry.node.value if isinstance(entry.node, ScalarNode) else None
        if value != VERSION or isinstance(value, bool):
            self.wrong(f"{shown(entry.node)} is unknown here; this is version {VERSION}", entry.line, "version")

    def default_group(self, entry: Entry | None, groups: tuple[Group, ...]) -> str | None:
        if entry is None or is_null(entry.node):
            return None
        name = entry.node.text if isinstance(entry.node, ScalarNode) else ""
        if name in (known := [group.name for group in groups]):
            return name
        hint = closest(name, known) if known else ""
        self.wrong(f"there is no group {shown(entry.node)}{hint}", entry.line, "default_group")
        return None

    def group(self, entry: Entry) -> Group:
        path = f"groups.{entry.key}"
        if not entry.key.strip() or not entry.key.isprintable():
            self.wrong(f"{entry.key[:40]!a} is no group name", entry.line, "groups")
        entries = self.entries(entry.node, path, entry.line)
        own = {inner.key: inner for inner in entries if inner.key in ("members", "members_file")}
        rule = self.rule(path, entry.line, tuple(e for e in entries if e.key not in own), _GROUP)
        members = [self.member(node, f"{path}.members") for node in self.items(own.get("members"), path)]
        files = self.items(own.get("members_file"), path, one=True)
        return Group(
            entry.key,
            rule,
            tuple(member for member in members if member),
            tuple(file for node in files if (file := self.member_file(node, f"{path}.members_file"))),
        )

    def items(self, entry: Entry | None, path: str, *, one: bool = False) -> tuple[Node, ...]:
        """A list's nodes; nothing for null; a single value where `one` allows it."""
        if entry is None or is_null(entry.node):
            return ()
        if isinstance(entry.node, ListNode):
            return entry.node.items
        if one and isinstance(entry.node, ScalarNode):
            return (entry.node,)
        self.wrong(f"this must be a list, not {shown(entry.node)}", entry.line, f"{path}.{entry.key}")
        return ()

    def member(self, node: Node, path: str) -> Member | None:
        # As written: the users 12345, 0042 and yes are names, whatever YAML makes of them.
        name = node.text if isinstance(node, ScalarNode) and not is_null(node) else ""
        if problem := user_name_problem(name):
            self.wrong(f"{shown(node)}: {problem}", node.line, path)
            return None
        return Member(name, self.file, node.line)

    def member_file(self, node: Node, path: str) -> MemberFile | None:
        path_text = node.value if isinstance(node, ScalarNode) else None
        if isinstance(path_text, str) and path_text.strip() and path_text.isprintable():
            return MemberFile(path_text, node.line)
        self.wrong(f"{shown(node)} is no path of a file with one user name on each line", node.line, path)
        return None

    def override(self, entry: Entry) -> Override:
        path = f"user_overrides.{entry.key}"
        if problem := user_name_problem(entry.key):
            self.wrong(problem, entry.line, "user_overrides")
        entries = self.entries(entry.node, path, entry.line)
        own = {inner.key: inner for inner in entries if inner.key in ("reason", "expires")}
        rule = self.rule(path, entry.line, tuple(e for e in entries if e.key not in own), _OVERRIDE)
        reason = self.reason(own.get("reason"), entry, path)
        return Override(entry.key, rule, reason, self.expires(own.get("expires"), path))

    def reason(self, entry: Entry | None, override: Entry, path: str) -> str:
        if entry is None:
            self.wrong("an override needs a `reason`: who allowed it and why", override.line, path)
            return ""
        text = entry.node.text.strip() if isinstance(entry.node, ScalarNode) and not is_null(entry.node) else ""
        if not text or len(text) > 500:
            self.wrong("this must be 1 to 500 characters: who allowed it and why", entry.line, f"{path}.reason")
        return text

    def expires(self, entry: Entry | None, path: str) -> float | None:
        if entry is None or is_null(entry.node):
            return None
        try:
            return read_expiry(entry.node)
        except SettingError as error:
            self.wrong(str(error), entry.line, f"{path}.expires")
            return None

    def rule(self, name: str, line: int | None, entries: tuple[Entry, ...], known: tuple[str, ...]) -> Rule:
        settings: dict[str, Setting] = {}
        for entry in entries:
            if entry.key not in known:
                self.wrong(_unknown(entry.key, known), entry.line, f"{name}.{entry.key}")
                continue
            try:
                settings[entry.key] = Setting(KEYS[entry.key].value(entry.node), entry.line)
            except ValueError as error:
                at = error.line if isinstance(error, SettingError) and error.line else entry.line
                self.wrong(str(error), at, f"{name}.{entry.key}")
        self.contradictions(name, settings)
        return Rule(name, line, settings)

    def contradictions(self, name: str, settings: Mapping[str, Setting]) -> None:
        """What can't hold together within one rule. Between rules the higher one decides, see `core.quota`."""
        memory, swap, shm = (settings.get(key) for key in ("memory", "memory_swap", "shm_size"))
        if memory and swap and _more(memory, swap):
            self.wrong(
                f"memory_swap is memory and swap together: {_bytes(swap)} is less than memory, {_bytes(memory)} "
                f"(line {memory.line}). Leave it out for no swap",
                swap.line, f"{name}.memory_swap",
            )  # fmt: skip
        if memory and shm and shm.value is not None and _more(shm, memory):
            self.wrong(
                f"shared memory counts as memory: {_bytes(shm)} is more than memory, {_bytes(memory)} "
                f"(line {memory.line})",
                shm.line, f"{name}.shm_size",
            )  # fmt: skip


def _unknown(key: str, known: tuple[str, ...]) -> str:
    places = (("defaults, a group or an override", _DEFAULTS), ("a group", _GROUP), ("an override", _OVERRIDE))
    for where, keys in (*places, ("the top level of the file", SECTIONS)):
        if key in keys:
            return f"this key belongs in {where}"
    return f"unknown key{closest(key, known)}"


def _more(one: Setting, other: Setting) -> bool:
    """One size is more than another; unlimited is more than any and no more than itself."""
    if other.value is None or one.value is None:
        return one.value is None and other.value is not None
    return isinstance(one.value, int) and isinstance(other.value, int) and one.value > other.value


def _bytes(setting: Setting) -> str:
    return format_bytes(setting.value if isinstance(setting.value, int) else None)

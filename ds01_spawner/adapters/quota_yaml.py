"""The limits file on disk: YAML and member files in, a checked policy out, the last good one kept.

YAML is read as plain data only: no tag makes an object, no key stands twice, no alias multiplies. What its version 1.1
reads out of `010` or `1:30` nobody means, so these stay text. Everything that PyYAML raises becomes a ConfigError here.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import yaml

from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.quota import QuotaPolicy, read, with_members
from ds01_spawner.core.quota_policy import Finding, Severity, in_order
from ds01_spawner.core.tree import Entry, ListNode, MapNode, Node, Plain, ScalarNode

MAX_BYTES = 512 * 1024
#: Nodes after every alias is followed: some thousand users, and the end of a bomb.
MAX_NODES = 50_000
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "timestamp")}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
#: Relative paths in the install's settings count from here.
CHECKOUT = Path(__file__).resolve().parents[2]
log = logging.getLogger(__name__)


def default_file(environ: Mapping[str, str]) -> Path:
    """The limits file of this install: DS01_RESOURCE_LIMITS or config/resource-limits.yaml, from the checkout."""
    return CHECKOUT / (environ.get("DS01_RESOURCE_LIMITS", "").strip() or "config/resource-limits.yaml")


def read_tree(text: str, file: str) -> Node | None:
    """The content of a YAML text with its lines, None where it is empty. Raises ConfigError."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Converter(loader, file).node(node, 1)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"the character {chr(error.character)!a} is not allowed", file=file, line=line) from None
    except RecursionError:
        raise ConfigError("nested too deeply", file=file) from None


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    lines = text.split("\n")
    if mark and mark.line < len(lines) and re.match(r" *\t", lines[mark.line]):
        return ConfigError("a tab: YAML is indented with spaces", file=file, line=line)
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return ConfigError(f"this is not YAML: {said}", file=file, line=line)


@dataclass(slots=True)
class _Converter:
    """PyYAML's nodes as ours. Raises ConfigError for whatever isn't plain data of sensible size."""

    loader: yaml.SafeLoader
    file: str
    nodes: int = 0

    def wrong(self, message: str, node: yaml.Node) -> ConfigError:
        return ConfigError(message, file=self.file, line=node.start_mark.line + 1)

    def node(self, node: yaml.Node, depth: int) -> Node:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise self.wrong("too large or too deep once its aliases (*name) are followed", node)
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return ScalarNode(self.scalar(node), node.value, line)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return ListNode(tuple(self.node(item, depth + 1) for item in node.value), line)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return MapNode(self.entries(node, depth), line)
        raise self.wrong(f"the tag {node.tag.replace(_TAG, '!!')} is not allowed: plain values only", node)

    def entries(self, node: yaml.MappingNode, depth: int) -> tuple[Entry, ...]:
        found: dict[str, Entry] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                raise self.wrong("merge keys (<<) are not supported: defaults and groups inherit already", key)
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _SCALARS or key.tag == _TAG + "null":
                raise self.wrong("a key must be one word", key)
            if first := found.get(key.value):
                raise self.wrong(f"the key {key.value!r} is here twice, first in line {first.line}", key)
            found[key.value] = Entry(key.value, key.start_mark.line + 1, self.node(value, depth + 1))
        return tuple(found.values())

    def scalar(self, node: yaml.ScalarNode) -> Plain:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        if (kind == "int" and not _DECIMAL.fullmatch(text)) or (kind == "float" and ":" in text):
            return text
        try:
            return cast(Plain, self.loader.construct_object(node))
        except (ValueError, OverflowError, KeyError, AttributeError):
            raise self.wrong(f"{text[:40]!r} is not a valid {kind}", node) from None


@dataclass(slots=True)
class _Files:
    """Reads files and remembers what each held, None for one that couldn't be read."""

    seen: dict[Path, bytes | None] = field(default_factory=dict)

    def text(self, path: Path) -> str:
        """The text of a file. Raises ConfigError."""
        self.seen[path] = None
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"can't be read: {error.strerror or error}", file=str(path)) from None
        self.seen[path] = content
        if len(content) > MAX_BYTES:
            raise ConfigError(f"more than {MAX_BYTES // 1024} KiB is not read", file=str(path))
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError("this is not UTF-8", file=str(path), line=line) from None

    def changed(self) -> bool:
        """Whether any of them holds something else now. By content: two edits within a clock tick differ as well."""
        return any(_content(path) != content for path, content in self.seen.items())


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return None


def inspect(path: Path) -> tuple[QuotaPolicy | None, tuple[Finding, ...]]:
    """The policy of a file as far as it can be read, None where it isn't YAML, and everything that is wrong with it."""
    return _inspect(path, _Files())


def load(path: Path) -> QuotaPolicy:
    """The policy of a file with its member files. Raises ConfigError for the first thing that is wrong."""
    return _load(path, _Files())


def _load(path: Path, files: _Files) -> QuotaPolicy:
    policy, findings = _inspect(path, files)
    for finding in findings:
        raise finding.as_error()
    assert policy is not None
    return policy


def _inspect(path: Path, files: _Files) -> tuple[QuotaPolicy | None, tuple[Finding, ...]]:
    name = str(path)
    try:
        tree = read_tree(files.text(path), name)
    except ConfigError as error:
        return None, (Finding(Severity.ERROR, error.message, error.file, error.line, error.key),)
    policy, findings = read(tree, file=name)
    policy = _located(policy, path.parent)
    contents: dict[str, str] = {}
    problems: list[Finding] = []
    for group in policy.groups:
        for file in group.member_files:
            try:
                contents[file.path] = files.text(Path(file.path))
            except ConfigError as error:
                key = f"{group.rule.name}.members_file"
                problems.append(Finding(Severity.ERROR, f"{error.file} {error.message}", name, file.line, key))
    policy, in_members = with_members(policy, contents)
    return policy, in_order((*findings, *problems, *in_members), name)


def _located(policy: QuotaPolicy, folder: Path) -> QuotaPolicy:
    """The policy with the member files' paths as they are opened, so that every message names a file to be found."""
    groups = (
        replace(group, member_files=tuple(replace(file, path=str(folder / file.path)) for file in group.member_files))
        for group in policy.groups
    )
    return replace(policy, groups=tuple(groups))


class QuotaFile:
    """A limits file that may be edited at any time: each look reads it again, a broken edit changes nothing.

    For any thread; a look blocks on the disk, so the hub calls it in a worker. Making one raises ConfigError where the
    file is broken from the start.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._files = _Files()
        self._policy = _load(self._path, self._files)
        self._problem: ConfigError | None = None

    @property
    def policy(self) -> QuotaPolicy:
        """The policy in force: the file's as it is now, or the last good one."""
        return self.snapshot()[0]

    @property
    def problem(self) -> ConfigError | None:
        """Why the file as it is now is not in force; None where it is."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[QuotaPolicy, ConfigError | None]:
        """Policy and problem of one look. Never raises."""
        with self._lock:
            if self._files.changed():
                self._reload()
            return self._policy, self._problem

    def _reload(self) -> None:
        files = _Files()
        try:
            policy = _load(self._path, files)
        except ConfigError as error:
            self._problem = error
            log.error("The limits file is broken, the last good one stays in force: %s", error)
        else:
            self._policy, self._problem = policy, None
            log.info("The limits file %s was read anew", self._path)
        self._files = files

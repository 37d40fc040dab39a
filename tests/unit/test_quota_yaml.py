"""The limits file on disk: hostile YAML, member files, edits while the hub runs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.adapters.quota_yaml import CHECKOUT, MAX_BYTES, QuotaFile, default_file, inspect, load, read_tree
from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.quota import QuotaPolicy
from ds01_spawner.core.tree import MapNode, ScalarNode

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good limits file."""
    path = tmp_path / "limits.yaml"
    path.write_text("defaults: {max_cpus: 2}\n")
    return path


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("defaults:\n\tmemory: 4g", 2, "a tab: YAML is indented with spaces"),
        ("defaults:\n  memory: 4g\n  \tmax_cpus: 2", 3, "a tab"),
        ("defaults: {}\ngroups: {}\ndefaults: {}", 3, "the key 'defaults' is here twice, first in line 1"),
        ("defaults:\n  memory: 4g\n  memory: 8g", 3, "the key 'memory' is here twice, first in line 2"),
        (
            "defaults:\n  memory: !!python/object/apply:os.system [id]",
            2,
            "the tag !!python/object/apply:os.system is not",
        ),
        ("defaults: !!python/object:builtins.dict {}", 1, "the tag !!python/object:builtins.dict is not allowed"),
        ("defaults: !mine {}", 1, "the tag !mine is not allowed"),
        ("defaults: {memory: !!binary aGk=}", 1, "the tag !!binary is not allowed"),
        ("groups: {g: {members: !!set {a}}}", 1, "the tag !!set is not allowed"),
        (BOMB, 1, "once its aliases (*name) are followed"),
        ("a: &a [*a]", 1, "once its aliases (*name) are followed"),
        ("a: *nowhere", 1, "this is not YAML: found undefined alias 'nowhere'"),
        ("a: &a {b: 1}\nc:\n  <<: *a", 3, "merge keys (<<) are not supported"),
        ("? [a, b]\n: c", 1, "a key must be one word"),
        ("~: c", 1, "a key must be one word"),
        ("defaults: {}\n---\ngroups: {}", 2, "this is not YAML: expected a single document"),
        ("a: [1, 2", 1, "this is not YAML"),
        ("a: b: c", 1, "this is not YAML: mapping values are not allowed here"),
        ("ok: 1\na: \x07", 2, "the character '\\x07' is not allowed"),
        ("user_overrides: {a: {expires: 2026-13-45}}", 1, "'2026-13-45' is not a valid timestamp"),
        ("a: !!float x", 1, "'x' is not a valid float"),
        ("a: !!bool perhaps", 1, "'perhaps' is not a valid bool"),
        ("a: !!timestamp soon", 1, "'soon' is not a valid timestamp"),
    ],
)
def test_hostile_yaml_is_an_error_with_its_line(text: str, line: int, message: str) -> None:
    """No tabs, no second key of a name, no objects, no bombs, no merge keys, one document."""
    with pytest.raises(ConfigError) as raised:
        read_tree(text, "limits.yaml")
    assert (raised.value.file, raised.value.line) == ("limits.yaml", line)
    assert message in raised.value.message


def test_no_object_is_ever_made(tmp_path: Path) -> None:
    """What a tag asks for doesn't happen."""
    witness = tmp_path / "made"
    with pytest.raises(ConfigError):
        read_tree(f"a: !!python/object/apply:os.mkdir ['{witness}']", "f")
    assert not witness.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5_000, "- " * 20_000, "a: " + "[" * 21 + "]" * 21])
def test_deep_nesting_is_refused(text: str) -> None:
    """Neither PyYAML's recursion nor ours brings the hub down."""
    with pytest.raises(ConfigError, match=r"nested too deeply|too large or too deep|not YAML"):
        read_tree(text, "f")


def test_what_yaml_1_1_makes_of_numbers_that_nobody_means_stays_text() -> None:
    """`010` is not 8, `1:30` is not 90, and neither is a hexadecimal number one."""
    tree = read_tree(
        "{a: 010, b: '1:30', c: 1:30, d: 0x10, e: 1:30.5, f: 8, g: 1_000, h: -3, i: 0.5, j: !!int twelve}", "f"
    )
    assert isinstance(tree, MapNode)
    values = [entry.node.value for entry in tree.entries if isinstance(entry.node, ScalarNode)]
    assert values == ["010", "1:30", "1:30", "0x10", "1:30.5", 8, 1000, -3, 0.5, "twelve"]


def test_an_alias_is_read_where_it_is_harmless() -> None:
    """Anchors are a convenience of YAML; the key's own line counts."""
    tree = read_tree("a: &x 4g\nb: *x", "f")
    assert isinstance(tree, MapNode)
    assert [(entry.key, entry.line) for entry in tree.entries] == [("a", 1), ("b", 2)]
    assert tree.entries[1].node == tree.entries[0].node


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a ConfigError ever comes out of a broken file."""
    try:
        read_tree(text, "f")
    except ConfigError as error:
        assert error.file == "f"


@given(st.text("{}[]:,-&*!'\"#|>%@ \t\na1<~?", max_size=40))
def test_any_punctuation_is_read_or_refused(text: str) -> None:
    """Nor out of a file that is full of YAML's own signs."""
    try:
        read_tree(text, "f")
    except ConfigError as error:
        assert error.file == "f"


@pytest.mark.parametrize(
    "content", [b"", b"# only a comment\n", b"groups:\n", b"\xef\xbb\xbfdefaults: {max_cpus: 2}\r\n"]
)
def test_files_that_set_nothing_load(file: Path, content: bytes) -> None:
    """Empty, comments only, `groups:` null; a byte order mark and Windows' line ends are no reason to fail."""
    file.write_bytes(content)
    assert isinstance(load(file), QuotaPolicy)


def test_files_that_cant_be_read(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, too large: each with its path, and the line where there is one."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    cases = {
        tmp_path / "none.yaml": (None, "can't be read: No such file or directory"),
        tmp_path: (None, "can't be read: Is a directory"),
        latin: (2, "this is not UTF-8"),
        large: (None, "more than 512 KiB is not read"),
    }
    for path, expected in cases.items():
        with pytest.raises(ConfigError) as raised:
            load(path)
        assert raised.value.file == str(path)
        assert (raised.value.line, raised.value.message) == expected


def test_member_files_count_from_the_limits_file(tmp_path: Path) -> None:
    """Wherever the hub was started; an absolute path works too."""
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups/s.members").write_text("ana\n")
    (tmp_path / "r.members").write_text("ben\n")
    limits = tmp_path / "limits.yaml"
    limits.write_text(
        f"groups: {{s: {{members_file: groups/s.members}}, r: {{members_file: ['{tmp_path}/r.members']}}}}"
    )
    assert [[member.name for member in group.members] for group in load(limits).groups] == [["ana"], ["ben"]]


def test_a_missing_member_file_is_an_error_at_the_line_that_names_it(tmp_path: Path) -> None:
    """Otherwise researchers silently become students."""
    limits = tmp_path / "limits.yaml"
    limits.write_text("groups:\n  s:\n    members_file: gone.members\n")
    with pytest.raises(ConfigError) as raised:
        load(limits)
    assert (raised.value.file, raised.value.line, raised.value.key) == (str(limits), 3, "groups.s.members_file")
    assert raised.value.message == f"{tmp_path}/gone.members can't be read: No such file or directory"


def test_a_wrong_name_in_a_member_file_is_an_error_there(tmp_path: Path) -> None:
    """The file and line of the name, not of the group."""
    (tmp_path / "s.members").write_text("ana\nben carla\n")
    limits = tmp_path / "limits.yaml"
    limits.write_text("groups: {s: {members_file: s.members}}")
    policy, [finding] = inspect(limits)
    assert policy is not None
    assert (finding.file, finding.line) == (str(tmp_path / "s.members"), 2)


def test_an_edit_counts_at_the_next_look(file: Path) -> None:
    """Without a restart; a look without an edit gives the same object."""
    limits = QuotaFile(file)
    before = limits.policy
    assert limits.policy is before
    file.write_text("defaults: {max_cpus: 9}\n")
    assert limits.policy.defaults.settings["max_cpus"].value == 9


def test_an_edit_that_no_time_stamp_shows_counts_too(file: Path) -> None:
    """Same size, same inode, same times: a fast edit on a coarse clock is an edit."""
    limits = QuotaFile(file)
    stat = file.stat()
    file.write_text(file.read_text().replace("2", "3"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert limits.policy.defaults.settings["max_cpus"].value == 3


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the adapter logs."""
    with caplog.at_level(logging.INFO, logger="ds01_spawner.adapters.quota_yaml"):
        yield caplog


def test_a_broken_edit_keeps_the_last_good_file(file: Path, logged: pytest.LogCaptureFixture) -> None:
    """It is told with its line, logged once for each change and not at each look, and over when it is repaired."""
    limits = QuotaFile(file)
    good = limits.policy
    file.write_text("version: 1\ndefaults: {max_cpu: 9}\n")
    for _ in range(3):
        policy, problem = limits.snapshot()
        assert policy is good
        assert problem is not None
        assert (problem.file, problem.line, problem.key) == (str(file), 2, "defaults.max_cpu")
    file.write_text("defaults:\n\tx")
    assert (limits.policy, str(limits.problem)) == (good, f"{file}:2: a tab: YAML is indented with spaces")
    file.unlink()
    assert limits.policy is good
    assert "No such file" in str(limits.problem)
    assert [(record.levelname, "stays in force" in record.message) for record in logged.records] == [
        ("ERROR", True)
    ] * 3
    file.write_text("defaults: {max_cpus: 5}\n")
    assert limits.problem is None
    assert limits.policy.defaults.settings["max_cpus"].value == 5
    assert logged.records[-1].levelname == "INFO"
    assert len(logged.records) == 4


def test_member_files_are_watched_as_well(tmp_path: Path) -> None:
    """Also one that was missing and comes back."""
    members = tmp_path / "s.members"
    members.write_text("ana\n")
    path = tmp_path / "limits.yaml"
    path.write_text("groups: {s: {members_file: s.members}}")
    limits = QuotaFile(path)
    members.write_text("ana\nben\n")
    assert [member.name for member in limits.policy.groups[0].members] == ["ana", "ben"]
    members.unlink()
    assert [member.name for member in limits.policy.groups[0].members] == ["ana", "ben"]
    assert limits.problem is not None
    members.write_text("carla\n")
    assert [member.name for member in limits.policy.groups[0].members] == ["carla"]
    assert limits.problem is None


def test_a_file_that_was_never_good_is_refused(file: Path) -> None:
    """There is nothing to keep in force: the hub must not start with limits that nobody wrote."""
    file.write_text("defaults: 7\n")
    with pytest.raises(ConfigError, match="this must hold keys with values"):
        QuotaFile(file)


def test_looks_from_many_threads_see_whole_policies(file: Path) -> None:
    """Policy and problem of one look belong together, while another thread edits."""
    limits = QuotaFile(file)
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            policy, problem = limits.snapshot()
            if policy.defaults.settings["max_cpus"].value not in (2, 3) or (problem and problem.line != 1):
                wrong.append((policy, problem))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for text in ["defaults: {max_cpus: 3}\n", "defaults: {max_cpus: x}\n", "defaults: {max_cpus: 2}\n"] * 10:
        new = file.with_suffix(".new")
        new.write_text(text)
        new.replace(file)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert limits.snapshot()[1] is None


def test_which_file_is_in_force() -> None:
    """The setting, from the checkout where it is relative; otherwise the checkout's own."""
    assert default_file({}) == CHECKOUT / "config/resource-limits.yaml"
    assert default_file({"DS01_RESOURCE_LIMITS": " "}) == CHECKOUT / "config/resource-limits.yaml"
    assert default_file({"DS01_RESOURCE_LIMITS": "x.yaml"}) == CHECKOUT / "x.yaml"
    assert default_file({"DS01_RESOURCE_LIMITS": "/etc/x.yaml"}) == Path("/etc/x.yaml")


@pytest.mark.parametrize("name", ["config/resource-limits.yaml", "config/simulated/resource-limits.yaml"])
def test_the_shipped_files_load(name: str) -> None:
    """A newcomer's first file is no broken one."""
    _, found = inspect(CHECKOUT / name)
    assert found == ()

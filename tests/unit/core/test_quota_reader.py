"""What the limits file may not say: every error has its path and its line."""

from __future__ import annotations

import pytest

from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.limits import SharedFolder
from ds01_spawner.core.quota_schema import KEYS
from tests.unit.core.trees import policy_of, problems_of


def override(settings: str) -> str:
    """An override of ana's with a reason and these settings."""
    return f"user_overrides: {{ana: {{reason: asked for, {settings}}}}}"


@pytest.mark.parametrize(
    "text",
    ["", "# nothing but a comment\n", "---\n", "groups:\n", "groups: null", "defaults:\n  # memory: 4g\n", "version: 1",
     "groups:\n  students:\n", "groups: {students: {members: null, members_file: null}}", "user_overrides: ~",
     "default_group: null"],
)  # fmt: skip
def test_what_is_left_empty_loads(text: str) -> None:
    """A section of comments is null to YAML, and means that nothing is set."""
    policy = policy_of(text)
    assert dict(policy.defaults.settings) == {}
    assert policy.default_group is None


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("defaults:\n  memroy: 4g", 2, "defaults.memroy", "unknown key; did you mean 'memory'?"),
        ("defaults:\n  gpu_memory: 4g", 2, "defaults.gpu_memory", "unknown key; "),
        ("defaults:\n  xyzzy: 4g", 2, "defaults.xyzzy", "known here: allow_full_gpu, environments, gpu_hold"),
        ("policies: {}", 1, "policies", "unknown key; known here: default_group, defaults, groups"),
        ("default: {}", 1, "default", "did you mean 'defaults'?"),
        ("memory: 4g", 1, "memory", "this key belongs in defaults, a group or an override"),
        ("defaults: {members: [a]}", 1, "defaults.members", "this key belongs in a group"),
        ("defaults: {share: 2}", 1, "defaults.share", "this key belongs in a group"),
        ("groups: {g: {reason: x}}", 1, "groups.g.reason", "this key belongs in an override"),
        ("groups: {g: {default_group: x}}", 1, "groups.g.default_group", "belongs in the top level of the file"),
        ("[a, b]", 1, "", "this must hold keys with values, not a list"),
        ("nonsense", 1, "", "this must hold keys with values, not 'nonsense'"),
        ("\n\ngroups: [students]", 3, "groups", "this must hold keys with values, not a list"),
        ("groups: {g: 4}", 1, "groups.g", "this must hold keys with values, not '4'"),
        ("version: 2", 1, "version", "'2' is unknown here; this is version 1"),
        ("version: true", 1, "version", "'true' is unknown here"),
        ("version: [1]", 1, "version", "a list is unknown here"),
        ("default_group: student\ngroups: {students: {}}", 1, "default_group", "did you mean 'students'?"),
        ("default_group: students", 1, "default_group", "there is no group 'students'"),
        ("default_group: [a]\ngroups: {a: {}}", 1, "default_group", "there is no group a list"),
        ('groups: {" ": {}}', 1, "groups", "' ' is no group name"),
        ('groups: {"a\\x07": {}}', 1, "groups", "'a\\x07' is no group name"),
        ("groups: {g: {members: ana}}", 1, "groups.g.members", "this must be a list, not 'ana'"),
        ("groups:\n  g:\n    members:\n      - ana\n      - [x]", 5, "groups.g.members", "a list: a user name has 1"),
        ("groups: {g: {members: [~]}}", 1, "groups.g.members", "'~': a user name has 1 to 255"),
        ("groups: {g: {members: ['a b']}}", 1, "groups.g.members", "is no user name"),
        ("groups: {g: {members: [a/b]}}", 1, "groups.g.members", "is no user name"),
        ('groups: {g: {members: ["\\u200b"]}}', 1, "groups.g.members", "'\\u200b' is no user name"),
        ("groups: {g: {members_file: {a: b}}}", 1, "groups.g.members_file", "this must be a list, not a mapping"),
        ("groups: {g: {members_file: [7]}}", 1, "groups.g.members_file", "'7' is no path of a file"),
        ("user_overrides: {ana: {memory: 4g}}", 1, "user_overrides.ana", "an override needs a `reason`"),
        ("user_overrides: {ana: {reason: }}", 1, "user_overrides.ana.reason", "1 to 500 characters"),
        ("user_overrides: {ana: {reason: [a]}}", 1, "user_overrides.ana.reason", "1 to 500 characters"),
        ("user_overrides: {ana: }", 1, "user_overrides.ana", "needs a `reason`"),
        ("user_overrides: {'a b': {reason: asked for}}", 1, "user_overrides", "is no user name"),
        (override("expires: soon"), 1, "user_overrides.ana.expires", "'soon' is neither a date"),
        (override("expires: [1]"), 1, "user_overrides.ana.expires", "a list is neither a date"),
        (override("share: 2"), 1, "user_overrides.ana.share", "this key belongs in a group"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_path_and_line(text: str, line: int, key: str, message: str) -> None:
    """Nothing is accepted and ignored; the nearest key is suggested, or the section that it belongs in."""
    [(found_line, found_key, found)] = problems_of(text)
    assert (found_line, found_key) == (line, key)
    assert message in found
    with pytest.raises(ConfigError) as raised:
        policy_of(text)
    assert (raised.value.file, raised.value.line, raised.value.key) == ("limits.yaml", line, key)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("idle_timeout", "48", "'48': a duration needs a number and a unit"),
        ("idle_timeout", "0s", "'0s': this must be from 1m to 3650d"),
        ("max_runtime", "1:30", "'1:30': a duration needs"),
        ("gpu_hold_after_stop", "-1h", "'-1h': a duration needs"),
        ("memory", "32", "'32': a size needs a number and a unit"),
        ("memory", "1m", "'1m': this must be from 6 MiB to"),
        ("memory", "0g", "this must be from 6 MiB"),
        ("memory", "[1g]", "this must be one value, not a list"),
        ("memory", "{a: 1g}", "this must be one value, not a mapping"),
        ("memory_swap", "-1", "a size needs"),
        ("shm_size", "0m", "this must be from 1 MiB"),
        ("storage_tmp", "true", "a size needs"),
        ("max_cpus", "0", "'0': this must be from 0.01 to 10000"),
        ("max_cpus", ".nan", "must be a number from zero"),
        ("max_cpus", ".inf", "must be a number from zero"),
        ("max_cpus", "1.0e+300", "this must be from 0.01 to 10000"),
        ("max_cpus", "-2", "must be a number from zero"),
        ("max_cpus", "yes", "'yes': this must be a number"),
        ("max_gpu_equivalents", "1/0", "must be a number from zero"),
        ("max_gpu_equivalents", "1e9", "must be a number from zero"),
        ("max_gpu_equivalents", "1001", "this must be from 0 to 1000"),
        ("max_mig_instances", "-1", "must be a whole number from zero"),
        ("max_mig_instances", "1.0", "must be a whole number"),
        ("max_mig_instances", '"2"', "must be a whole number from zero, without quotes"),
        ("max_mig_instances", "true", "must be a whole number"),
        ("max_mig_instances", "99999999999999999999", "this must be from 0 to 1000"),
        ("max_mig_instances", "unlimited", "must be a whole number"),
        ("pids_limit", "1", "this must be from 16 to 4194304"),
        ("pids_limit", "010", "must be a whole number"),
        ("priority", "0", "this must be from 1 to 100"),
        ("priority", "101", "this must be from 1 to 100"),
        ("priority", "null", "this can't be null"),
        ("allow_full_gpu", "1", "this must be true or false, not '1'"),
        ("allow_full_gpu", "null", "this can't be null"),
        ("environments", "base", "this must be a list of environments"),
        ("environments", "[base, '../x']", "'../x' is not the name of an environment"),
        ("environments", "[base, ~]", "is not the name of an environment"),
        ("environments", "[[base]]", "a list is not the name of an environment"),
        ("memory", "x" * 500, "…"),
    ],
)
def test_what_a_key_cant_hold(key: str, value: str, message: str) -> None:
    """Units are required, numbers are bounded, booleans and quotes are no numbers; the message is short."""
    [(line, path, found)] = problems_of(f"defaults:\n  {key}: {value}")
    assert (line, path) == (2, f"defaults.{key}")
    assert message in found
    assert len(found) < 200


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if spec.nullable and not spec.group_only])
def test_null_is_unlimited(key: str) -> None:
    """Null is a value of its own and not the same as absent."""
    assert policy_of(f"defaults: {{{key}: null}}").defaults.settings[key].value is None


def test_all_errors_are_found_at_once_by_line() -> None:
    """An admin repairs a file in one go."""
    text = """\
        groups:
          students:
            memory: 4
            members: ana
        defaults:
          max_cpus: many
        """
    assert [(line, key) for line, key, _ in problems_of(text)] == [
        (3, "groups.students.memory"),
        (4, "groups.students.members"),
        (6, "defaults.max_cpus"),
    ]


@pytest.mark.parametrize(
    ("settings", "line", "message"),
    [
        ("memory: 8g\n  memory_swap: 4g", 3, "4 GiB is less than memory, 8 GiB (line 2)"),
        ("memory_swap: 4g\n  memory: null", 2, "4 GiB is less than memory, unlimited (line 3)"),
        ("memory: 8g\n  shm_size: 9g", 3, "9 GiB is more than memory, 8 GiB (line 2)"),
    ],
)
def test_a_rule_that_contradicts_itself_is_an_error(settings: str, line: int, message: str) -> None:
    """Swap is counted with memory, shared memory within it."""
    [(found, _, text)] = problems_of(f"defaults:\n  {settings}")
    assert found == line
    assert message in text


@pytest.mark.parametrize(
    "settings",
    ["memory: 8g, memory_swap: 8g, shm_size: 8g", "memory: 8g, memory_swap: null", "memory: null, memory_swap: null",
     "memory: null, shm_size: 9g", "memory: 8g, shm_size: null", "shm_size: 99g"],
)  # fmt: skip
def test_what_agrees_is_no_contradiction(settings: str) -> None:
    """Equal sizes agree, unlimited swap is more than any memory, and one size alone contradicts nothing."""
    assert problems_of(f"defaults: {{{settings}}}") == []


def test_shared_folders() -> None:
    """Read-only unless the file says rw; nothing is nothing."""
    text = """
        groups:
          lab:
            shared:
              - {name: datasets, path: /srv/data sets}
              - {name: scratch, path: /srv/scratch, mode: rw}
              - {name: models, path: /srv/models, mode: ro}
          none: {shared: }
        """
    lab, none = policy_of(text).groups
    assert lab.rule.settings["shared"].value == (
        SharedFolder("datasets", "/srv/data sets"),
        SharedFolder("scratch", "/srv/scratch", True),
        SharedFolder("models", "/srv/models"),
    )
    assert none.rule.settings["shared"].value == ()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("{name: a, path: /srv/a}", "must be a list of {name, path, mode}, not a mapping"),
        ("[/srv/a]", "must be {name, path, mode}, not '/srv/a'"),
        ("[{name: a}]", "needs a name and a path"),
        ("[{name: a, path: /srv/a, rw: true}]", "unknown key 'rw' in a shared folder; known here: mode, name, path"),
        ("[{name: a, path: /srv/a, mode: w}]", "mode: 'w' is neither ro nor rw"),
        ("[{name: a, path: /srv/a, mode: [rw]}]", "mode: a list is neither ro nor rw"),
        ("[{name: ../a, path: /srv/a}]", "'../a' is not a folder's name"),
        ("[{name: a, path: srv/a}]", "no absolute path"),
        ("[{name: a, path: /srv/a/}]", "no absolute path"),
        ("[{name: a, path: [b]}]", "no absolute path"),
        ('[{name: a, path: "/srv/\\x01"}]', "no absolute path"),
        ("[{name: a, path: /srv/../etc}]", "must be plain"),
        ("[{name: a, path: /}]", "and not the root"),
        ("[{name: a, path: /srv//a}]", "must be plain"),
        ("[{name: a, path: /var/run/docker.sock}]", "belongs to the host and is never shared"),
        ("[{name: a, path: /etc}]", "never shared"),
        ("[{name: a, path: /srv/a}, {name: a, path: /srv/b}]", "two folders can't both be /shared/a"),
    ],
)
def test_shared_folders_that_are_refused(folders: str, message: str) -> None:
    """No way up, no relative path, none of the host's own folders, no two under one name."""
    [(line, key, found)] = problems_of(f"groups:\n  lab:\n    shared: {folders}")
    assert (line, key) == (3, "groups.lab.shared")
    assert message in found


def test_a_folders_own_line_is_named() -> None:
    """In a long list the line of the entry counts, not that of the key."""
    text = (
        "groups:\n  lab:\n    shared:\n    - {name: a, path: /a}\n    - {name: b, path: b}\n    - {name: a, path: /x}"
    )
    assert [line for line, _, _ in problems_of(text)] == [5]
    text = text.replace("path: b", "path: /b")
    assert [line for line, _, _ in problems_of(text)] == [4]


def test_the_etc_of_a_name_is_not_the_hosts() -> None:
    """`/etcetera` begins like `/etc` and is another folder."""
    assert problems_of("groups: {g: {shared: [{name: a, path: /etcetera}]}}") == []


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        ("1970-01-01", 86_399.999999),
        ('"1970-01-01"', 86_399.999999),
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("1970-01-02T00:00:00", 86_400.0),
        ('"1970-01-02T02:00:00+02:00"', 86_400.0),
        ("9999-12-31", 253_402_300_799.999999),
        ("null", None),
    ],
)
def test_when_an_override_ends(expires: str, seconds: float | None) -> None:
    """A date lasts to its end, a time without a zone is UTC, no date is for ever."""
    policy = policy_of(override(f"expires: {expires}"))
    assert policy.overrides["ana"].expires == seconds


def test_members_are_named_as_written() -> None:
    """`0042`, `yes` and `1e3` are names, whatever YAML makes of them."""
    policy = policy_of("groups: {g: {members: [0042, yes, 1e3, 2026-01-01, a.b@dom], members_file: [a, b/c.members]}}")
    assert [member.name for member in policy.groups[0].members] == ["0042", "yes", "1e3", "2026-01-01", "a.b@dom"]
    assert [file.path for file in policy.groups[0].member_files] == ["a", "b/c.members"]


def test_how_values_are_shown() -> None:
    """Every key's value reads as in the file or better."""
    shown = {
        key: KEYS[key].show(value)
        for key, value in {
            "memory": 32 << 30,
            "idle_timeout": 5400.0,
            "allow_full_gpu": True,
            "max_mig_instances": None,
            "environments": ("base", "nlp"),
            "shared": (SharedFolder("a", "/srv/a"), SharedFolder("b", "/srv/b", True)),
        }.items()
    }
    assert shown == {
        "memory": "32 GiB",
        "idle_timeout": "1h30m",
        "allow_full_gpu": "true",
        "max_mig_instances": "unlimited",
        "environments": "base, nlp",
        "shared": "/shared/a from /srv/a (ro), /shared/b from /srv/b (rw)",
    }
    assert [KEYS["environments"].show(value) for value in (None, ())] == ["all", "none"]

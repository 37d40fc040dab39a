"""What lint finds in a limits file that loads."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent

import pytest

from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Gpu, Health, Inventory, MigInstance
from ds01_spawner.core.quota import with_members
from ds01_spawner.core.quota_lint import findings
from ds01_spawner.core.quota_policy import Finding, Severity
from tests.unit.core.trees import policy_of

GB = 1 << 30
HOST = Host(memory=10 * GB, memory_reserve=2 * GB, cpus=4)
SLICED = Gpu(
    "GPU-0", 0, "A100", 40_960, mig=True, axis=8, slices=7,
    instances=tuple(MigInstance(f"MIG-{i}", i, 0, "1g.5gb", 1, 4864, i, 1) for i in range(2)),
)  # fmt: skip
WHOLE = Gpu("GPU-1", 1, "A100", 40_960)
FOUR = Inventory("n", tuple(replace(WHOLE, uuid=f"GPU-{i}", index=i) for i in range(4)))


def told(
    text: str, inventory: Inventory | None = None, host: Host | None = None, now: float | None = None
) -> list[tuple[str, int | None, str, str]]:
    """Severity, line, key and message of every finding but the notes on keys that are not in force."""
    found = findings(policy_of(text), inventory, host, now=now)
    return [(f.severity.value, f.line, f.key, f.message) for f in found if "not in force" not in f.message]


def test_a_file_in_order_has_no_finding() -> None:
    """Silence means that everything was compared and agrees."""
    text = """\
        defaults: {max_cpus: 4, memory: 8g, max_mig_instances: 4, max_gpu_equivalents: 4}
        groups: {g: {members: [a]}}
        """
    assert told(text, FOUR, HOST, now=0.0) == []


def test_keys_that_nothing_enforces_are_named_once_with_all_lines() -> None:
    """An admin is never left to believe that a key acts."""
    policy = policy_of("defaults:\n  idle_timeout: 48h\n  priority: 5\ngroups:\n  g:\n    priority: 9")
    assert [(f.severity, f.line, f.key, f.message) for f in findings(policy)] == [
        (Severity.NOTE, 2, "idle_timeout", "not in force yet: nothing acts on it"),
        (Severity.NOTE, 3, "priority", "not in force yet: nothing acts on it (lines 3, 6)"),
    ]


def test_a_user_in_two_groups_of_equal_priority_is_an_error() -> None:
    """Named once, at the later group; a group of higher priority settles it."""
    text = """\
        groups:
          a:
            members: [ana, ben]
          b:
            members:
              - ana
          c: {priority: 50, members: [ben]}
          d: {members: [ben]}
        """
    assert told(text) == [
        (
            "error",
            6,
            "groups.b.members",
            "'ana' is in 'a' too, which has the same priority, 10: give one group a higher one",
        )
    ]


def test_a_tie_through_a_member_file_names_that_file() -> None:
    """The line is where the name stands."""
    policy = policy_of("groups: {a: {members: [ana]}, b: {members_file: b.members}}")
    complete, _ = with_members(policy, {"b.members": "\nana\n"})
    [finding] = findings(complete)
    assert (finding.severity, finding.file, finding.line) == (Severity.ERROR, "b.members", 2)


def test_names_that_match_nobody_or_stand_twice() -> None:
    """The hub lowers names at login; a name listed twice is harmless and hardly meant."""
    text = """\
        groups:
          a: {members: [ana, Ben, ana, ana]}
        user_overrides:
          Carla: {reason: x}
        """
    assert [(line, key, message.partition(":")[0]) for _, line, key, message in told(text)] == [
        (2, "groups.a.members", "'Ben' has upper-case letters"),
        (2, "groups.a.members", "'ana' is listed twice"),
        (4, "user_overrides.Carla", "'Carla' has upper-case letters"),
    ]


def test_sizes_of_different_rules_that_contradict() -> None:
    """What was promised and can't be had is an error; what can be raised is a warning. Each is told where it arises."""
    text = """\
        defaults: {memory: 32g, shm_size: 16g, memory_swap: 40g}
        groups:
          small:
            members: [ana]
            max_cpus: 1
            memory: 8g
          large: {memory: 64g}
        user_overrides:
          ana: {shm_size: 12g, reason: x}
          ben: {memory: 4g, reason: x}
          carla: {max_cpus: 1, reason: x}
        """
    assert [(severity, line, key) for severity, line, key, _ in told(text)] == [
        ("error", 6, "groups.small.memory"),
        ("warning", 7, "groups.large.memory"),
        ("error", 9, "user_overrides.ana.shm_size"),
        ("error", 10, "user_overrides.ben.memory"),
    ]


def test_the_defaults_alone_are_compared_with_the_built_in_limits() -> None:
    """Shared memory above the built-in memory is a contradiction too, told once and not for each group below."""
    text = "defaults:\n  shm_size: 8g\ngroups:\n  g: {max_cpus: 1}\n"
    assert [(s, line, key) for s, line, key, _ in told(text)] == [("error", 2, "defaults.shm_size")]


def test_an_expired_override_is_named() -> None:
    """It counts no longer and only misleads; a coming end is no finding."""
    text = """\
        user_overrides:
          ana: {reason: x, expires: 2026-01-01}
          ben: {reason: x, expires: 2999-01-01}
          eva: {reason: x}
        """
    assert told(text, now=1_800_000_000.0) == [
        ("warning", 2, "user_overrides.ana", "expired, counts no longer: remove it")
    ]
    assert told(text) == []


def test_limits_beyond_the_machine_are_errors() -> None:
    """Each rule is compared by itself, and the message has both numbers; unlimited is beyond nothing."""
    text = """\
        defaults: {max_cpus: 8, memory: 32g}
        groups:
          g: {max_cpus: null, memory: null, memory_swap: null, storage_tmp: 9g, shm_size: null}
        """
    assert told(text, host=HOST) == [
        ("error", 1, "defaults.max_cpus", "8 CPUs, and this machine has 4"),
        ("error", 1, "defaults.memory", "32 GiB, and this machine has 8 GiB for containers"),
        ("error", 3, "groups.g.storage_tmp", "9 GiB, and this machine has 8 GiB for containers"),
    ]


def test_six_gpus_of_four() -> None:
    """More devices or GPU-equivalents than exist can never be had."""
    text = dedent("""\
        defaults:
          max_mig_instances: 6
          max_gpu_equivalents: 4.5
        groups:
          g: {max_mig_instances: 4, max_gpu_equivalents: 4}
          open: {max_mig_instances: null, max_gpu_equivalents: null}
        """)
    assert told(text, FOUR) == [
        ("error", 2, "defaults.max_mig_instances", "6 of 4 GPU device(s) on this machine"),
        ("error", 3, "defaults.max_gpu_equivalents", "4.5 of 4 GPU(s) on this machine"),
    ]
    [first, _] = told(text, replace(FOUR, simulated=True))
    assert first[3].endswith("on this machine (simulated)")


def test_devices_are_counted_as_on_a_good_day() -> None:
    """An ill GPU is no reason to lower limits: its two instances and the whole GPU make three devices."""
    ill = Inventory("n", (replace(SLICED, health=Health.LOST), WHOLE))
    assert told("defaults: {max_mig_instances: 3}", ill) == []
    assert len(told("defaults: {max_mig_instances: 4}", ill)) == 1


@pytest.mark.parametrize(
    ("gpus", "severity", "message"),
    [
        ((), "note", "this machine has no GPU"),
        ((replace(WHOLE, mig=None),), "warning", "a GPU of this machine can't be read"),
    ],
)
def test_what_cant_be_compared_is_said_and_not_judged(gpus: tuple[Gpu, ...], severity: str, message: str) -> None:
    """The shipped limits are right on a machine without GPU too; unknown is not zero."""
    [(found, line, _, text)] = told("defaults: {max_mig_instances: 6}", Inventory("n", gpus))
    assert (found, line) == (severity, None)
    assert text.startswith(message)
    assert text.endswith("GPU limits were not compared with it")


def test_a_finding_reads_like_a_compilers() -> None:
    """File and line first, so that an editor can jump there."""
    assert str(Finding(Severity.ERROR, "no", "f.yaml", 3, "a.b")) == "f.yaml:3: error: a.b: no"
    assert str(Finding(Severity.NOTE, "no", "f.yaml")) == "f.yaml: note: no"

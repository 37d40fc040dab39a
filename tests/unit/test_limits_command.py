"""`python -m ds01_spawner.limits USER`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from ds01_spawner import limits
from ds01_spawner.adapters.quota_yaml import CHECKOUT
from ds01_spawner.core.admission import Host
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.quota import KEYS

TEXT = """\
defaults:
  max_cpus: 8
  memory: "32g"
  idle_timeout: 48h
groups:
  students:
    members: [ana]
    max_gpu_equivalents: 3/7
    shared: [{name: data, path: /srv/data}]
  researchers: {max_cpus: 16, priority: 50}
user_overrides:
  ana: {max_mig_instances: 2, reason: thesis}
  gone: {max_mig_instances: 2, reason: old, expires: 2001-01-01}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small lab's limits."""
    path = tmp_path / "limits.yaml"
    path.write_text(TEXT)
    return path


def test_every_value_is_shown_with_its_rule_and_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys, in one table, with what nothing enforces marked."""
    assert limits.main(["ana", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert set(KEYS) <= set(rows)
    assert rows["memory"].split("  ")[-1].strip() == "defaults, line 3"
    assert "user_overrides.ana, line 12" in rows["max_mig_instances"]
    assert "groups.students, line 8" in rows["max_gpu_equivalents"]
    assert rows["idle_timeout"].split("   ")[-1].strip() == "not in force yet"
    assert "defaults, line 4" in rows["idle_timeout"]
    assert "built in, the file says nothing" in rows["pids_limit"]
    assert "Group:  students" in out
    assert "Reason: thesis" in out


def test_notes_are_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an admin should know about one user's limits."""
    assert limits.main(["gone", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "Note: user_overrides.gone (line 13) expired on 2001-01-01 23:59 UTC and no longer counts" in out
    assert "Group:  none" in out


def test_json_is_key_to_value_source_and_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes in bytes, durations in seconds, fractions exact as text, unlimited as null."""
    assert limits.main(["ana", "--config", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == list(KEYS)
    assert told["memory"] == {"value": 32 << 30, "source": "defaults", "line": 3, "in_force": True}
    assert told["idle_timeout"] == {"value": 172_800.0, "source": "defaults", "line": 4, "in_force": False}
    assert told["max_gpu_equivalents"]["value"] == "3/7"
    assert told["max_cpus"]["value"] == 8
    assert told["shared"]["value"] == [{"name": "data", "path": "/srv/data", "mode": "ro"}]
    assert told["max_runtime"] == {"value": None, "source": "built-in", "line": None, "in_force": False}


def test_groups_of_the_hub_can_be_given(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file doesn't know them; `--member-of` is another word for it."""
    assert limits.main(["ben", "--config", str(file), "--group", "x", "--member-of", "researchers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_cpus"]["source"] == "groups.researchers"


def test_docker_args_are_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the seed's tool printed them, and no cgroup parent, which we have none of."""
    assert limits.main(["ana", "--config", str(file), "--docker-args"]) == 0
    assert capsys.readouterr().out == (
        "--cpus=8 --memory=32g --memory-swap=32g --shm-size=64m --pids-limit=4096 --tmpfs=/tmp:size=1g\n"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_cpus": Fraction(1, 3)}, "--cpus=0.333333333 "),
        ({"max_cpus": Fraction(5, 2)}, "--cpus=2.5 "),
        ({"max_cpus": Fraction(100)}, "--cpus=100 "),
        ({"memory_swap": None}, "--memory=4g --memory-swap=-1 "),
        ({"storage_tmp": 1025}, "--tmpfs=/tmp:size=1025"),
        ({"shm_size": (1 << 20) + 1}, "--shm-size=1048577b "),
    ],
)
def test_docker_args_never_say_more_than_is_allowed(values: dict[str, object], expected: str) -> None:
    """A third of a CPU is rounded down; unlimited swap has to be said."""
    assert expected in limits.docker_args(replace(Limits(), **values)) + " "  # type: ignore[arg-type]


def test_what_is_unlimited_is_left_out() -> None:
    """No argument is the engine's word for unlimited."""
    none = replace(
        Limits(), max_cpus=None, memory=None, memory_swap=None, shm_size=None, pids_limit=None, storage_tmp=None
    )
    assert limits.docker_args(none) == ""


def test_limits_can_be_lowered_to_this_machine(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub does at a start, with the same words."""
    monkeypatch.setattr(limits, "read_host", lambda reserve: Host(20 << 30, int((20 << 30) * reserve), 4))
    assert limits.main(["ana", "--config", str(file), "--this-machine", "--memory-reserve", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "Note: max_cpus of defaults (line 2) is 8: lowered to the 4 CPUs of this machine" in out
    assert "lowered to the 10 GiB that this machine gives to containers" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults:\n  memroy: 4g\n", "limits.yaml:2: defaults.memroy: unknown key; did you mean 'memory'?"),
        ("defaults:\n  idle_timeout: 48\n", "limits.yaml:2: defaults.idle_timeout: '48': a duration needs"),
        (None, "limits.yaml: can't be read"),
    ],
)
def test_a_wrong_file_is_told_with_path_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    """On standard error, with status 1 and nothing on standard output."""
    path = tmp_path / "limits.yaml"
    if text is not None:
        path.write_text(text)
    assert limits.main(["ana", "--config", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {tmp_path}/")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["ana", "--json", "--docker-args"], ["ana", "--max-gpus"], ["ana", "ben"]])
def test_a_wrong_call_has_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage, on standard error."""
    with pytest.raises(SystemExit) as ended:
        limits.main(argv)
    assert ended.value.code == 2
    assert "usage: python -m ds01_spawner.limits" in capsys.readouterr().err


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    """From any folder, on the file that the setting names, without a traceback."""
    (tmp_path / "bad.yaml").write_text("groups: [a]\n")
    env = {"DS01_RESOURCE_LIMITS": str(tmp_path / "bad.yaml"), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-m", "ds01_spawner.limits", "ana"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}/bad.yaml:1: groups: this must hold keys with values, not a list\n"


@pytest.mark.parametrize(
    ("user", "group", "devices", "full"),
    [("ana", "students", 1, False), ("ben", "students", 1, False), ("carla", "researchers", 2, True)],
)
def test_the_demos_users(user: str, group: str, devices: int, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Three users of two groups, each small enough that three containers run on a small machine."""
    file = CHECKOUT / "config/simulated/resource-limits.yaml"
    assert limits.main([user, "--config", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["max_mig_instances"]["value"], told["allow_full_gpu"]["value"]) == (devices, full)
    assert told["max_mig_instances"]["source"] in ("defaults", f"groups.{group}")
    assert told["memory"]["value"] == told["memory_swap"]["value"] == 1 << 30
    assert told["max_cpus"]["value"] == 1

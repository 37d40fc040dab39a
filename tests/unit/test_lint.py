"""`ds01-hub lint`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds01_spawner.adapters.quota_yaml import CHECKOUT
from ds01_spawner.admin import lint
from ds01_spawner.admin.main import main
from ds01_spawner.core.admission import Host
from ds01_spawner.core.devices import Inventory
from ds01_spawner.core.errors import InventoryUnavailable

LAPTOP = Host(memory=8 << 30, memory_reserve=800 << 20, cpus=2)
TWO_GPUS = CHECKOUT / "config/simulated/two-gpus.yaml"


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on a laptop with 8 GB, two cores and no GPU, whatever machine this is."""
    monkeypatch.delenv("DS01_SIMULATED_GPUS", raising=False)
    monkeypatch.delenv("DS01_RESOURCE_LIMITS", raising=False)
    monkeypatch.setattr(lint, "read_host", lambda _reserve: LAPTOP)


def no_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """A machine without GPUs, or with GPUs that can't be read."""

    async def read(_simulated: Path | None) -> Inventory:
        if error is not None:
            raise error
        return Inventory("local")

    monkeypatch.setattr(lint, "read_inventory", read)


def test_the_shipped_limits_are_right_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer's first file has neither error nor warning on 8 GB, two cores and no GPU."""
    no_gpu(monkeypatch)
    assert main(["lint", "--strict"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"{CHECKOUT / 'config/resource-limits.yaml'}: no error"
    assert any("this machine has no GPU" in line for line in out)
    assert any("idle_timeout: not in force yet" in line for line in out)


def test_the_demos_limits_are_right_on_its_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """The simulated devices are enough for what the demo's file promises."""
    limits = str(CHECKOUT / "config/simulated/resource-limits.yaml")
    machine = str(CHECKOUT / "config/simulated/dgx-a100.yaml")
    assert main(["lint", limits, "--simulated-gpus", machine, "--strict"]) == 0
    assert capsys.readouterr().out.endswith("no error\n")


def test_everything_wrong_is_listed_with_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Schema, member files, contradictions and hardware in one run, in the order of the lines."""
    (tmp_path / "g.members").write_text("ana\nb c\n")
    path = tmp_path / "limits.yaml"
    path.write_text(
        "defaults:\n  memroy: 4g\n  max_mig_instances: 6\n  max_cpus: 3\ngroups:\n"
        "  g: {members_file: [g.members, gone.members]}\n  h: {members: [ana]}\n"
    )
    assert main(["lint", str(path), "--simulated-gpus", str(TWO_GPUS)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{path}:2: error: defaults.memroy: unknown key; did you mean 'memory'?",
        f"{path}:3: error: defaults.max_mig_instances: 6 of 4 GPU device(s) on this machine (simulated)",
        f"{path}:4: error: defaults.max_cpus: 3 CPUs, and this machine has 2",
        f"{path}:6: error: groups.g.members_file: {tmp_path}/gone.members can't be read: No such file or directory",
        f"{path}:7: error: groups.h.members: 'ana' is in 'g' too, which has the same priority, 10: "
        "give one group a higher one",
        f"{tmp_path}/g.members:2: error: 'b c' is no user name: one name, without spaces, commas and slashes",
        f"{path}: 6 error(s), 0 warning(s)",
    ]


def test_what_is_no_yaml_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing more to compare."""
    path = tmp_path / "limits.yaml"
    path.write_text("a: [\n")
    assert main(["lint", str(path), "--no-hardware"]) == 1
    assert capsys.readouterr().out.count("error: ") == 1


def test_warnings_fail_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--strict` is for a commit hook."""
    path = tmp_path / "limits.yaml"
    path.write_text("groups: {g: {members: [Ana]}}\n")
    assert main(["lint", str(path), "--no-hardware"]) == 0
    assert main(["lint", str(path), "--no-hardware", "--strict"]) == 1
    assert capsys.readouterr().out.count("0 error(s), 1 warning(s)") == 2


def test_gpus_that_cant_be_read_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is checked; unknown hardware is neither enough nor too little."""
    no_gpu(monkeypatch, InventoryUnavailable("the driver is gone"))
    path = tmp_path / "limits.yaml"
    path.write_text("defaults: {max_mig_instances: 6, max_cpus: 3}\n")
    assert main(["lint", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{path}: warning: GPU limits were not compared with the machine: the driver is gone" in out
    assert "max_mig_instances" not in out
    assert "max_cpus: 3 CPUs" in out


def test_json_has_every_finding_as_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a page or a script."""
    path = tmp_path / "limits.yaml"
    path.write_text("defaults:\n  idle_timeout: 48\n")
    assert main(["lint", str(path), "--no-hardware", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    [finding] = told["findings"]
    message = "'48': a duration needs a number and a unit (w, d, h, m, s) such as '48h' or '1h30m'"
    assert told["file"] == str(path)
    assert finding == {
        "severity": "error", "file": str(path), "line": 2, "key": "defaults.idle_timeout", "message": message,
    }  # fmt: skip


def test_the_installs_own_settings_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without arguments the file and the simulated machine that the hub was told are checked."""
    path = tmp_path / "limits.yaml"
    path.write_text("defaults: {max_mig_instances: 6}\n")
    monkeypatch.setenv("DS01_RESOURCE_LIMITS", str(path))
    monkeypatch.setenv("DS01_SIMULATED_GPUS", "config/simulated/two-gpus.yaml")
    assert main(["lint"]) == 1
    assert "6 of 4 GPU device(s) on this machine (simulated)" in capsys.readouterr().out


async def test_the_real_inventory_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a simulated machine it is NVML's answer that counts."""
    from ds01_spawner.adapters import nvml

    class Reading:
        def __init__(self, node: str, *, clock: object) -> None:
            self.node = node

        async def read(self) -> Inventory:
            return Inventory(self.node, driver="1.2")

    monkeypatch.setattr(nvml, "NvmlInventory", Reading)
    assert await lint.read_inventory(None) == Inventory("local", driver="1.2")


def test_a_wrong_simulated_machine_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration error of any part ends the command with status 1."""
    path = tmp_path / "limits.yaml"
    path.write_text("")
    assert main(["lint", str(path), "--simulated-gpus", str(tmp_path / "none.yaml")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/")


@pytest.mark.parametrize("argv", [[], ["--help-me"], ["lint", "a", "b"], ["unknown"]])
def test_a_wrong_call_has_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage, on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: ds01-hub" in capsys.readouterr().err

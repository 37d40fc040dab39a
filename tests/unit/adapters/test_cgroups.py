"""Limits from cgroup files of both versions, as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds01_spawner.adapters.cgroups import read_applied
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.readback import UNLIMITED, Applied

ID = "c0ffee" * 10
VIEW = ContainerView(id=ID, name="main._.1.0", state="running", pid=77)
GROUP = f"system.slice/docker-{ID}.scope"
NO_SWAP, SWAP = "SwapTotal:             0 kB\n", "SwapTotal:       8388608 kB\n"


class Machine:
    """A /proc and a /sys/fs/cgroup below a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.root = folder / "proc", folder / "cgroup"

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, groups: str, meminfo: str = NO_SWAP) -> None:
        self.write(self.proc / "77/cgroup", groups)
        self.write(self.proc / "meminfo", "MemTotal: 1 kB\n" + meminfo)

    def version2(self, **files: str) -> None:
        self.process(f"0::/{GROUP}\n")
        for name, text in files.items():
            self.write(self.root / GROUP / name.replace("_", ".", 1).replace("_", "."), text)

    def read(self) -> Applied:
        return read_applied(VIEW, proc=self.proc, root=self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty one."""
    return Machine(tmp_path)


def test_version_2_has_swap_apart_from_memory(machine: Machine) -> None:
    """What we call memory and swap is the sum of two files."""
    machine.version2(memory_max="268435456\n", memory_swap_max="1048576\n", cpu_max="50000 100000\n", pids_max="64\n")
    assert machine.read() == Applied(memory=268435456, memory_swap=269484032, cpus=0.5, pids=64)


def test_version_2_without_limits(machine: Machine) -> None:
    """`max` is no limit."""
    machine.version2(memory_max="max\n", memory_swap_max="max\n", cpu_max="max 100000\n", pids_max="max\n")
    assert machine.read() == Applied(UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)


def test_version_2_with_a_missing_file_is_unknown_there(machine: Machine) -> None:
    """A kernel without swap accounting has no such file: unknown, the rest is read."""
    machine.version2(memory_max="268435456\n", cpu_max="50000 100000\n")
    assert machine.read() == Applied(memory=268435456, memory_swap=None, cpus=0.5, pids=None)


def version1(machine: Machine, meminfo: str, **memory: str) -> None:
    controllers = ("memory", "cpu,cpuacct", "pids", "name=systemd")
    lines = [f"{n}:{name}:/docker/{ID}" for n, name in enumerate(controllers, 1)]
    machine.process("\n".join([*lines, f"0::/docker/{ID}", ""]), meminfo)
    for file, text in {"memory.limit_in_bytes": "268435456\n", **memory}.items():
        machine.write(machine.root / "memory/docker" / ID / file, text)
    machine.write(machine.root / "cpu/docker" / ID / "cpu.cfs_quota_us", "50000\n")
    machine.write(machine.root / "cpu/docker" / ID / "cpu.cfs_period_us", "100000\n")
    machine.write(machine.root / "pids/docker" / ID / "pids.max", "64\n")


def test_version_1_beside_an_empty_version_2(machine: Machine) -> None:
    """On a mixed machine the controllers are version 1's, whatever else is mounted."""
    version1(machine, SWAP, **{"memory.memsw.limit_in_bytes": "536870912\n"})
    assert machine.read() == Applied(memory=268435456, memory_swap=536870912, cpus=0.5, pids=64)


def test_version_1_without_swap_accounting(machine: Machine) -> None:
    """Uncounted swap is unknown; on a machine that has none, memory is all that can be used."""
    version1(machine, SWAP)
    assert machine.read().memory_swap is None
    version1(machine, NO_SWAP)
    assert machine.read().memory_swap == 268435456


@pytest.mark.parametrize("groups", ["", "0::/user.slice/another.scope\n", "0::/\n"])
def test_another_process_or_none_is_unknown(machine: Machine, groups: str) -> None:
    """Only a group that bears the container's id is the container's."""
    machine.process(groups)
    machine.write(machine.root / "memory.max", "1\n")
    assert machine.read() == Applied()


def test_without_a_process_nothing_is_read(machine: Machine) -> None:
    """A stopped container has pid 0."""
    machine.write(machine.proc / "0/cgroup", f"0::/{ID}\n")
    machine.write(machine.root / ID / "memory.max", "1\n")
    stopped = ContainerView(id=ID, name="n", state="exited")
    assert read_applied(stopped, proc=machine.proc, root=machine.root) == Applied()

"""The limits of a running container as the kernel has them, read from its cgroup, of version 2 or 1.

Reads a few small files; nothing here raises: what can't be read is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.readback import Applied, cpus, number, plus

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
#: Version 2's line in /proc/PID/cgroup names no controller.
UNIFIED = ""


def read_applied(view: ContainerView, *, proc: Path = PROC, root: Path = CGROUPS) -> Applied:
    """The limits of the container with this view, all unknown where it doesn't run."""
    groups = _groups(proc, view)
    if "memory" in groups:
        return _version1(groups, proc, root)
    if UNIFIED in groups:
        return _version2(root / groups[UNIFIED])
    return Applied()


def _groups(proc: Path, view: ContainerView) -> Mapping[str, str]:
    """Controller to the path of the container's group, relative to where the controller is mounted."""
    text = (_read(proc / str(view.pid) / "cgroup") or "") if view.pid else ""
    groups = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        # The process may have ended and its pid be somebody else's by now: the group bears the container's id.
        if view.id in path:
            groups.update(dict.fromkeys(controllers.removeprefix("name=").split(","), path.lstrip("/")))
    return groups


def _version2(group: Path) -> Applied:
    memory = number(_read(group / "memory.max"))
    quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
    return Applied(
        memory=memory,
        memory_swap=plus(memory, number(_read(group / "memory.swap.max"))),
        cpus=cpus(quota, period),
        pids=number(_read(group / "pids.max")),
    )


def _version1(groups: Mapping[str, str], proc: Path, root: Path) -> Applied:
    def read(controller: str, file: str) -> str | None:
        return _read(root / controller / groups[controller] / file) if controller in groups else None

    memory = number(read("memory", "memory.limit_in_bytes"))
    both = number(read("memory", "memory.memsw.limit_in_bytes"))
    if both is None and not _has_swap(proc):
        both = memory  # the kernel doesn't count swap, and there is none to use
    return Applied(
        memory=memory,
        memory_swap=both,
        cpus=cpus(read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")),
        pids=number(read("pids", "pids.max")),
    )


def _has_swap(proc: Path) -> bool:
    lines = (_read(proc / "meminfo") or "").splitlines()
    return not any(line.split() == ["SwapTotal:", "0", "kB"] for line in lines)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None

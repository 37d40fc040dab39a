"""Limits of real containers, read back from the kernel."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from ds01_spawner.adapters.cgroups import read_applied
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.readback import UNLIMITED, Applied, compare
from tests.docker.conftest import Box

LIMITS = Limits(memory=256 << 20, memory_swap=256 << 20, max_cpus=Fraction(1, 2), pids_limit=64, shm_size=32 << 20)
HOST = {
    "Memory": 256 << 20, "MemorySwap": 256 << 20, "NanoCpus": 500_000_000, "PidsLimit": 64, "ShmSize": 32 << 20
}  # fmt: skip


async def running(engine: DockerEngine, box: Box, **host: Any) -> ContainerView:
    view = await engine.inspect(box.run(HostConfig=host))
    assert view is not None
    return view


async def test_the_kernel_has_the_limits_that_were_granted(engine: DockerEngine, box: Box) -> None:
    """256 MiB, half a CPU, 64 processes: read from the cgroup, equal to what was asked."""
    view = await running(engine, box, **HOST)
    applied = read_applied(view)
    assert applied == Applied(memory=256 << 20, memory_swap=256 << 20, cpus=0.5, pids=64)
    assert compare(LIMITS, applied, view, ()) == ()


async def test_a_container_without_limits_is_found_out(engine: DockerEngine, box: Box) -> None:
    """Each limit that isn't there is named."""
    view = await running(engine, box, ShmSize=32 << 20)
    applied = read_applied(view)
    assert applied == Applied(memory=UNLIMITED, memory_swap=UNLIMITED, cpus=UNLIMITED, pids=UNLIMITED)
    found = compare(LIMITS, applied, view, ())
    assert [text.partition(":")[0] for text in found] == ["memory", "memory and swap", "CPUs", "processes"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"Memory": 512 << 20, "MemorySwap": 512 << 20}, ["memory", "memory and swap"]),
        ({"MemorySwap": 512 << 20}, ["memory and swap"]),
        ({"NanoCpus": 1_000_000_000}, ["CPUs"]),
        ({"PidsLimit": 65}, ["processes"]),
        ({"ShmSize": 64 << 20}, ["shared memory"]),
    ],
)
async def test_one_wrong_limit_is_found_out(
    engine: DockerEngine, box: Box, change: dict[str, int], named: list[str]
) -> None:
    """The one that differs, and no other."""
    view = await running(engine, box, **{**HOST, **change})
    found = compare(LIMITS, read_applied(view), view, ())
    assert [text.partition(":")[0] for text in found] == named


async def test_an_ended_container_has_unknown_limits(engine: DockerEngine, box: Box) -> None:
    """No process, no cgroup: unknown, neither equal nor unlimited."""
    view = await running(engine, box, **HOST)
    await engine.kill(view.id)
    assert read_applied(view) == Applied()


async def test_a_pid_that_is_now_another_process_is_not_believed(engine: DockerEngine, box: Box) -> None:
    """The cgroup must be this container's: pids are used again."""
    first, second = await running(engine, box, **HOST), await running(engine, box)
    stranger = ContainerView(id=first.id, name=first.name, state="running", pid=second.pid)
    assert read_applied(stranger) == Applied()

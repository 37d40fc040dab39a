"""May this user have this, whatever is free?"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.admission import Host, admit, admit_devices
from ds01_spawner.core.devices import FULL, Device
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.limits import Limits, ResolvedLimits, Source
from ds01_spawner.core.requests import GpuKind, GpuRequest, Request, parse_gpu
from ds01_spawner.core.usage import Usage

GB = 1 << 30
HOST = Host(memory=10 * GB, memory_reserve=2 * GB, cpus=4)
CPU_ONLY = Request("base")
NOTHING = Usage()
SLICE = Device("n", "GPU-1", "3g.20gb", 0, 4, 3, 7, 19_968, "MIG-1")
WHOLE = Device("n", "GPU-2", FULL, 0, 8, 7, 7, 40_960, "GPU-2")


def limits(**values: object) -> ResolvedLimits:
    """Limits where every value that is set comes from the group."""
    sources = {key: Source("groups.students", 7) for key in values}
    return ResolvedLimits("ana", "students", replace(Limits(), **values), sources)  # type: ignore[arg-type]


def gpu(text: str, count: int = 1) -> Request:
    """A request for devices."""
    return Request("base", parse_gpu(text), count)


def refusal(
    request: Request, resolved: ResolvedLimits, mine: Usage = NOTHING, everybody: Usage | None = None
) -> Refusal:
    """The refusal of a request."""
    with pytest.raises(Refusal) as refused:
        admit(request, resolved, mine, everybody or mine, HOST)
    return refused.value


def test_what_breaks_no_limit_is_admitted() -> None:
    """Exactly at each limit is within it."""
    resolved = limits(max_containers_per_user=2, max_mig_instances=2, memory=2 * GB, allow_full_gpu=True)
    admit(gpu("full", 1), resolved, Usage(1, 1, Fraction(1), 6 * GB), Usage(3, 4, Fraction(2), 6 * GB), HOST)


def test_unlimited_is_unlimited() -> None:
    """None passes every check, however much is in use."""
    resolved = limits(max_containers_per_user=None, max_mig_instances=None, memory=None, max_gpu_equivalents=None)
    much = Usage(1000, 1000, Fraction(1000), 1 << 60)
    admit(gpu("1g", 64), resolved, much, much, HOST)
    admit_devices((WHOLE,) * 9, resolved, much)


def test_containers_are_counted() -> None:
    """One more than allowed is refused, with the rule and what helps."""
    refused = refusal(CPU_ONLY, limits(max_containers_per_user=2), Usage(containers=2))
    assert refused.reason is Reason.CONTAINERS
    assert refused.message == "You run 2 of at most 2 containers (groups.students (line 7)). Stop one of them first."
    assert refused.data == {"asked": 1, "used": 2, "allowed": 2, "rule": "groups.students (line 7)"}


def test_devices_are_counted_over_all_containers() -> None:
    """The refusal says how many more would fit."""
    refused = refusal(gpu("1g", 2), limits(max_mig_instances=3), Usage(1, 2))
    assert refused.reason is Reason.DEVICES
    assert refused.message.endswith("Ask for at most 1.")
    assert refused.data["fits"] == 1


def test_without_a_device_left_the_way_out_is_another() -> None:
    """Asking for 0 devices is no advice; a user already above a lowered limit reads no negative number."""
    refused = refusal(gpu("1g"), limits(max_mig_instances=1), Usage(1, 3))
    assert refused.message.endswith("Stop a container that has a GPU, or ask for none.")
    assert refused.data["fits"] == 0


def test_a_start_without_gpu_needs_no_device_left() -> None:
    """Who has used up all devices can still work on the CPU."""
    admit(CPU_ONLY, limits(max_mig_instances=0, allow_full_gpu=False), Usage(1, 3), Usage(1, 3), HOST)


def test_a_full_gpu_may_be_closed() -> None:
    """`allow_full_gpu: false` refuses it by name and says what to ask for."""
    refused = refusal(gpu("full"), limits(allow_full_gpu=False))
    assert refused.reason is Reason.FULL_GPU
    assert "'1g'" in refused.message
    admit(gpu("1g"), limits(allow_full_gpu=False), Usage(), Usage(), HOST)


def test_gpu_equivalents_are_exact() -> None:
    """Three sevenths and three sevenths fit in 6/7, and nothing is lost by rounding."""
    resolved = limits(max_gpu_equivalents=Fraction(6, 7))
    admit_devices((SLICE,), resolved, Usage(gpueq=Fraction(3, 7)))
    with pytest.raises(Refusal) as refused:
        admit_devices((SLICE, SLICE), resolved, Usage(gpueq=Fraction(1, 7)))
    assert refused.value.reason is Reason.GPU_EQUIVALENTS
    assert refused.value.data == {"asked": "6/7", "used": "1/7", "allowed": "6/7", "rule": "groups.students (line 7)"}


def test_a_users_memory_is_bounded_by_the_machine() -> None:
    """One user's containers together never pass what the machine gives to containers."""
    refused = refusal(CPU_ONLY, limits(memory=4 * GB), Usage(memory=5 * GB), Usage(memory=6 * GB))
    assert refused.reason is Reason.USER_MEMORY
    assert "gets 4 GiB of memory" in refused.message
    assert "your containers have 5 GiB of the 8 GiB" in refused.message


def test_everybodys_memory_is_bounded_by_the_machine() -> None:
    """The reserve stays the host's: 8 of 10 GiB are for containers."""
    refused = refusal(CPU_ONLY, limits(memory=4 * GB), Usage(), Usage(memory=5 * GB))
    assert refused.reason is Reason.HOST_MEMORY
    assert refused.data["allowed"] == 8 * GB


def test_a_reserve_beyond_the_memory_leaves_nothing() -> None:
    """Not less than nothing."""
    assert Host(memory=1, memory_reserve=2, cpus=1).for_containers == 0


@given(
    used=st.builds(Usage, st.integers(0, 5), st.integers(0, 5), st.just(Fraction(0)), st.integers(0, 12)),
    others=st.integers(0, 12),
    allowed=st.tuples(*(st.none() | st.integers(0, 5) for _ in range(2)), st.none() | st.integers(1, 12)),
    count=st.integers(0, 4),
)
def test_what_is_admitted_keeps_every_limit(
    used: Usage, others: int, allowed: tuple[int | None, int | None, int | None], count: int
) -> None:
    """After an admitted start no sum is above its limit, and what is refused would have broken one."""
    containers, devices, memory = allowed
    resolved = limits(max_containers_per_user=containers, max_mig_instances=devices, memory=memory)
    request = Request("base", GpuRequest(GpuKind.MIG_CLASS, 1), count) if count else CPU_ONLY
    host = Host(memory=15, memory_reserve=5, cpus=1)
    within = (
        (containers is None or used.containers + 1 <= containers)
        and (devices is None or not count or used.devices + count <= devices)
        and (memory is None or used.memory + others + memory <= 10)
    )
    try:
        admit(request, resolved, used, replace(used, memory=used.memory + others), host)
    except Refusal:
        assert not within
    else:
        assert within

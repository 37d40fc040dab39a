"""What live leases add up to."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ds01_spawner.core.devices import FULL, Device
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.usage import Usage, usage_of

SLICE = Device("n", "GPU-1", "3g.20gb", 0, 4, 3, 7, 19_968, "MIG-1")
WHOLE = Device("n", "GPU-2", FULL, 0, 8, 7, 7, 40_960, "GPU-2")


def lease(user: str, state: LeaseState, *devices: Device, memory: int | None = 100) -> Lease:
    """A lease of one user."""
    return Lease(f"{user}-{state}", Owner(user), "n", state, 0.0, 1.0, "main._.1.x", devices=devices, memory=memory)


@pytest.mark.parametrize(
    ("state", "usage"),
    [
        (LeaseState.RESERVED, Usage(1, 1, Fraction(3, 7), 100)),
        (LeaseState.BOUND, Usage(1, 1, Fraction(3, 7), 100)),
        (LeaseState.RELEASING, Usage(1, 1, Fraction(3, 7), 100)),
        (LeaseState.LOST, Usage(1, 1, Fraction(3, 7), 100)),
        (LeaseState.ON_HOLD, Usage(0, 1, Fraction(3, 7), 0)),
        (LeaseState.RELEASED, Usage()),
    ],
)
def test_what_a_lease_counts_in_each_state(state: LeaseState, usage: Usage) -> None:
    """Until its absence is observed a container counts; a hold counts its devices alone; an ended lease nothing."""
    assert usage_of([lease("ana", state, SLICE)], "ana") == usage


def test_usage_of_one_user_and_of_all() -> None:
    """Sums are exact; a container without a memory limit counts no memory; others' leases count for the machine."""
    leases = [
        lease("ana", LeaseState.BOUND, SLICE, WHOLE),
        lease("ana", LeaseState.RESERVED, memory=None),
        lease("ben", LeaseState.BOUND, memory=50),
    ]
    assert usage_of(leases, "ana") == Usage(2, 2, Fraction(10, 7), 100)
    assert usage_of(leases) == Usage(3, 2, Fraction(10, 7), 150)
    assert usage_of(leases, "carla") == Usage()

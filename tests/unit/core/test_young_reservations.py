"""Which reservations without a container are left alone, and which are nobody's."""

from __future__ import annotations

import pytest

from ds01_spawner.core.leases import LeaseState
from ds01_spawner.core.reconcile import Act, World, for_lease
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory
from tests.fakes.values import INSTANCE, a_lease

RESERVED_AT, EXPIRES_AT = 100.0, 220.0
LEASE = a_lease(reserved_at=RESERVED_AT, expires_at=EXPIRES_AT)


def world(now: float, began: float) -> World:
    inventory = FakeInventory(SEVEN_SLICES).now
    return World((LEASE,), (), inventory, frozenset(), INSTANCE, now, began=began)


@pytest.mark.parametrize(
    ("now", "began", "kept"),
    [
        (101.0, 50.0, True),  # made by this process, not expired
        (101.0, RESERVED_AT, True),
        (EXPIRES_AT, 50.0, False),  # expired
        (101.0, 100.5, False),  # made by a process that is dead
        (40.0, 30.0, False),  # made in the future: the clock was set back, so nobody knows how old it is
    ],
)
def test_a_reservation_without_a_container(now: float, began: float, kept: bool) -> None:
    """It may still get its container while this process made it and its time runs; a dead process's gets none."""
    action = for_lease(LEASE, None, world(now, began))
    assert (action is None) is kept
    if action is not None:
        assert action.act is Act.ABSENT


def test_a_release_that_was_begun_is_no_reservation() -> None:
    """Only what is reserved waits for a container."""
    action = for_lease(a_lease(state=LeaseState.RELEASING), None, world(101.0, 50.0))
    assert action is not None
    assert action.act is Act.ABSENT

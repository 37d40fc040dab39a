"""The table of a lease's moves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.errors import IllegalTransition
from ds01_spawner.core.leases import LIVE, MOVES, WITH_CONTAINER, LeaseState, Owner, ended, move
from tests.fakes.values import a_lease, slice_at

S = LeaseState


@pytest.mark.parametrize("to", list(S))
@pytest.mark.parametrize("state", list(S))
def test_only_the_moves_of_the_table_are_made(state: S, to: S) -> None:
    """Every pair of states: a legal move, no move at all, or an error that names both."""
    lease = a_lease(state=state)
    if to is state:
        assert move(lease, to, now=5.0, reason="again") is lease
    elif to in MOVES[state]:
        assert move(lease, to, now=5.0).state is to
    else:
        with pytest.raises(IllegalTransition, match=f"{state} -> {to}"):
            move(lease, to, now=5.0)


def test_a_binding_keeps_the_container_and_the_time() -> None:
    """A lease that was on hold and is bound again has no hold any more, and its container where no new one is named."""
    bound = move(a_lease(), S.BOUND, now=5.0, container_id="c")
    assert (bound.container_id, bound.bound_at) == ("c", 5.0)
    held = move(bound, S.ON_HOLD, now=6.0, hold_until=60.0)
    assert held.hold_until == 60.0
    again = move(held, S.BOUND, now=7.0)
    assert (again.container_id, again.bound_at, again.hold_until) == ("c", 7.0, None)


def test_the_reason_stays_until_there_is_another() -> None:
    """A move without a reason keeps the last one."""
    lease = move(a_lease(), S.RELEASING, now=5.0, reason="stopped by ana")
    done = move(lease, S.RELEASED, now=6.0)
    assert (done.reason, done.ended_at, done.live) == ("stopped by ana", 6.0, False)


@pytest.mark.parametrize("state", list(S))
def test_every_lease_can_end_and_only_once(state: S) -> None:
    """Observed absence ends a lease in any state; what was ended before is untouched."""
    lease = a_lease(state=state, reason="first", ended_at=1.0 if state is S.RELEASED else None)
    done = ended(lease, now=9.0, reason="gone")
    assert done.state is S.RELEASED
    assert done.ended_at == (1.0 if state is S.RELEASED else 9.0)
    assert done.reason == ("first" if state in (S.RELEASED, S.RELEASING) else "gone")
    assert ended(done, now=10.0, reason="again") == done


@given(st.lists(st.sampled_from(list(S)), max_size=12))
def test_no_series_of_moves_brings_an_ended_lease_back(moves: list[S]) -> None:
    """`released` is final: whatever is tried afterwards, its claims are gone for good."""
    lease = a_lease()
    was_ended = False
    for to in moves:
        try:
            lease = move(lease, to, now=5.0)
        except IllegalTransition:
            continue
        was_ended = was_ended or lease.state is S.RELEASED
        assert lease.live is not was_ended


def test_states_with_a_container_are_the_live_ones_but_the_hold() -> None:
    """A hold is counted in devices, not in containers."""
    assert {S.ON_HOLD} == LIVE - WITH_CONTAINER
    assert S.RELEASED not in LIVE


def test_gpu_equivalents_add_up_exactly() -> None:
    """Seven sevenths are one."""
    lease = a_lease(devices=tuple(slice_at(n) for n in range(7)))
    assert lease.gpueq == 1
    assert replace(lease, devices=lease.devices[:3]).gpueq == Fraction(3, 7)
    assert replace(lease, devices=()).gpueq == 0


def test_an_owner_as_text_can_not_be_another() -> None:
    """The default server is the empty name after the slash; hub user names have no slash."""
    assert str(Owner("ana")) == "ana/"
    assert str(Owner("ana", "gpu")) == "ana/gpu"

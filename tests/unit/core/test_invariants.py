"""The checker of invariants: each of them broken on purpose."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from ds01_spawner.core import labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.invariants import UNKNOWN_FOR, violations
from ds01_spawner.core.leases import Lease, LeaseState
from ds01_spawner.core.ports import ContainerView
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.values import BEN, GIB, INSTANCE, KEY, a_lease, limits_of, signed, slice_at, view_of

S = LeaseState
MACHINE = FakeInventory(SEVEN_SLICES, full_gpu(1)).now


def bound(**values: Any) -> Lease:
    return a_lease(**{"state": S.BOUND, "container_id": "c-L1", **values})


def second(**values: Any) -> Lease:
    wanted = {"id": "L2", "owner": BEN, "container_name": "main._.ben.y", "container_id": "c-L2"}
    return bound(**{**wanted, "devices": (slice_at(1),), **values})


def check(*leases: Lease, containers: tuple[ContainerView, ...] | None = None, **values: Any) -> list[str]:
    views = tuple(map(view_of, leases)) if containers is None else containers
    claims = {(d.gpu_uuid, slot, lease.id) for lease in leases for d in lease.devices for slot in d.slots}
    trusted = {view.id for view in views if labels.trusts(view, instance=INSTANCE, key=KEY)}
    arguments = {"settled": True, "trusted": trusted, **values}
    found = violations(
        leases,
        arguments.pop("claims", claims),
        views,
        arguments.pop("inventory", MACHINE),
        arguments.pop("now", 150.0),
        **arguments,
    )
    return list(found)


def test_a_machine_in_order_breaks_nothing() -> None:
    """Two leases, two containers, all limits kept."""
    limits = {
        "ana": limits_of("ana", max_containers_per_user=1, max_mig_instances=1, max_gpu_equivalents=Fraction(1, 7))
    }
    assert check(bound(), second(), resolved=limits, host=Host(4 * GIB, 0, 2)) == []
    assert check(bound(), second(), inventory=None) == []


def test_i1_a_slot_in_two_leases() -> None:
    """The heart of it."""
    found = check(bound(), second(devices=(slice_at(0),)))
    assert any(text.startswith("I1 slot 0 of GPU-0000 is in leases L1 and L2") for text in found)


def test_i1_a_full_gpu_and_a_part_of_it() -> None:
    """The whole overlaps with each part."""
    whole = FakeInventory(full_gpu(0)).now.devices()
    assert any("is in leases" in text for text in check(bound(), second(devices=whole)))


def test_i1_claims_that_are_not_those_of_the_leases() -> None:
    """One too few, one too many, one of somebody else."""
    for claims in ({("GPU-0000", "0", "L1"), ("GPU-0000", "6", "L1")}, set(), {("GPU-0000", "0", "L9")}):
        assert all("disagree" in text and text.startswith("I1") for text in check(bound(), claims=claims))
        assert check(bound(), claims=claims)


@pytest.mark.parametrize("inventory", [MACHINE, None])
def test_i1_a_device_in_two_running_containers(inventory: Any) -> None:
    """Whatever the ledger says; without the GPUs equal UUIDs still tell."""
    one, two = bound(), second()
    both = (view_of(one), view_of(two, device_ids=(slice_at(0).uuid,)))
    found = check(one, two, containers=both, inventory=inventory)
    assert any("in running containers main._.ana.x and main._.ben.y" in text for text in found)
    stopped = (view_of(one, state="exited"), both[1])
    assert not any("in running containers" in text for text in check(one, two, containers=stopped))


def test_i1_a_device_without_a_live_lease() -> None:
    """What "freed because the hub said stopped" looks like: the container still runs."""
    view = view_of(bound())
    (found,) = check(containers=(view,), settled=False)
    assert found == f"I1 running container main._.ana.x has {slice_at(0).uuid} without a live lease"
    assert check(containers=(view,), settled=False, busy={"ana/"}) == []
    assert check(containers=(replace(view, state="exited"),), settled=False) == []


def test_i1_containers_of_others_are_not_ours_to_break() -> None:
    """A forged or foreign container is no violation of ours."""
    forged = view_of(bound(), labels={labels.INSTANCE: INSTANCE})
    assert check(containers=(forged,)) == []


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_containers_per_user": 1}, "2 containers of at most 1"),
        ({"max_mig_instances": 1}, "2 devices of at most 1"),
        ({"max_gpu_equivalents": Fraction(1, 7)}, "2/7 GPU-equivalents of at most 1/7"),
    ],
)
def test_i2_more_than_the_limits(limit: dict[str, Any], said: str) -> None:
    """Each limit that grants are bound by."""
    both = bound(), replace(second(), owner=replace(BEN, user="ana", server="gpu"))
    (found,) = check(*both, containers=(), settled=False, resolved={"ana": limits_of("ana", **limit)})
    assert found == f"I2 ana has {said}"


def test_i2_more_memory_than_the_host_gives() -> None:
    """The reserve for the host counts."""
    (found,) = check(bound(), second(), host=Host(2 * GIB, 1, 2))
    assert found.startswith("I2 containers have")


def test_i3_a_container_that_nobody_knows() -> None:
    """Running without a lease for more than a minute; younger, busy or stopped ones are not told."""
    view = view_of(a_lease(devices=()), created_at=100.0)
    late = 100.0 + UNKNOWN_FOR + 1
    assert check(containers=(view,), now=late) == ["I3 container main._.ana.x runs without a lease"]
    assert check(containers=(view,), now=late, busy={"ana/"}) == []
    assert check(containers=(view,), now=late, settled=False) == []
    assert check(containers=(replace(view, state="exited"),), now=late) == []
    assert check(containers=(view,), now=late - 1) == []


@pytest.mark.parametrize("state", [S.BOUND, S.RELEASING, S.LOST, S.RESERVED])
def test_i4_a_lease_without_a_container(state: S) -> None:
    """Only a reservation may be without one, until it expires."""
    lease = bound(state=state, container_id="")
    assert check(lease, containers=(), now=220.0) == [f"I4 lease L1 is {state} without a container"]
    assert check(lease, containers=(), now=220.0, busy={"ana/"}) == []
    assert check(lease, containers=(), now=220.0, settled=False) == []
    young = check(lease, containers=(), now=219.0)
    assert bool(young) is (state is not S.RESERVED)


@pytest.mark.parametrize(("until", "broken"), [(None, False), (151.0, False), (150.0, True)])
def test_i4_a_hold_past_its_end(until: float | None, broken: bool) -> None:
    """A hold needs no container, but an end, where it has one."""
    found = check(bound(state=S.ON_HOLD, hold_until=until), containers=())
    assert found == (["I4 lease L1 is on hold past its end"] if broken else [])


def test_a_signed_label_counts_as_a_device_of_its_container() -> None:
    """Simulated devices are in labels only."""
    lease = a_lease(devices=(slice_at(2),))
    view = view_of(lease, device_ids=(), labels=signed(lease))
    assert any(slice_at(2).uuid in text for text in check(containers=(view,), settled=False))

"""One grant, decided; and what could be granted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from ds01_spawner.core.admission import Host
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.grant import Ask, Machine, availability, decide, free_by_class, gpu_unknown, ledger_silent
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.requests import Request, parse_gpu
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.values import ANA, BEN, CPU_ONLY, GIB, HOST, ONE_SLICE, a_lease, limits_of, slice_at

MACHINE = Machine("local", HOST, FakeInventory(SEVEN_SLICES, full_gpu(1)).now)


def ask(request: Request = ONE_SLICE, owner: Owner = ANA, **limits: object) -> Ask:
    return Ask(owner, request, limits_of(owner.user, **limits), "main._.ana.x", "sha256:i")


def grant(asked: Ask, *leases: Lease, machine: Machine = MACHINE) -> Lease:
    return decide(asked, leases, machine, lease_id="N", now=100.0, ttl=60.0)


def test_a_grant_is_a_reservation_with_everything_that_is_needed_later() -> None:
    """Who, what, where, how long, how much memory and with which priority."""
    lease = grant(ask(priority=50))
    assert (lease.id, lease.owner, lease.node, lease.state) == ("N", ANA, "local", LeaseState.RESERVED)
    assert (lease.reserved_at, lease.expires_at, lease.memory, lease.priority) == (100.0, 160.0, GIB, 50)
    assert (lease.devices, lease.request) == ((slice_at(0),), "1 x 1g")
    assert (lease.container_name, lease.image_id, lease.container_id) == ("main._.ana.x", "sha256:i", "")


def test_cpu_only_needs_no_gpus() -> None:
    """Nothing is asked of a driver that may be gone."""
    assert grant(ask(CPU_ONLY), machine=Machine("local", HOST)).devices == ()
    with pytest.raises(Refusal) as refusal:
        grant(ask(), machine=Machine("local", HOST))
    assert refusal.value.reason is Reason.GPU_UNKNOWN


def test_what_others_hold_or_use_is_not_given() -> None:
    """Live leases and external use alike."""
    other = a_lease(owner=BEN, devices=(slice_at(0), slice_at(1)))
    machine = replace(MACHINE, external=frozenset({slice_at(2).uuid}))
    assert grant(ask(), other, machine=machine).devices == (slice_at(3),)


@pytest.mark.parametrize("state", ["reserved", "bound", "releasing", "lost"])
def test_an_owner_whose_container_has_not_ended_waits(state: str) -> None:
    """The refusal names the container and its state; another server of the user is another matter."""
    other = a_lease(state=LeaseState(state))
    with pytest.raises(Refusal, match=f"'main' has not ended.*{state}") as refusal:
        grant(ask(CPU_ONLY), other)
    assert refusal.value.reason is Reason.BUSY
    named = Owner("ana", "gpu")
    assert grant(ask(owner=named), other).owner == named
    with pytest.raises(Refusal, match="'gpu' has not ended"):
        grant(ask(owner=named), a_lease(owner=named))


def test_the_owners_hold_counts_as_ended() -> None:
    """Its devices and its share of the limits are the owner's to take up; another server's hold is not."""
    held = a_lease(state=LeaseState.ON_HOLD)
    assert grant(ask(max_mig_instances=1), held).devices == (slice_at(0),)
    with pytest.raises(Refusal):
        grant(ask(owner=Owner("ana", "gpu"), max_mig_instances=1), held)


def test_limits_come_before_what_is_free_and_equivalents_after() -> None:
    """A refusal names the user's own limit first, and the exact share once the device is known."""
    with pytest.raises(Refusal) as refusal:
        grant(ask(Request("base", parse_gpu("3g")), max_mig_instances=0))
    assert refusal.value.reason is Reason.DEVICES
    with pytest.raises(Refusal) as refusal:
        grant(ask(Request("base", parse_gpu("1g"), 2), max_gpu_equivalents=Fraction(1, 7)))
    assert refusal.value.reason is Reason.GPU_EQUIVALENTS
    with pytest.raises(Refusal) as refusal:
        grant(ask(Request("base", parse_gpu("full")), allow_full_gpu=False))
    assert refusal.value.reason is Reason.FULL_GPU


def test_the_hosts_memory_is_counted_over_everybody() -> None:
    """A reservation counts before its container runs."""
    machine = replace(MACHINE, host=Host(2 * GIB, 0, 2))
    others = a_lease(owner=BEN, memory=GIB), a_lease(id="L2", owner=Owner("carla"), memory=GIB, devices=())
    with pytest.raises(Refusal) as refusal:
        grant(ask(CPU_ONLY), *others, machine=machine)
    assert refusal.value.reason is Reason.HOST_MEMORY


def test_availability_tries_every_class_for_this_user() -> None:
    """How many are free of how many, and why this user can't have one."""
    taken = a_lease(owner=BEN, devices=tuple(slice_at(n) for n in range(7)))
    found = availability(limits_of("ana", allow_full_gpu=False), [taken], MACHINE)
    slices, full = found.classes
    assert (slices.name, slices.free, slices.total) == ("1g", 0, 7)
    assert "0 of 7" in slices.refused
    assert (full.name, full.free, full.total) == ("full", 1, 1)
    assert "not allowed" in full.refused
    assert (found.cpu_refused, found.frozen, found.simulated) == ("", "", False)
    assert [c.refused for c in availability(limits_of("ana"), [], MACHINE).classes] == ["", ""]


def test_availability_says_why_nothing_goes() -> None:
    """Frozen grants, a full user, no GPUs: each with its text."""
    frozen = availability(limits_of("ana"), [], MACHINE, frozen="the driver is gone")
    assert all("the driver is gone" in found.refused for found in frozen.classes)
    assert (frozen.frozen, frozen.cpu_refused) == ("the driver is gone", "")
    full = availability(limits_of("ana", max_containers_per_user=0), [], MACHINE)
    assert "at most 0 containers" in full.cpu_refused
    nothing = availability(limits_of("ana"), [], Machine("local", HOST))
    assert nothing.classes == ()
    assert free_by_class([], Machine("local", HOST)) == {}


def test_simulated_gpus_are_called_so() -> None:
    """A stand-in never looks real."""
    simulated = replace(FakeInventory(SEVEN_SLICES).now, simulated=True)
    assert availability(limits_of("ana"), [], Machine("local", HOST, simulated)).simulated


@pytest.mark.parametrize("refusal", [gpu_unknown("why not"), ledger_silent("why not")])
def test_every_refusal_says_why_and_what_works_instead(refusal: Refusal) -> None:
    """No blank errors."""
    assert "why not" in refusal.message
    assert "Start without a GPU" in refusal.message
    assert refusal.http_status == 503

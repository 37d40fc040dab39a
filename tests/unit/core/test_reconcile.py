"""The reconciler's decisions, one lease or one container at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner.core import labels
from ds01_spawner.core.devices import Gpu, Health, Inventory
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.reconcile import Act, World, adopted, container_of, external, plan
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu, mig_gpu
from tests.fakes.values import ANA, BEN, GIB, INSTANCE, KEY, a_lease, signed, slice_at, view_of

S = LeaseState
MACHINE = FakeInventory(SEVEN_SLICES, full_gpu(1)).now
NOW = 150.0


def world(*leases: Lease, containers: tuple[ContainerView, ...] = (), **values: Any) -> World:
    trusted = frozenset(c.id for c in containers if labels.trusts(c, instance=INSTANCE, key=KEY))
    base = World(leases, containers, MACHINE, trusted, INSTANCE, NOW)
    return replace(base, **values)


def acts(looked_at: World) -> list[Act]:
    return [action.act for action in plan(looked_at)]


def bound(**values: Any) -> Lease:
    return a_lease(**{"state": S.BOUND, "container_id": "c-L1", "bound_at": 110.0, **values})


# -- leases


@pytest.mark.parametrize("state", [S.BOUND, S.LOST])
def test_what_runs_with_its_lease_is_left_alone(state: S) -> None:
    """Nothing to do is the usual case; a lost lease waits for its owner to stop the container."""
    lease = bound(state=state)
    assert plan(world(lease, containers=(view_of(lease),))) == ()


@pytest.mark.parametrize("state", ["paused", "restarting", "removing"])
def test_a_container_that_is_alive_in_another_way_is_alive(state: str) -> None:
    """Paused is no end."""
    lease = bound()
    assert plan(world(lease, containers=(view_of(lease, state=state),))) == ()


@pytest.mark.parametrize("state", [S.BOUND, S.RELEASING, S.LOST])
def test_a_lease_whose_container_is_gone_ends(state: S) -> None:
    """Absence frees, whatever was going on."""
    (action,) = plan(world(bound(state=state)))
    assert (action.act, action.lease_id, action.container_id, action.owner) == (Act.ABSENT, "L1", "", ANA)


def test_a_container_is_known_by_its_id_once_there_is_one() -> None:
    """Renamed or relabelled by hand it is still ours; another one under its name is not."""
    lease = bound()
    renamed = view_of(lease, name="renamed", labels={})
    assert plan(world(lease, containers=(renamed,))) == ()
    impostor = view_of(lease, id="other", labels={})
    assert acts(world(lease, containers=(impostor,))) == [Act.ABSENT]


@pytest.mark.parametrize(
    ("oom", "error", "code", "said"),
    [
        (True, "", 137, "out of memory"),
        (False, "no such device", 127, "no such device"),
        (False, "", 3, "code 3"),
        (False, "", None, "is dead"),
    ],
)
def test_how_a_container_ended_is_the_reason_of_its_lease(oom: bool, error: str, code: int | None, said: str) -> None:
    """An ended container is looked at before it goes."""
    lease = bound()
    ended = view_of(lease, state="dead", oom_killed=oom, error=error, exit_code=code)
    (action,) = plan(world(lease, containers=(ended,)))
    assert (action.act, action.container_id) == (Act.REAP, "c-L1")
    assert said in action.reason


@pytest.mark.parametrize("state", ["running", "exited", "created"])
def test_a_release_that_was_begun_is_finished(state: str) -> None:
    """A container that survived its stop is stopped again."""
    lease = bound(state=S.RELEASING)
    assert acts(world(lease, containers=(view_of(lease, state=state),))) == [Act.DISCARD]


def test_a_young_reservation_of_this_process_is_waited_for() -> None:
    """Its container may still come; after its expiry it ends."""
    lease = a_lease()
    assert plan(world(lease, began=90.0)) == ()
    assert acts(world(lease, began=90.0, now=lease.expires_at)) == [Act.ABSENT]


@pytest.mark.parametrize(("began", "now"), [(120.0, 150.0), (90.0, 50.0)])
def test_a_reservation_of_another_time_is_not_waited_for(began: float, now: float) -> None:
    """The process that made it is dead, or the clock was set back: nothing will come of it."""
    assert acts(world(a_lease(), began=began, now=now)) == [Act.ABSENT]


def test_a_start_that_a_dead_hub_finished_is_bound() -> None:
    """The container runs, its name and signature are those of the reservation: it has what it was granted."""
    lease = a_lease()
    view = view_of(lease)
    (action,) = plan(world(lease, containers=(view,), inventory=None))
    assert (action.act, action.container_id) == (Act.CONFIRM, view.id)


@pytest.mark.parametrize("labelled", ["", "L1"])
def test_a_start_without_answer_of_the_ledger_belongs_to_its_reservation(labelled: str) -> None:
    """A container without GPU that was made when nobody knew whether its reservation was written."""
    lease = a_lease(devices=())
    view = view_of(lease, labels=signed(lease, **{labels.LEASE: labelled}))
    assert acts(world(lease, containers=(view,))) == [Act.CONFIRM]


@pytest.mark.parametrize("labelled", ["", "L9"])
def test_a_container_of_another_lease_is_not_taken_for_this_one(labelled: str) -> None:
    """With a GPU the label must name the lease."""
    lease = a_lease()
    view = view_of(lease, labels=signed(lease, **{labels.LEASE: labelled}))
    assert container_of(lease, (view,), {view.id}) is None


def test_a_leftover_that_was_never_started_goes_with_its_reservation() -> None:
    """Nothing runs in it; it only blocks."""
    lease = a_lease()
    assert acts(world(lease, containers=(view_of(lease, state="created"),))) == [Act.DISCARD]


def test_an_unsigned_container_under_a_reserved_name_is_not_ours() -> None:
    """It binds nothing and is told about."""
    lease = a_lease()
    view = view_of(lease, labels={labels.INSTANCE: INSTANCE, labels.USER: "ana"})
    assert acts(world(lease, containers=(view,), began=120.0)) == [Act.ABSENT, Act.FORGED]


@pytest.mark.parametrize(("until", "found"), [(None, []), (151.0, []), (150.0, [Act.END_HOLD])])
def test_a_hold_ends_when_it_said(until: float | None, found: list[Act]) -> None:
    """A hold without end stays."""
    assert acts(world(bound(state=S.ON_HOLD, hold_until=until))) == found


def test_a_hold_of_hardware_that_is_gone_ends() -> None:
    """There is nothing left to keep."""
    (action,) = plan(world(bound(state=S.ON_HOLD), inventory=Inventory("local")))
    assert action.act is Act.END_HOLD
    assert "gone from this machine" in action.reason


def test_a_container_that_runs_under_a_hold_is_bound_again() -> None:
    """Somebody started it by hand: it has the devices, so they are in use."""
    lease = bound(state=S.ON_HOLD, hold_until=100.0)
    assert acts(world(lease, containers=(view_of(lease),))) == [Act.CONFIRM]


def _one(gpu: Gpu) -> Inventory:
    return Inventory("local", (gpu,))


@pytest.mark.parametrize(
    ("inventory", "lost"),
    [
        (Inventory("local"), True),
        (_one(replace(SEVEN_SLICES, health=Health.LOST)), True),
        (_one(replace(SEVEN_SLICES, mig=False, instances=())), True),
        (_one(mig_gpu(0, dict.fromkeys(range(7), "1g.5gb"), generation=1)), True),
        (_one(replace(SEVEN_SLICES, health=Health.UNKNOWN, instances=())), False),
        (_one(replace(SEVEN_SLICES, mig=None, instances=())), False),
        (_one(replace(SEVEN_SLICES, health=Health.DRAINING)), False),
        (_one(SEVEN_SLICES), False),
    ],
)
def test_a_device_is_lost_only_when_it_is_known_to_be_gone(inventory: Inventory, lost: bool) -> None:
    """Gone, fallen off the bus, divided anew: lost. Ill, or unreadable: unknown, and nothing changes."""
    lease = bound()
    assert acts(world(lease, containers=(view_of(lease),), inventory=inventory)) == ([Act.LOSE] if lost else [])


@pytest.mark.parametrize(("mig", "lost"), [(False, False), (True, True), (None, False)])
def test_a_full_gpu_that_was_divided_is_lost(mig: bool | None, lost: bool) -> None:
    """The whole is gone once it has parts."""
    lease = bound(devices=FakeInventory(full_gpu(1)).now.devices())
    looked_at = world(lease, containers=(view_of(lease),), inventory=_one(full_gpu(1, mig=mig)))
    assert acts(looked_at) == ([Act.LOSE] if lost else [])


@pytest.mark.parametrize("state", [S.RESERVED, S.BOUND, S.RELEASING, S.LOST, S.ON_HOLD])
def test_without_the_gpus_nothing_of_theirs_is_freed_or_destroyed(state: S) -> None:
    """No answer from the driver: leases with a device stay, with or without their container."""
    lease = bound(state=state, hold_until=0.0)
    for containers in ((), (view_of(lease, state="exited"),), (view_of(lease, state="created"),)):
        assert plan(world(lease, containers=containers, inventory=None, now=999.0)) == ()


def test_without_the_gpus_leases_that_have_none_go_on() -> None:
    """CPU only needs no driver."""
    assert acts(world(bound(devices=()), inventory=None)) == [Act.ABSENT]


def test_what_is_under_way_is_not_touched() -> None:
    """An owner whose start or stop goes on in this process is left to it."""
    lease = a_lease()
    view = view_of(bound(owner=BEN, id="L2", container_name="b"), state="created")
    assert len(plan(world(lease, containers=(view,), began=120.0))) == 2
    assert plan(world(lease, containers=(view,), began=120.0, busy=frozenset({"ana/", "ben/"}))) == ()


# -- containers without a lease


def stray(owner: Owner = BEN, **values: Any) -> ContainerView:
    """A signed running container that no lease knows."""
    devices = values.pop("devices", (slice_at(3),))
    lease = a_lease(id="L7", owner=owner, container_name=f"main._.{owner.user}.y", devices=devices)
    return view_of(lease, **values)


def test_a_stray_whose_devices_are_free_is_adopted_as_it_is() -> None:
    """A ledger restored from an older copy learns what runs, with the id that the label has."""
    looked_at = world(containers=(stray(),))
    (action,) = plan(looked_at)
    assert (action.act, action.owner) == (Act.ADOPT, BEN)
    lease = adopted(looked_at.containers[0], looked_at, node="local")
    assert (lease.id, lease.state, lease.owner, lease.container_id) == ("L7", S.BOUND, BEN, "c-L7")
    assert (lease.devices, lease.memory, lease.request, lease.bound_at) == ((slice_at(3),), GIB, "base", NOW)
    assert lease.container_name == "main._.ben.y"


def test_a_stray_without_gpu_is_adopted_without_asking_for_gpus() -> None:
    """One that started while the ledger gave no answer; no memory limit is no number."""
    looked_at = world(containers=(stray(devices=(), memory=0),), inventory=None)
    assert acts(looked_at) == [Act.ADOPT]
    lease = adopted(looked_at.containers[0], looked_at, node="local")
    assert (lease.devices, lease.memory) == ((), None)


def test_a_simulated_device_is_adopted_from_the_label_alone() -> None:
    """The engine was never asked for a device that exists nowhere."""
    assert acts(world(containers=(stray(device_ids=()),))) == [Act.ADOPT]


def test_an_adoption_with_devices_waits_for_the_gpus() -> None:
    """Whether they are free can't be said without them."""
    looked_at = world(containers=(stray(),), inventory=None)
    assert plan(looked_at) == ()
    assert adopted(looked_at.containers[0], looked_at, node="local").devices == ()


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (stray(devices=(slice_at(0),)), "not free"),
        (stray(devices=(replace(slice_at(0), uuid="MIG-gone"),)), "not on this machine"),
        (stray(device_ids=("MIG-0000-5-0",)), "labels do not name"),
        (stray(all_devices=True), "labels do not name"),
    ],
)
def test_a_stray_that_can_not_be_adopted_is_stopped(view: ContainerView, said: str) -> None:
    """Devices of another lease, devices that aren't there, or more than its labels say."""
    lease = bound()
    (action,) = plan(world(lease, containers=(view_of(lease), view)))
    assert (action.act, action.container_id) == (Act.QUARANTINE, view.id)
    assert said in action.reason


def test_a_second_container_of_one_owner_is_stopped() -> None:
    """One owner, one container: the one with the lease stays."""
    lease = bound()
    (action,) = plan(world(lease, containers=(view_of(lease), stray(ANA))))
    assert (action.act, action.container_id) == (Act.QUARANTINE, "c-L7")
    assert "another container" in action.reason


def test_a_stray_waits_for_the_end_of_its_owners_old_lease() -> None:
    """The old lease's container is gone, so its end comes first; the stray is the good one."""
    assert acts(world(bound(), containers=(stray(ANA),))) == [Act.ABSENT]


def test_a_hold_gives_way_to_a_stray_of_its_owner() -> None:
    """Held devices may be the stray's own."""
    held = bound(state=S.ON_HOLD, devices=(slice_at(3),))
    looked_at = world(held, containers=(stray(ANA),))
    assert acts(looked_at) == [Act.ADOPT]
    assert adopted(looked_at.containers[0], looked_at, node="local").devices == (slice_at(3),)


@pytest.mark.parametrize("state", ["created", "exited"])
def test_an_ended_stray_is_swept(state: str) -> None:
    """It only keeps a name and a disk."""
    assert acts(world(containers=(stray(state=state, exit_code=1),), inventory=None)) == [Act.SWEEP]


def test_forged_labels_are_told_and_left_alone() -> None:
    """A container with our instance's label and no signature of ours is nobody's business to remove."""
    forged = stray(labels={labels.INSTANCE: INSTANCE, labels.USER: "ana", labels.DEVICES: slice_at(1).uuid})
    (action,) = plan(world(containers=(forged,)))
    assert (action.act, action.container_id) == (Act.FORGED, forged.id)


def test_containers_of_others_are_none_of_our_business() -> None:
    """No label, or another install's."""
    other = ContainerView("x", "x", "exited", labels={labels.INSTANCE: "other"})
    assert plan(world(containers=(other, ContainerView("y", "y", "running")))) == ()


# -- external use


def used(*containers: ContainerView, leases: tuple[Lease, ...] = (), **values: Any) -> frozenset[str]:
    return external(world(*leases, containers=containers, **values), MACHINE)


def foreign(*ids: str, **values: Any) -> ContainerView:
    return replace(ContainerView("x", "x", "running", device_ids=ids), **values)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("GPU-0001", {"GPU-0001"}),
        ("GPU-000", {"GPU-0000", "GPU-0001"}),
        ("1", {"GPU-0001"}),
        ("0:2", {"GPU-0000"}),
        ("7", set()),
        ("MIG-0000-3-0", {"MIG-0000-3-0"}),
        ("MIG-GPU-0000/3/0", {"GPU-0000"}),
        ("GPU-unknown", set()),
        ("some-new-way", {"GPU-0000", "GPU-0001"}),
        ("²", {"GPU-0000", "GPU-0001"}),
    ],
)
def test_every_way_to_name_a_device_is_understood(name: str, means: set[str]) -> None:
    """What can't be read may mean anything, so it means everything."""
    assert used(foreign(name)) == means


def test_a_container_with_all_devices_takes_every_gpu() -> None:
    """`--gpus all` beside us: nothing is free any more."""
    assert used(foreign(all_devices=True)) == {"GPU-0000", "GPU-0001"}


def test_only_what_runs_uses_anything() -> None:
    """A stopped container holds no device."""
    assert used(foreign("GPU-0001", state="exited")) == frozenset()


def test_a_leased_device_is_not_external() -> None:
    """Ours with its lease; a device beyond the lease is."""
    lease = bound()
    assert used(view_of(lease), leases=(lease,)) == frozenset()
    more = view_of(lease, device_ids=(slice_at(0).uuid, slice_at(1).uuid))
    assert used(more, leases=(lease,)) == {slice_at(1).uuid}


def test_a_signed_stray_uses_what_its_labels_say() -> None:
    """Until it is adopted nobody else gets it; while its start is under way its reservation says so already."""
    assert used(stray(device_ids=())) == {slice_at(3).uuid}
    assert used(stray(), busy=frozenset({"ben/"})) == frozenset()


def test_a_forged_container_uses_what_the_engine_gave_it() -> None:
    """Its labels are not believed: not to take a device away from others, and not to be left out."""
    claims = {labels.INSTANCE: INSTANCE, labels.USER: "ben", labels.DEVICES: slice_at(1).uuid}
    forged = foreign(slice_at(5).uuid, labels=claims)
    assert used(forged, busy=frozenset({"ben/"})) == {slice_at(5).uuid}

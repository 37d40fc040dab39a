"""Reports of the reconciler and events of leases: what metrics and exports are made of."""

from __future__ import annotations

import json
from dataclasses import replace

from ds01_spawner.core import lease_events
from ds01_spawner.core.crash_points import CrashPoint, no_crash
from ds01_spawner.core.devices import Health
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import LeaseState
from ds01_spawner.core.reconcile import Act, Action, World
from ds01_spawner.core.report import Report, report
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.values import ANA, INSTANCE, ONE_SLICE, a_lease, slice_at, view_of

MACHINE = FakeInventory(SEVEN_SLICES, full_gpu(1), full_gpu(2, health=Health.LOST)).now
ACTION = Action(Act.ABSENT, ANA)


def looked(**values: object) -> World:
    lease = a_lease(state=LeaseState.BOUND, container_id="c-L1")
    view = view_of(lease)
    base = World((lease,), (view,), MACHINE, frozenset({view.id}), INSTANCE, 150.0)
    return replace(base, **values)  # type: ignore[arg-type]


def test_a_report_counts_leases_and_devices() -> None:
    """By state and class; what somebody else uses is external; a GPU out of service is no device."""
    found = report(looked(), [("GPU-0000", "0", "L1")], (), frozen="", external=frozenset({"GPU-0001"}))
    assert found.ok
    assert (found.at, found.violations) == (150.0, ())
    assert found.states == {"bound": 1, "lost": 0, "on_hold": 0, "releasing": 0, "reserved": 0}
    assert found.devices == {("1g", "leased"): 1, ("1g", "free"): 6, ("full", "external"): 1, ("gpu", "lost"): 1}


def test_what_is_unknown_is_absent() -> None:
    """Without the GPUs there are no figures of them, rather than zeros."""
    found = report(looked(inventory=None), [("GPU-0000", "0", "L1")], (), frozen="no GPUs", external=frozenset())
    assert found.devices == {}
    assert not found.ok


def test_the_strict_invariants_count_only_when_everything_answered() -> None:
    """A lease without a container is no violation while the engine fails, and one when all is done."""
    alone = looked(containers=())
    claims = [("GPU-0000", "0", "L1")]
    assert report(alone, claims, (), frozen="", external=frozenset()).violations != ()
    assert report(alone, claims, (), frozen="silent", external=frozenset()).violations == ()
    failed = report(alone, claims, ((ACTION, "no answer"),), frozen="", external=frozenset())
    assert (failed.violations, failed.ok) == ((), False)
    assert Report(at=1.0, done=((ACTION, ""),)).ok


def test_an_event_of_a_lease_is_plain_json() -> None:
    """Everything that explains the grant later, readable without our code."""
    event = lease_events.of_lease(a_lease(reason="because"), now=7.0)
    assert (event.kind, event.at, event.user, event.lease) == ("lease.reserved", 7.0, "ana", "L1")
    data = json.loads(json.dumps(event.data))
    assert data["devices"] == [slice_at(0).id]
    assert data["uuids"] == [slice_at(0).uuid]
    assert (data["priority"], data["reason"], data["gpu_equivalents"]) == (10, "because", "1/7")


def test_an_event_of_a_refusal_says_who_asked_for_what_and_why_not() -> None:
    """With the same text that the user saw."""
    refusal = Refusal(Reason.BUSY, "none is free")
    event = lease_events.of_refusal(ANA, ONE_SLICE, "main._.ana.x", 10, refusal, now=7.0)
    assert (event.kind, event.user) == (lease_events.REFUSED, "ana")
    assert event.data["reason"] == "busy"
    assert event.data["message"] == "none is free"
    assert event.data["gpu"] is True


def test_an_event_of_a_container_says_how_it_ended() -> None:
    """Exit code, out of memory, the engine's word, and what the caller adds."""
    view = view_of(a_lease(), state="exited", exit_code=137, oom_killed=True)
    event = lease_events.of_container(lease_events.EXITED, ANA, view, now=7.0, lease="L1", log="last words")
    assert (event.data["exit_code"], event.data["out_of_memory"], event.data["log"]) == (137, True, "last words")


def test_production_has_no_crash_points() -> None:
    """The hook of production does nothing at any of them."""
    assert [no_crash(point) for point in CrashPoint] == [None] * len(CrashPoint)

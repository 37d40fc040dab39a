"""Figures for Prometheus: of what was found, and absent where nobody knows."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from ds01_spawner.adapters.metrics import Metrics
from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import LIVE
from ds01_spawner.core.ports import Event
from ds01_spawner.core.reconcile import Act, Action
from ds01_spawner.core.report import Report
from tests.fakes.values import ANA, ONE_SLICE

STATES = {state.value: 0 for state in LIVE}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_series_exist_before_anything_happened(registry: CollectorRegistry) -> None:
    """A rate needs a beginning."""
    Metrics(registry)
    assert registry.get_sample_value("ds01_invariant_violations", {"invariant": "I1"}) == 0
    assert registry.get_sample_value("ds01_leases", {"state": "bound"}) == 0
    assert registry.get_sample_value("ds01_refusals_total", {"reason": "busy"}) == 0
    assert registry.get_sample_value("ds01_reconcile_actions_total", {"action": "reap", "result": "failed"}) == 0


def test_a_report_becomes_figures(registry: CollectorRegistry) -> None:
    """Heartbeat, states, devices, violations, actions."""
    metrics = Metrics(registry)
    done = ((Action(Act.REAP, ANA), ""), (Action(Act.ABSENT, ANA), ""))
    devices = {("1g", "free"): 6, ("1g", "leased"): 1}
    found = ("I1 slot …", "I1 slot …", "I4 lease …")
    metrics.observe(Report(70.0, "", done, found, states={**STATES, "bound": 3}, devices=devices))
    assert registry.get_sample_value("ds01_reconcile_last_success_seconds") == 70.0
    assert registry.get_sample_value("ds01_leases", {"state": "bound"}) == 3
    assert registry.get_sample_value("ds01_devices", {"class": "1g", "state": "free"}) == 6
    assert registry.get_sample_value("ds01_invariant_violations", {"invariant": "I1"}) == 2
    assert registry.get_sample_value("ds01_invariant_violations", {"invariant": "I4"}) == 1
    assert registry.get_sample_value("ds01_reconcile_actions_total", {"action": "reap", "result": "done"}) == 1
    metrics.observe(Report(85.0, states=STATES))
    assert registry.get_sample_value("ds01_invariant_violations", {"invariant": "I1"}) == 0
    assert registry.get_sample_value("ds01_reconcile_last_success_seconds") == 85.0


def test_an_outage_stops_the_heartbeat_and_blanks_what_is_unknown(registry: CollectorRegistry) -> None:
    """Devices are absent, never 0; leases keep what was known last; the failure is counted."""
    metrics = Metrics(registry)
    metrics.observe(Report(70.0, states={**STATES, "bound": 3}, devices={("1g", "free"): 6}))
    metrics.observe(Report(85.0, "the engine is silent"))
    assert registry.get_sample_value("ds01_reconcile_last_success_seconds") == 70.0
    assert registry.get_sample_value("ds01_grants_frozen") == 1
    assert registry.get_sample_value("ds01_leases", {"state": "bound"}) == 3
    assert registry.get_sample_value("ds01_devices", {"class": "1g", "state": "free"}) is None
    failed = ((Action(Act.REAP, ANA), "no answer"),)
    metrics.observe(Report(90.0, "", failed, states=STATES))
    assert registry.get_sample_value("ds01_reconcile_last_success_seconds") == 70.0
    assert registry.get_sample_value("ds01_reconcile_actions_total", {"action": "reap", "result": "failed"}) == 1


def test_refusals_are_counted_by_reason(registry: CollectorRegistry) -> None:
    """Other events are not."""
    metrics = Metrics(registry)
    metrics(lease_events.of_refusal(ANA, ONE_SLICE, "c", 10, Refusal(Reason.BUSY, "none"), now=1.0))
    metrics(Event(1.0, "lease.bound"))
    assert registry.get_sample_value("ds01_refusals_total", {"reason": "busy"}) == 1

"""Figures of leases and of the reconciler for Prometheus, from its reports and from events."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import Reason
from ds01_spawner.core.leases import LIVE
from ds01_spawner.core.ports import Event
from ds01_spawner.core.reconcile import Act
from ds01_spawner.core.report import Report

INVARIANTS = ("I1", "I2", "I3", "I4")


class Metrics:
    """Give `observe` to the reconciler and the object itself to the allocator as a sink of events.

    A value that nobody knows is absent, never 0: devices while the GPUs can't be read.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._success = gauge(
            "ds01_reconcile_last_success_seconds", "When everything was compared last, POSIX seconds."
        )
        self._frozen = gauge("ds01_grants_frozen", "1 while no GPU is granted because some part gives no answer.")
        self._violations = gauge("ds01_invariant_violations", "Broken invariants in the last comparison.", "invariant")
        self._leases = gauge("ds01_leases", "Live leases.", "state")
        self._devices = gauge(
            "ds01_devices", "GPUs and MIG instances; class gpu: GPUs out of service.", "class", "state"
        )
        self._actions = Counter(
            "ds01_reconcile_actions", "What the reconciler did.", ["action", "result"], registry=registry
        )
        self._refusals = Counter("ds01_refusals", "Requests that were refused.", ["reason"], registry=registry)
        self._name_all()

    def _name_all(self) -> None:
        """Series exist from the start, so that a rate over them has a beginning."""
        for invariant in INVARIANTS:
            self._violations.labels(invariant).set(0)
        for state in LIVE:
            self._leases.labels(state.value).set(0)
        for reason in Reason:
            self._refusals.labels(reason.value)
        for act in Act:
            for result in ("done", "failed"):
                self._actions.labels(act.value, result)

    def observe(self, report: Report) -> None:
        """Take over one report."""
        self._frozen.set(bool(report.frozen))
        for action, problem in report.done:
            self._actions.labels(action.act.value, "failed" if problem else "done").inc()
        self._devices.clear()
        for (name, state), count in report.devices.items():
            self._devices.labels(name, state).set(count)
        if not report.states:
            return  # the ledger or the engine was silent: what was known last stands, and the heartbeat goes old
        for state, count in report.states.items():
            self._leases.labels(state).set(count)
        for invariant in INVARIANTS:
            self._violations.labels(invariant).set(sum(text.startswith(invariant) for text in report.violations))
        if report.ok:
            self._success.set(report.at)

    def __call__(self, event: Event) -> None:
        """Count refusals."""
        if event.kind == lease_events.REFUSED:
            self._refusals.labels(str(event.data.get("reason"))).inc()

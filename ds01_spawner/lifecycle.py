"""The sequence of a start and of a stop, with a container and its lease kept together whatever happens in between.

Start: reserve, create, start, confirm, verify. Stop: releasing, stop, remove, observe absence, free. The spawner, the
reconciler and the fault tests all use this code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ds01_spawner.allocator import Allocator
from ds01_spawner.core import labels, lease_events
from ds01_spawner.core.crash_points import CrashHook, CrashPoint, no_crash
from ds01_spawner.core.errors import DS01Error, EngineUnavailable, LedgerUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.ports import ContainerView, Engine, Payload
from ds01_spawner.core.reconcile import container_of
from ds01_spawner.core.requests import Request
from ds01_spawner.owned import owned, uncut, undisturbed

_log = logging.getLogger(__name__)

MakePayload = Callable[[Lease], Payload]
Progress = Callable[[str, int], None]
Verify = Callable[[Lease, ContainerView], Awaitable[None]]
LOG_LINES = 20
LOG_CHARACTERS = 4000


def no_progress(message: str, percent: int) -> None:
    """For callers that show nobody how far a start is."""


@dataclass(frozen=True, slots=True)
class _Start:
    owner: Owner
    request: Request
    resolved: ResolvedLimits
    make_payload: MakePayload
    container_name: str
    image_id: str
    progress: Progress
    verify: Verify | None


class ContainerLifecycle:
    """Starts and stops leased containers. `instance` and `label_key` say which containers are ours.

    `leftover_grace` (seconds) is what a container of the same owner gets that an earlier start left behind.
    """

    def __init__(
        self,
        allocator: Allocator,
        engine: Engine,
        crash_point: CrashHook = no_crash,
        *,
        instance: str,
        label_key: bytes,
        leftover_grace: float = 10.0,
    ) -> None:
        self._allocator, self._engine, self._crash = allocator, engine, crash_point
        self._instance, self._key, self._leftover_grace = instance, label_key, leftover_grace

    # -- start

    async def start(
        self,
        owner: Owner,
        request: Request,
        resolved: ResolvedLimits,
        make_payload: MakePayload,
        *,
        container_name: str,
        image_id: str,
        progress: Progress = no_progress,
        verify: Verify | None = None,
    ) -> tuple[Lease, ContainerView]:
        """A running container with its bound lease.

        `make_payload` gives the create call's body with signed labels for the lease; `verify` raises where the running
        container isn't what was asked for. What an earlier start of the same owner left is removed first. Without a
        ledger a container without GPU starts all the same: its lease has no id, and the reconciler writes one later.
        Raises Refusal, EngineRefused, Unavailable; whatever is raised, nothing of this start stays for long.
        """
        start = _Start(owner, request, resolved, make_payload, container_name, image_id, progress, verify)
        return await owned(self._guarded_start(start), self._abandon)

    async def _guarded_start(self, start: _Start) -> tuple[Lease, ContainerView]:
        async with self._allocator.guard(start.owner):
            await self._clear(start)
            start.progress("Reserving limits and devices", 10)
            lease = await self._reserve(start)
            self._crash(CrashPoint.RESERVE_COMMITTED)
            for device in lease.devices:
                start.progress(f"Leased {device.profile} ({device.uuid})", 20)
            try:
                return await self._launch(start, lease)
            except BaseException as error:
                await self._undo(lease, error)
                raise

    async def _clear(self, start: _Start) -> None:
        """Adopting is no choice: an old container has an old token, old limits and an old image."""
        lease = None
        try:
            lease = await self._allocator.lease_of(start.owner)
        except LedgerUnavailable as problem:
            _log.warning("leftovers of %s are looked for by label only: %s", start.owner, problem)
        if lease is not None and lease.state is not LeaseState.ON_HOLD:
            start.progress("Removing what an earlier start left", 5)
            await self.retire(lease, reason="replaced by a new start", grace=self._leftover_grace)
        wanted = {labels.INSTANCE: self._instance, labels.USER: start.owner.user, labels.SERVER: start.owner.server}
        for container in await self._engine.list(wanted):
            if self._trusts(container) and labels.owner_of(container.labels) == start.owner:
                await self._remove(container, self._leftover_grace)

    async def _reserve(self, start: _Start) -> Lease:
        try:
            return await self._allocator.reserve(
                start.owner,
                start.request,
                start.resolved,
                container_name=start.container_name,
                image_id=start.image_id,
            )
        except LedgerUnavailable as problem:
            _log.error("%s starts without a lease, since the ledger gives no answer: %s", start.owner, problem)
            now = self._allocator.now()
            return Lease(
                id="",
                owner=start.owner,
                node=self._allocator.node,
                state=LeaseState.RESERVED,
                reserved_at=now,
                expires_at=now,
                container_name=start.container_name,
                request=str(start.request),
                memory=start.resolved.limits.memory,
                image_id=start.image_id,
                priority=start.resolved.limits.priority,
            )

    async def _launch(self, start: _Start, lease: Lease) -> tuple[Lease, ContainerView]:
        start.progress("Creating the container", 30)
        payload = start.make_payload(lease)
        self._check_labels(payload, start.container_name, lease.id)
        container_id = await uncut(self._engine.create(start.container_name, payload))
        self._crash(CrashPoint.CREATED)
        start.progress("Starting the container", 50)
        await uncut(self._engine.start(container_id))
        self._crash(CrashPoint.STARTED)
        lease = await self._confirm(lease, container_id)
        self._crash(CrashPoint.CONFIRMED)
        view = await self._engine.inspect(container_id)
        if view is None or not view.running:
            raise await self._start_failed(lease, view)
        start.progress("Checking limits and devices", 60)
        if start.verify is not None:
            await start.verify(lease, view)
        return lease, view

    def _check_labels(self, payload: Payload, name: str, lease_id: str) -> None:
        """Our own mistake, caught before it makes a container that nobody would find again."""
        ours = ContainerView(id="", name=name, state="created", labels=payload.get("Labels") or {})
        if not self._trusts(ours) or ours.labels.get(labels.LEASE) != lease_id:
            raise ValueError(f"the payload of {name} doesn't carry the signed labels of lease {lease_id!r}")

    async def _confirm(self, lease: Lease, container_id: str) -> Lease:
        started = replace(lease, container_id=container_id)
        if not lease.id:
            return started
        try:
            return await self._allocator.confirm(lease.id, container_id)
        except LedgerUnavailable:
            if lease.devices:
                raise
            # The reservation stands until the reconciler finds the container and binds it.
            return started

    async def _start_failed(self, lease: Lease, view: ContainerView | None) -> Refusal:
        cause = "it is gone" if view is None else lease_events.exit_cause(view)
        tail = "" if view is None else await self._note_exit(lease.owner, lease.id, view)
        return Refusal(Reason.ENGINE, f"The container ended right after its start: {cause}.", cause=cause, log=tail)

    async def _undo(self, lease: Lease, error: BaseException) -> None:
        cancelled = isinstance(error, asyncio.CancelledError)
        # A refusal's text may quote what the container printed; its cause is in our own words.
        cause = error.data.get("cause", error) if isinstance(error, Refusal) else error
        reason = "the start was cancelled" if cancelled else f"the start failed: {cause}"
        try:
            await self.retire(lease, reason=reason, grace=0)
        except DS01Error as problem:
            _log.error("%s: the reconciler has to clean up after this start: %s", lease.owner, problem)

    async def _abandon(self, result: tuple[Lease, ContainerView]) -> None:
        await self.stop(result[0], grace=0, reason="the start was cancelled")

    # -- stop

    async def stop(self, lease: Lease, *, grace: float, reason: str = "stopped", hold: float | None = 0.0) -> None:
        """Stop and remove the container; returns when its absence was observed. Goes on where the caller is cancelled.

        `grace` is seconds between SIGTERM and SIGKILL. `hold` keeps the devices for their owner for that many seconds
        (None: without end). Raises EngineUnavailable; the reconciler then does the rest.
        """
        await undisturbed(self._guarded_stop(lease, grace, reason, hold))

    async def _guarded_stop(self, lease: Lease, grace: float, reason: str, hold: float | None) -> None:
        async with self._allocator.guard(lease.owner):
            current = await self._current(lease)
            if current.live:
                await self.retire(current, reason=reason, grace=grace, hold=hold)

    async def _current(self, lease: Lease) -> Lease:
        """The lease as the ledger has it now: one that started without an id may have been written meanwhile."""
        try:
            if lease.id:
                return await self._allocator.get(lease.id) or lease
            found = await self._allocator.lease_of(lease.owner)
        except LedgerUnavailable:
            return lease
        return found if found is not None and found.container_id == lease.container_id else lease

    async def retire(self, lease: Lease, *, reason: str, grace: float, hold: float | None = 0.0) -> None:
        """The steps of a stop. To be called under the owner's guard. See `stop`."""
        keep = hold != 0 and bool(lease.devices) and lease.state is LeaseState.BOUND
        if lease.id and not keep:
            await self._tell_ledger(self._allocator.release(lease.id, reason))
        self._crash(CrashPoint.STOPPING)
        container = await self.find(lease)
        if container is not None:
            if not container.running and container.state != "created":
                await self._note_exit(lease.owner, lease.id, container)
            await self._remove(container, grace)
        self._crash(CrashPoint.REMOVED)
        if await self.find(lease) is not None:
            raise EngineUnavailable(f"container {lease.container_name} is still there after its removal")
        if lease.id:
            await self._tell_ledger(
                self._allocator.hold(lease.id, hold, reason) if keep else self._allocator.absent(lease.id, reason)
            )
        self._crash(CrashPoint.RELEASE_COMMITTED)

    async def _tell_ledger(self, change: Awaitable[Lease]) -> None:
        """A container must stop without a ledger too; what isn't written now the reconciler writes."""
        try:
            await change
        except LedgerUnavailable as problem:
            _log.error("the reconciler has to write this later: %s", problem)

    async def _remove(self, container: ContainerView, grace: float) -> None:
        if container.running and grace > 0:
            await uncut(self._engine.stop(container.id, grace=grace))
        self._crash(CrashPoint.STOPPED)
        await uncut(self._engine.remove(container.id))

    async def _note_exit(self, owner: Owner, lease_id: str, container: ContainerView) -> str:
        """Keep how a container ended, with its last lines; those lines."""
        tail = (await self._engine.logs(container.id, lines=LOG_LINES))[-LOG_CHARACTERS:]
        event = lease_events.of_container(
            lease_events.EXITED, owner, container, now=self._allocator.now(), lease=lease_id, log=tail
        )
        try:
            await self._allocator.record(event)
        except LedgerUnavailable as problem:
            _log.error("how %s ended is not in the ledger: %s", container.name, problem)
        return tail

    # -- look

    async def find(self, lease: Lease) -> ContainerView | None:
        """The lease's container in whatever state; None only where the engine says that there is none."""
        view = await self._engine.inspect(lease.container_id or lease.container_name)
        if view is None:
            return None
        return container_of(lease, (view,), {view.id} if self._trusts(view) else ())

    async def is_alive(self, lease: Lease) -> ContainerView | None:
        """The lease's running container. Raises EngineUnavailable where nobody knows."""
        view = await self.find(lease)
        return view if view is not None and view.running else None

    def _trusts(self, container: ContainerView) -> bool:
        return labels.trusts(container, instance=self._instance, key=self._key)

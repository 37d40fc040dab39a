"""The reconciler: compares ledger, engine and GPUs, at start, on engine events and on a timer, and mends what differs.

What to do is decided in `core.reconcile`. Each decision is made a second time, on a fresh look at its lease and its
container and with everybody else kept away from their owner, right before it is carried out.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ds01_spawner.allocator import Allocator
from ds01_spawner.core import labels, lease_events, reconcile
from ds01_spawner.core.crash_points import CrashHook, no_crash
from ds01_spawner.core.errors import DS01Error, InventoryUnavailable, LeaseConflict, Unavailable
from ds01_spawner.core.leases import Lease
from ds01_spawner.core.ports import Clock, ContainerView, Engine
from ds01_spawner.core.reconcile import Act, Action, World
from ds01_spawner.core.report import Outcome, Report, report
from ds01_spawner.lifecycle import ContainerLifecycle
from ds01_spawner.owned import undisturbed

_log = logging.getLogger(__name__)

#: Seconds in which further engine events count as the same one.
DEBOUNCE = 0.2
Claims = tuple[tuple[str, str, str], ...]
#: Looks in one run at most, while each finds something to do.
ROUNDS = 3
#: At most this many actions go on at once.
AT_ONCE = 8


class Reconciler:
    """Keeps the three truths equal.

    `grace`: seconds that a container gets to end; `every`: seconds between two comparisons when nothing happens, ±10 %;
    `observe` is given each report (metrics, exports) and runs in a thread.
    """

    def __init__(
        self,
        allocator: Allocator,
        engine: Engine,
        *,
        instance: str,
        label_key: bytes,
        clock: Clock,
        grace: float = 10.0,
        every: float = 15.0,
        observe: Callable[[Report], None] | None = None,
        crash_point: CrashHook = no_crash,
    ) -> None:
        self._allocator, self._engine = allocator, engine
        self._instance, self._key, self._clock = instance, label_key, clock
        self._grace, self._every, self._observe = grace, every, observe
        self._lifecycle = ContainerLifecycle(
            allocator, engine, crash_point, instance=instance, label_key=label_key, leftover_grace=grace
        )
        self._one_run = asyncio.Lock()
        self._woken, self._first = asyncio.Event(), asyncio.Event()
        self._began = clock()
        self._tasks: list[asyncio.Task[None]] = []
        self._told_of: set[str] = set()
        self.last: Report | None = None

    # -- the loop

    def start(self) -> None:
        """Begin in the background, on the running loop: once now, then on engine events and on the timer."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._loop()), asyncio.create_task(self._listen())]

    async def first(self) -> None:
        """Returns when this process has compared everything once, or has failed to; begins where nobody did."""
        self.start()
        await self._first.wait()

    def wake(self) -> None:
        """Something happened: compare soon."""
        self._woken.set()

    async def stop(self) -> None:
        """End the background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _loop(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._ran() else failures + 1
            self._first.set()
            # After a failure sooner, then ever later: what answers again is noticed, what is ill isn't pressed.
            wait = self._pause(failures) if failures else self._every * random.uniform(0.9, 1.1)  # noqa: S311  # jitter, no secret
            # Not wait_for: before Python 3.12 that forgets a cancellation which comes together with the wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()
                await asyncio.sleep(DEBOUNCE)
            self._woken.clear()

    async def _ran(self) -> bool:
        try:
            return (await self.run_once()).ok
        except Exception:
            # This loop is what frees devices: it must outlive any single surprise.
            _log.exception("reconcile failed")
            self._allocator.frozen = "the last comparison of containers, leases and GPUs failed"
            return False

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for _ in self._engine.events():
                    failures = 0
                    self.wake()
            except Unavailable as problem:
                _log.warning("no events from the engine, the timer goes on: %s", problem)
            failures += 1
            self.wake()
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        return min(self._every, 2.0 ** min(failures, 10))

    # -- one comparison

    async def run_once(self) -> Report:
        """Compare once, mend, compare again; what was found and done. Not cut short by a cancelled caller."""
        return await undisturbed(self._run())

    async def _run(self) -> Report:
        async with self._one_run:
            busy = frozenset(self._allocator.in_flight)
            outcomes: list[Outcome] = []
            try:
                # What one round ended can free the way for another action, which isn't left to the next timer.
                for _ in range(ROUNDS):
                    world, claims = await self._look(busy)
                    self._apply(world)
                    done = await self._mend(world)
                    outcomes += done
                    if not done or any(problem for _, problem in done):
                        break
                result = await self._checked(world, claims, tuple(outcomes))
            except Unavailable as problem:
                self._allocator.frozen = f"the containers can't be compared with the ledger ({problem})"
                result = Report(at=self._clock(), frozen=self._allocator.frozen, done=tuple(outcomes))
            return await self._tell(result)

    async def _mend(self, world: World) -> list[Outcome]:
        limit = asyncio.Semaphore(AT_ONCE)
        done = await asyncio.gather(*(self._carefully(action, limit) for action in reconcile.plan(world)))
        return [outcome for outcome in done if outcome is not None]

    async def _look(self, busy: frozenset[str]) -> tuple[World, Claims]:
        """All three truths. Raises Unavailable where the engine or the ledger is silent; the GPUs may be None."""
        containers = await self._engine.list()
        leases, claims = await self._allocator.live_with_claims()
        inventory = None
        try:
            inventory = await self._allocator.inventory(max_age=0)
        except InventoryUnavailable as problem:
            self._allocator.frozen = f"the GPUs can't be read ({problem})"
        trusted = frozenset(c.id for c in containers if self._trusts(c))
        # Who was busy before the look may be done by now, and what was listed of theirs is old.
        busy |= frozenset(self._allocator.in_flight)
        now = self._clock()
        return World(leases, containers, inventory, trusted, self._instance, now, busy, self._began), claims

    def _apply(self, world: World) -> None:
        if world.inventory is not None:
            self._allocator.set_external(reconcile.external(world, world.inventory))
            self._allocator.frozen = ""

    async def _carefully(self, action: Action, limit: asyncio.Semaphore) -> Outcome | None:
        """Carry out one action; it with what went wrong, None where it wasn't needed any more."""
        async with limit, self._allocator.guard(action.owner, wait=False) as alone:
            if not alone:
                return None
            try:
                return (action, "") if await self._act(action) else None
            except DS01Error as problem:
                _log.error("reconcile: %s of %s failed: %s", action.act, action.owner, problem)
                return action, str(problem) or type(problem).__name__

    async def _act(self, action: Action) -> bool:
        container = await self._engine.inspect(action.container_id) if action.container_id else None
        world = await self._fresh(action, container)
        if action.lease_id:
            lease = next((lease for lease in world.leases if lease.id == action.lease_id), None)
            if lease is None or reconcile.for_lease(lease, container, world) != action:
                return False
            return await self._mend_lease(action, lease, container)
        leased = [reconcile.container_of(lease, world.containers, world.trusted) for lease in world.leases]
        if container is None or container in leased or reconcile.for_container(container, world) != action:
            return False
        return await self._mend_container(action, container, world)

    async def _fresh(self, action: Action, container: ContainerView | None) -> World:
        """The world as far as this action's owner is concerned, a moment ago."""
        leases = await self._allocator.live()
        names = [lease.container_id or lease.container_name for lease in leases if lease.owner == action.owner]
        found = [container, *[await self._engine.inspect(name) for name in names]]
        containers = tuple({c.id: c for c in found if c is not None}.values())
        trusted = frozenset(c.id for c in containers if self._trusts(c))
        seen, now = self._allocator.snapshot(), self._clock()
        return World(leases, containers, seen, trusted, self._instance, now, began=self._began)

    async def _mend_lease(self, action: Action, lease: Lease, container: ContainerView | None) -> bool:
        allocator = self._allocator
        match action.act:
            case Act.CONFIRM:
                await allocator.confirm(lease.id, action.container_id)
            case Act.LOSE:
                await allocator.lost(lease.id, action.reason)
            case Act.END_HOLD:
                await allocator.absent(lease.id, action.reason)
            case Act.ABSENT:
                # A second look, and by the name where there is no id: anything at all there, and nothing is freed.
                if await self._engine.inspect(lease.container_id or lease.container_name) is not None:
                    return False
                await allocator.absent(lease.id, action.reason)
            case _:
                await self._lifecycle.retire(lease, reason=action.reason, grace=self._grace)
        return True

    async def _mend_container(self, action: Action, container: ContainerView, world: World) -> bool:
        match action.act:
            case Act.FORGED:
                if container.id in self._told_of:
                    return False
                self._told_of.add(container.id)
                await self._note(lease_events.FORGED, action, container)
            case Act.ADOPT:
                await self._adopt(action, container, world)
            case Act.QUARANTINE:
                await self._note(lease_events.QUARANTINED, action, container)
                await self._engine.stop(container.id, grace=self._grace)
            case _:
                await self._note(lease_events.SWEPT, action, container)
                await self._engine.remove(container.id)
        return True

    async def _adopt(self, action: Action, container: ContainerView, world: World) -> None:
        try:
            lease = await self._allocator.adopt(reconcile.adopted(container, world, node=self._allocator.node))
        except LeaseConflict:
            # Taken between the look and the write: the next round finds that its devices aren't free.
            self.wake()
            raise
        await self._note(lease_events.ADOPTED, replace(action, lease_id=lease.id), container)

    async def _note(self, kind: str, action: Action, container: ContainerView) -> None:
        event = lease_events.of_container(
            kind, action.owner, container, now=self._clock(), lease=action.lease_id, reason=action.reason
        )
        await self._allocator.record(event)

    def _trusts(self, container: ContainerView) -> bool:
        return labels.trusts(container, instance=self._instance, key=self._key)

    # -- what came of it

    async def _checked(self, world: World, claims: Claims, done: tuple[Outcome, ...]) -> Report:
        """The report with the invariants checked. What is broken must be so in two looks: a look is not instant."""
        if done:
            world, claims = await self._look(world.busy)
        found = self._report(world, claims, done)
        if found.violations:
            again = self._report(*await self._look(world.busy), done)
            found = replace(again, violations=tuple(v for v in again.violations if v in found.violations))
        for violation in found.violations:
            _log.error("invariant broken: %s", violation)
        return found

    def _report(self, world: World, claims: Claims, done: tuple[Outcome, ...]) -> Report:
        return report(world, claims, done, frozen=self._allocator.frozen, external=self._allocator.external)

    async def _tell(self, result: Report) -> Report:
        self.last = result
        if self._observe is not None:
            try:
                await asyncio.to_thread(self._observe, result)
            except OSError as problem:
                _log.error("the report was not exported: %s", problem)
        return result

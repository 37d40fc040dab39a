"""A machine that outlives the hub: ledger, engine and GPUs, with hub processes that can be killed at any await.

A killed process sends nothing more: whatever its clean-up still tries goes nowhere, as after SIGKILL.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from ds01_spawner.allocator import Allocator
from ds01_spawner.core import invariants, labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.crash_points import CrashPoint
from ds01_spawner.core.errors import DS01Error
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.report import Report
from ds01_spawner.core.requests import Request, parse_gpu
from ds01_spawner.lifecycle import ContainerLifecycle
from ds01_spawner.reconciler import Reconciler
from tests.fakes.fake_engine import IMAGE, FakeEngine
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.frozen_clock import FrozenClock
from tests.fakes.inline_executor import InlineExecutor
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import GIB, INSTANCE, KEY, limits_of, payload_of

HOST = Host(memory=9 * GIB, memory_reserve=2 * GIB, cpus=4)
REQUESTS = (
    Request("base"),
    Request("base", parse_gpu("1g")),
    Request("base", parse_gpu("1g"), 2),
    Request("base", parse_gpu("full")),
)


class ProcessDied(BaseException):
    """What code of a killed process meets; nothing may catch it for good."""


class Wire:
    """A killed process's calls don't arrive: every method raises from then on."""

    def __init__(self, target: Any) -> None:
        self._target, self.cut = target, False

    def __getattr__(self, name: str) -> Any:
        if self.cut:
            raise ProcessDied
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.cut:
                raise ProcessDied
            answer = found(*args, **kwargs)
            return self._awaited(answer) if asyncio.iscoroutine(answer) else answer

        return call

    async def _awaited(self, answer: Any) -> Any:
        result = await answer
        if self.cut:
            raise ProcessDied
        return result


class Hub:
    """One hub process: its objects, its tasks, and the power to kill it."""

    def __init__(self, world: World, allocator_class: type[Allocator] = Allocator) -> None:
        self.wires = [Wire(world.ledger), Wire(world.engine), Wire(world.inventory)]
        ledger, engine, inventory = self.wires
        self.die_at: CrashPoint | None = None
        self.allocator = allocator_class(
            ledger, inventory, clock=world.clock, node="local", host=HOST, reserve_ttl=30.0, executor=InlineExecutor()
        )
        known = {"instance": INSTANCE, "label_key": KEY}
        self.lifecycle = ContainerLifecycle(self.allocator, engine, self._crash, **known)  # type: ignore[arg-type]
        self.reconciler = Reconciler(
            self.allocator,
            engine,
            clock=world.clock,
            crash_point=self._crash,
            **known,  # type: ignore[arg-type]
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.dead = False

    def _crash(self, point: CrashPoint) -> None:
        if point is self.die_at:
            self.kill()
            raise ProcessDied

    def kill(self) -> None:
        self.dead = True
        for wire in self.wires:
            wire.cut = True


class World:
    """What stays. `violations` collects everything that was ever broken, with the step at which it was."""

    def __init__(self, seed: int, allocator_class: type[Allocator] = Allocator) -> None:
        self.random = random.Random(seed)
        self.clock = FrozenClock()
        self.ledger, self.engine = MemoryLedger(), FakeEngine(self.clock)
        self.inventory = FakeInventory(SEVEN_SLICES, full_gpu(1))
        self._allocator_class = allocator_class
        self.users = [Owner(name) for name in ("ana", "ben", "carla", "dan")]
        self.limits: Mapping[str, ResolvedLimits] = {
            owner.user: limits_of(owner.user, max_containers_per_user=2, max_mig_instances=2) for owner in self.users
        }
        self.leases: dict[Owner, Lease] = {}
        self.violations: list[str] = []
        self.history: list[str] = []
        self._names = 0
        self.hub = Hub(self, allocator_class)

    # -- what users do

    def start(self, owner: Owner, request: Request) -> None:
        self._names += 1
        name = f"main._.{owner.user}.{self._names}"
        hub = self.hub
        self._task(lambda: self._start(hub, owner, request, name))

    async def _start(self, hub: Hub, owner: Owner, request: Request, name: str) -> None:
        lease, _view = await hub.lifecycle.start(
            owner, request, self.limits[owner.user], payload_of, container_name=name, image_id=IMAGE
        )
        self.leases[owner] = lease

    def stop(self, owner: Owner) -> None:
        if owner in self.leases:
            hold, hub, lease = self.random.choice((0.0, 0.0, 20.0)), self.hub, self.leases[owner]
            self._task(lambda: hub.lifecycle.stop(lease, grace=1.0, reason="by its user", hold=hold))

    def cancel_one(self) -> None:
        running = [task for task in self.hub.tasks if not task.done()]
        if running:
            self.random.choice(running).cancel()

    def reconcile(self) -> None:
        self._task(self.hub.reconciler.run_once)

    def _task(self, work: Callable[[], Awaitable[object]]) -> None:
        async def quiet() -> None:
            with suppress(DS01Error, ProcessDied, asyncio.CancelledError):
                await work()

        self.hub.tasks.append(asyncio.ensure_future(quiet()))

    # -- what happens to them

    def crash_container(self) -> None:
        running = [view.id for view in self.engine.containers.values() if view.running]
        if running:
            self.engine.crash(self.random.choice(running), self.random.choice((1, 137)), oom=self.random.random() < 0.3)

    def remove_by_hand(self) -> None:
        if self.engine.containers:
            del self.engine.containers[self.random.choice(list(self.engine.containers))]

    def foreign_container(self) -> None:
        """Somebody runs a container beside us, on a GPU that no lease has."""
        used = {device.gpu_uuid for lease in self.ledger._live() for device in lease.devices}
        free = [gpu.uuid for gpu in self.inventory.gpus if gpu.uuid not in used]
        if free and not self.hub.allocator.in_flight and self.engine.by_name("somebody") is None:
            self.engine.foreign("somebody", device_ids=(self.random.choice(free),), labels={"ds01.instance": INSTANCE})

    def engine_errors(self) -> None:
        method = self.random.choice(("create", "start", "stop", "remove", "inspect", "list", "logs", "*"))
        self.engine.fail(method, times=self.random.randint(1, 3), after=self.random.random() < 0.5)

    def toggle_nvml(self) -> None:
        self.inventory.outage = not self.inventory.outage

    def toggle_ledger(self) -> None:
        self.ledger.outage = not self.ledger.outage

    def lose_a_write(self) -> None:
        self.ledger.lose_answers = 1

    def kill_hub(self) -> None:
        """SIGKILL between two steps, and a new process that knows nothing."""
        self.hub.kill()
        self._new_hub()

    def kill_hub_at_a_point(self) -> None:
        self.hub.die_at = self.random.choice(list(CrashPoint))

    def _new_hub(self) -> None:
        for task in self.hub.tasks:
            task.cancel()
        self.leases.clear()
        self.hub = Hub(self, self._allocator_class)

    # -- the run

    async def step(self) -> None:
        """One thing happens, then everybody gets a random number of turns, then the invariants are checked."""
        happening, weight = zip(*_HAPPENINGS, strict=True)
        what = self.random.choices(happening, weight)[0]
        self.history.append(what.__name__)
        what(self)
        for _ in range(self.random.choice((0, 1, 2, 4, 8, 30))):
            await asyncio.sleep(0)
            if self.hub.dead:
                self._new_hub()
        self.check()

    def check(self, *, settled: bool = False) -> None:
        outage, self.ledger.outage = self.ledger.outage, False
        containers = tuple(self.engine.containers.values())
        trusted = {view.id for view in containers if labels.trusts(view, instance=INSTANCE, key=KEY)}
        found = invariants.violations(
            self.ledger.live(),
            self.ledger.claims(),
            containers,
            self.inventory.now,
            self.clock(),
            trusted=trusted,
            busy=() if settled else self.hub.allocator.in_flight,
            resolved=self.limits,
            host=HOST,
            settled=settled,
        )
        self.ledger.outage = outage
        self.violations += [f"step {len(self.history)}, after {self.history[-3:]}: {text}" for text in found]

    async def settle(self) -> Report:
        """The faults end, the last calls too; reservations run out; one reconcile."""
        self.engine.heal()
        self.inventory.outage = self.ledger.outage = False
        self.ledger.lose_answers = 0
        self.hub.die_at = None
        while pending := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            await asyncio.wait(pending)
        if self.hub.dead:
            self._new_hub()
        self.clock.advance(60.0)
        return await self.hub.reconciler.run_once()


def _user_starts(world: World) -> None:
    world.start(world.random.choice(world.users), world.random.choice(REQUESTS))


def _user_stops(world: World) -> None:
    world.stop(world.random.choice(world.users))


def _time_passes(world: World) -> None:
    world.clock.advance(world.random.choice((1.0, 10.0, 31.0)))


def _reconcile(world: World) -> None:
    world.reconcile()


def _method(name: str) -> Callable[[World], None]:
    def happen(world: World) -> None:
        getattr(world, name)()

    happen.__name__ = name
    return happen


_HAPPENINGS: list[tuple[Callable[[World], None], int]] = [
    (_user_starts, 30),
    (_user_stops, 12),
    (_reconcile, 14),
    (_time_passes, 8),
    (_method("cancel_one"), 8),
    (_method("crash_container"), 6),
    (_method("remove_by_hand"), 2),
    (_method("foreign_container"), 2),
    (_method("engine_errors"), 8),
    (_method("toggle_nvml"), 4),
    (_method("toggle_ledger"), 3),
    (_method("lose_a_write"), 2),
    (_method("kill_hub"), 3),
    (_method("kill_hub_at_a_point"), 4),
]


def leaks(world: World) -> list[str]:
    """After a settled reconcile: leases or containers without their counterpart, and devices that nobody can get."""
    running = {view.name for view in world.engine.containers.values() if view.running}
    leased = {lease.container_name for lease in world.ledger.live() if lease.state is not LeaseState.ON_HOLD}
    ours = {name for name in running if name != "somebody"}
    ended = [view for view in world.engine.containers.values() if not view.running]
    return [
        *(f"lease without a running container: {name}" for name in sorted(leased - running)),
        *(f"container without a lease: {name}" for name in sorted(ours - leased)),
        *(f"dead container: {v.name} {v.state}" for v in ended if v.name != "somebody"),
    ]


def bound(world: World) -> set[tuple[str, str]]:
    """Running containers with a bound lease, which no death of a hub may end."""
    running: dict[str, ContainerView] = {view.id: view for view in world.engine.containers.values() if view.running}
    live = world.ledger._live()
    return {
        (lease.id, lease.container_id) for lease in live if lease.state == "bound" and lease.container_id in running
    }

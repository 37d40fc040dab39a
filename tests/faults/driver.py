"""The parts of one hub process on the real engine, without JupyterHub; and a process of them that kills itself.

    python -m tests.faults.driver INSTALL-AS-JSON OPERATION POINT

runs `start`, `stop` or `reconcile` and dies by SIGKILL when the named point is reached. What it leaves is found by
fresh parts, as a restarted hub finds it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import docker

from ds01_spawner import container_spec
from ds01_spawner.adapters.clock import system_clock
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.adapters.ledger import SqlLedger
from ds01_spawner.adapters.nvml import NvmlInventory
from ds01_spawner.allocator import Allocator
from ds01_spawner.container_spec import Person, Wanted
from ds01_spawner.core import invariants, labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.crash_points import CrashHook, CrashPoint, no_crash
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import Limits, ResolvedLimits
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.core.requests import Request, parse_gpu
from ds01_spawner.lifecycle import ContainerLifecycle
from ds01_spawner.reconciler import Reconciler

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = b"a key of tests"
MIB = 1 << 20
HOST = Host(memory=4096 * MIB, memory_reserve=512 * MIB, cpus=2)
ONE_SLICE = Request("base", parse_gpu("1g"))
CPU_ONLY = Request("base")
#: Ends at SIGTERM at once, as a server does.
SERVER = ("/bin/sh", "-c", "trap 'exit 3' TERM; sleep 600 & wait")
LIMITS = Limits(memory=32 * MIB, memory_swap=32 * MIB, pids_limit=20, max_mig_instances=1, max_containers_per_user=1)


@dataclass(frozen=True)
class Install:
    """What outlives a process: the ledger's folder, the engine, and whose containers are ours."""

    root: str
    engine: str
    image: str
    instance: str


class Parts:
    """One hub process: everything real but JupyterHub and the image."""

    def __init__(self, install: Install, crash_point: CrashHook = no_crash, *, every: float = 15.0) -> None:
        self.install = install
        self.engine = DockerEngine(install.engine, timeout=5.0, slow_timeout=20.0)
        self.ledger = SqlLedger(f"sqlite:///{install.root}/ledger.sqlite")
        self.allocator = Allocator(
            self.ledger, NvmlInventory("local", clock=system_clock), clock=system_clock, node="local", host=HOST
        )
        self.lifecycle = ContainerLifecycle(
            self.allocator, self.engine, crash_point, instance=install.instance, label_key=KEY, leftover_grace=1
        )
        self.reconciler = Reconciler(
            self.allocator,
            self.engine,
            instance=install.instance,
            label_key=KEY,
            clock=system_clock,
            grace=1,
            every=every,
            crash_point=crash_point,
        )

    def close(self) -> None:
        """End as a process that ends in peace."""
        self.allocator.close()
        self.ledger.close()
        self.engine.close()

    async def start(
        self, user: str, request: Request = ONE_SLICE, *, command: Iterable[str] = SERVER
    ) -> tuple[Lease, ContainerView]:
        """A start as the launcher makes it, with the hub's own container profile but no network."""
        return await self.lifecycle.start(
            Owner(user),
            request,
            self.limits(user),
            lambda lease: self.payload(lease, command),
            container_name=f"main._.{user}.{secrets.token_hex(4)}",
            image_id=self.install.image,
        )

    def limits(self, user: str) -> ResolvedLimits:
        """Everybody's: one container, one device."""
        return ResolvedLimits(user, None, LIMITS)

    def payload(self, lease: Lease, command: Iterable[str] = SERVER) -> dict[str, Any]:
        """The create call's body for a lease."""
        plain = labels.of_lease(lease, instance=self.install.instance)
        wanted = Wanted(
            image_id=self.install.image,
            person=Person("image-user", 1000, 1000),
            limits=LIMITS,
            network="none",
            hostname="main",
            env={},
            args=tuple(command),
            labels=labels.sign(plain, KEY, name=lease.container_name),
            devices=lease.devices,
        )
        return container_spec.make(wanted)

    async def stop(self, user: str, *, grace: float = 1) -> None:
        """A stop as the hub makes it."""
        lease = await self.allocator.lease_of(Owner(user))
        assert lease is not None
        await self.lifecycle.stop(lease, grace=grace)

    async def containers(self) -> tuple[ContainerView, ...]:
        """All containers that bear this install's label, ended ones too."""
        return await self.engine.list({labels.INSTANCE: self.install.instance})

    async def broken(self) -> list[str]:
        """What must never be after a reconcile: a broken invariant, a lease or a container without the other."""
        leases, claims = await self.allocator.live_with_claims()
        containers = await self.engine.list()
        trusted = {c.id for c in containers if labels.trusts(c, instance=self.install.instance, key=KEY)}
        inventory = await self.allocator.inventory(max_age=0)
        found = invariants.violations(
            leases,
            claims,
            containers,
            inventory,
            system_clock(),
            trusted=trusted,
            resolved={lease.owner.user: self.limits(lease.owner.user) for lease in leases},
            host=HOST,
            settled=True,
        )
        bound = {lease.container_id for lease in leases if lease.state is LeaseState.BOUND}
        # A renamed container has no valid signature any more; it is ours by its id.
        running = {c.id for c in containers if c.running and (c.id in trusted or c.id in bound)}
        ended = {c.name for c in containers if c.id in trusted and not c.running}
        return [
            *found,
            *(f"lease {lease.id} is {lease.state}" for lease in leases if lease.state is not LeaseState.BOUND),
            *(f"lease without a container: {container}" for container in sorted(bound - running)),
            *(f"container without a lease: {container}" for container in sorted(running - bound)),
            *(f"ended container: {name}" for name in sorted(ended)),
            *await asyncio.to_thread(in_two_containers, self.install.engine),
        ]


def in_two_containers(engine_url: str) -> list[str]:
    """Devices that two running containers were given, by the engine's own word, not by our ledger."""
    holder: dict[str, str] = {}
    found = []
    with client(engine_url) as api:
        for entry in api.containers():
            try:
                config = api.inspect_container(entry["Id"])
            except docker.errors.NotFound:
                continue
            for request in config["HostConfig"].get("DeviceRequests") or ():
                for device in request.get("DeviceIDs") or ():
                    other = holder.setdefault(device, config["Name"])
                    if other != config["Name"]:
                        found.append(f"device {device} is in {other} and in {config['Name']}")
    return found


@contextmanager
def client(engine_url: str) -> Iterator[docker.APIClient]:
    """docker-py itself, for what the hub's adapter doesn't do."""
    api = docker.APIClient(base_url=engine_url, version="auto", timeout=60)
    try:
        yield api
    finally:
        api.close()


def remove_all(engine_url: str, instance: str) -> None:
    """Remove every container with an install's label."""
    with client(engine_url) as api:
        for entry in api.containers(all=True, filters={"label": f"{labels.INSTANCE}={instance}"}):
            api.remove_container(entry["Id"], force=True, v=True)


def die_at(install: Install, operation: str, point: CrashPoint, env: dict[str, str]) -> None:
    """Run an operation of user ana's in a process of its own that is killed at the point; fails where it wasn't."""
    command = [sys.executable, "-m", "tests.faults.driver", json.dumps(asdict(install)), operation, point.value]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, f"{operation} didn't reach {point}: {done.returncode} {done.stderr}"


def _kill_me_at(wanted: CrashPoint) -> CrashHook:
    def hook(point: CrashPoint) -> None:
        if point is wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


async def _main(install: Install, operation: str, point: CrashPoint) -> None:
    parts = Parts(install, _kill_me_at(point))
    if operation == "reconcile":
        await parts.reconciler.run_once()
        return
    parts.allocator.frozen = ""
    await (parts.start("ana") if operation == "start" else parts.stop("ana"))


if __name__ == "__main__":
    asyncio.run(_main(Install(**json.loads(sys.argv[1])), sys.argv[2], CrashPoint(sys.argv[3])))

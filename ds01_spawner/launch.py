"""Launcher: one user's container from a request to a listening server, and what became of it later.

Gathers what a container is made of (image, identity, folders, labels), hands the sequence to the lifecycle, reads
limits and devices back, and waits until the server inside accepts connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ds01_spawner import container_spec, readiness
from ds01_spawner.adapters.cgroups import read_applied
from ds01_spawner.adapters.host import UserFolders
from ds01_spawner.adapters.identity import Identity, IdentityFiles, identity_of
from ds01_spawner.allocator import Allocator
from ds01_spawner.container_spec import PORT, Mount, Person, Wanted
from ds01_spawner.core import labels, lease_events, readback
from ds01_spawner.core.admission import Host
from ds01_spawner.core.errors import LedgerUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.names import DEFAULT_SERVER, engine_name, user_slug
from ds01_spawner.core.ports import ContainerView, Engine, Payload
from ds01_spawner.core.requests import Request
from ds01_spawner.lifecycle import ContainerLifecycle, Progress

LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class Site:
    """What holds for every container of this install. `shared` are folders that all see, read-only."""

    instance: str
    label_key: bytes
    network: str
    host: Host
    environments: Mapping[str, str]
    first_uid: int
    ready_timeout: float
    simulated: bool = False
    shared: Sequence[Mount] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """One start: who asks for what, with what limits, and the hub's environment and arguments for the server."""

    owner: Owner
    request: Request
    resolved: ResolvedLimits
    env: Mapping[str, str]
    args: Sequence[str]
    progress: Progress


@dataclass(frozen=True, slots=True)
class Started:
    """A running container. `lease_id` is empty where a CPU-only start went ahead without a ledger."""

    view: ContainerView
    lease_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What became of an owner's container: alive, or how it ended."""

    alive: ContainerView | None = None
    lease_id: str = ""
    cause: str = ""


@dataclass
class Launcher:
    """Starts, finds and stops. Holds no state but the identities that it has seen."""

    site: Site
    engine: Engine
    allocator: Allocator
    lifecycle: ContainerLifecycle
    folders: UserFolders
    identity_files: IdentityFiles
    _identities: dict[str, Identity] = field(default_factory=dict)

    async def start(self, launch: Launch) -> Started:
        """A container that accepts connections. Raises Refusal, EngineRefused, Unavailable; then nothing stays."""
        image_id, identity = await asyncio.gather(
            self.image_of(launch.request.environment), self.identity(launch.owner.user)
        )
        name = engine_name(launch.owner.server, identity.uid, secrets.token_hex(4))
        payload = await self._payload(launch, image_id, identity, name)
        lease, view = await self.lifecycle.start(
            launch.owner,
            launch.request,
            launch.resolved,
            payload,
            container_name=name,
            image_id=image_id,
            progress=launch.progress,
            verify=lambda lease, view: self._check(launch, lease, view),
        )
        return Started(view, lease.id)

    async def _check(self, launch: Launch, lease: Lease, view: ContainerView) -> None:
        """Part of the start, so that the reconciler leaves the container alone and what fails here is undone."""
        await self._verify(launch.resolved, lease, view)
        launch.progress("Waiting for JupyterLab", 75)
        await self._until_listening(view)

    async def image_of(self, environment: str) -> str:
        """The id of an environment's image: a tag can move while a container is made, an id can't."""
        reference = self.site.environments[environment]
        image_id = await self.engine.image_id(reference)
        if image_id is None:
            raise Refusal(
                Reason.ENVIRONMENT,
                f"The image of environment {environment!r} ({reference}) is not on this machine. Please tell an "
                "administrator: ./run builds the base environment.",
                asked=environment,
            )
        return image_id

    async def identity(self, user: str) -> Identity:
        """The user's uid and gid. One that was seen before is known without the ledger too."""
        loop = asyncio.get_running_loop()

        def stable(wanted: int | None) -> int:
            asked = self.allocator.uid_of(user, wanted, first=self.site.first_uid)
            return asyncio.run_coroutine_threadsafe(asked, loop).result()

        try:
            found = await asyncio.to_thread(identity_of, user, stable)
        except LedgerUnavailable:
            if user in self._identities:
                return self._identities[user]
            raise Refusal(
                Reason.LEDGER, "Your user id can't be looked up just now. Please try again in a minute."
            ) from None
        self._identities[user] = found
        return found

    async def _payload(
        self, launch: Launch, image_id: str, identity: Identity, name: str
    ) -> Callable[[Lease], Payload]:
        user = launch.owner.user
        person = Person(user, identity.uid, identity.gid)
        folders, files = await asyncio.gather(
            asyncio.to_thread(self.folders.ensure, user_slug(user), identity.uid, identity.gid),
            self.identity_files.write(image_id, user, identity, home=person.home),
        )
        mounts = (
            Mount(str(folders.home), person.home),
            Mount(str(folders.workspace), "/workspace"),
            Mount(str(files.passwd), "/etc/passwd", read_only=True),
            Mount(str(files.group), "/etc/group", read_only=True),
            *self.site.shared,
            *(Mount(f.path, f"/shared/{f.name}", not f.writable) for f in launch.resolved.limits.shared),
        )

        def make(lease: Lease) -> Payload:
            wanted = Wanted(
                image_id=image_id,
                person=person,
                limits=launch.resolved.limits,
                network=self.site.network,
                hostname=launch.owner.server or DEFAULT_SERVER,
                env=launch.env,
                args=launch.args,
                labels={},
                mounts=mounts,
                devices=lease.devices,
                simulated=self.site.simulated,
            )
            return self._signed(container_spec.make(wanted), lease, launch, name)

        return make

    def _signed(self, payload: dict[str, object], lease: Lease, launch: Launch, name: str) -> Payload:
        # The digest leaves the environment out: it holds the server's token.
        shape = {key: value for key, value in payload.items() if key not in {"Env", "Labels"}}
        spec = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]
        plain = labels.of_lease(lease, instance=self.site.instance, environment=launch.request.environment, spec=spec)
        return {**payload, "Labels": labels.sign(plain, self.site.label_key, name=name)}

    async def _verify(self, resolved: ResolvedLimits, lease: Lease, view: ContainerView) -> None:
        """Limits and devices as the kernel and the engine have them, against what was granted."""
        applied = await asyncio.to_thread(read_applied, view)
        expected = () if self.site.simulated else tuple(device.uuid for device in lease.devices)
        wrong = readback.compare(resolved.limits, applied, view, expected)
        if wrong:
            raise Refusal(
                Reason.LIMITS_NOT_APPLIED,
                f"The container was stopped, since it did not get what was granted: {'; '.join(wrong)}. "
                "Please tell an administrator.",
                wrong=list(wrong),
            )

    async def _until_listening(self, view: ContainerView) -> None:
        ready = self.site.ready_timeout
        try:
            if await readiness.wait_until_listening(
                view.ip, PORT, lambda: self.engine.inspect(view.id), deadline=ready
            ):
                return
            ended = await self.engine.inspect(view.id)
            cause = "the container is gone" if ended is None else lease_events.exit_cause(ended)
        except TimeoutError:
            cause = f"JupyterLab did not answer within {ready:g} s"
        tail = (await self.engine.logs(view.id, lines=LOG_LINES)).strip()
        words = f" Its last words: {tail[-600:]}" if tail else ""
        raise Refusal(Reason.ENGINE, f"The container did not come up: {cause}.{words}", cause=cause)

    async def stop(self, owner: Owner, container_id: str, *, grace: float, reason: str = "stopped") -> None:
        """Stop the owner's container; returns when its absence was observed."""
        lease = await self._lease(owner)
        if lease is not None:
            await self.lifecycle.stop(lease, grace=grace, reason=reason)
        elif container_id:
            await self._stop_unleased(container_id, grace)

    async def _stop_unleased(self, container_id: str, grace: float) -> None:
        """A CPU-only container that was started while the ledger gave no answer."""
        view = await self.engine.inspect(container_id)
        if view is not None and labels.trusts(view, instance=self.site.instance, key=self.site.label_key):
            await self.engine.stop(container_id, grace=grace)
            await self.engine.remove(container_id)

    async def find(self, owner: Owner, container_id: str, lease_id: str = "") -> Found:
        """Alive, or how it ended. `lease_id`: the last one the caller knew. Raises Unavailable if nobody knows."""
        try:
            lease = await self.allocator.lease_of(owner)
        except LedgerUnavailable:
            if not container_id:
                raise
            lease = None
        view = await self.lifecycle.find(lease) if lease is not None else None
        if view is None and lease is None and container_id:
            view = await self.engine.inspect(container_id)
        if lease is not None:
            lease_id = lease.id
        if view is not None and view.running:
            return Found(view, lease_id)
        return Found(None, lease_id, lease_events.exit_cause(view) if view is not None else await self._told(lease_id))

    async def _told(self, lease_id: str) -> str:
        """How a container ended that is removed already: its lease says so."""
        lease = None
        with suppress(LedgerUnavailable):
            lease = await self.allocator.get(lease_id) if lease_id else None
        ended = lease is not None and lease.state not in {LeaseState.RESERVED, LeaseState.BOUND}
        return (lease.reason if lease is not None and ended else "") or "the container is gone"

    async def _lease(self, owner: Owner) -> Lease | None:
        try:
            return await self.allocator.lease_of(owner)
        except LedgerUnavailable:
            return None


def shared_mounts(data: str, models: str) -> tuple[Mount, ...]:
    """The folders that everybody sees read-only."""
    pairs = ((data, "/data"), (models, "/models"))
    return tuple(Mount(str(Path(source)), target, read_only=True) for source, target in pairs if source)

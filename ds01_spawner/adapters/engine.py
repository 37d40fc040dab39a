"""The container engine over Docker's API (1.41 and newer), by docker-py's low-level client.

Three pools of threads, so that none waits for another's work: reading, starting, and what may take long. One user's
slow stop never delays another user's poll.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future

from docker import APIClient

from ds01_spawner.adapters.engine_calls import Clients, Pool
from ds01_spawner.adapters.engine_events import container_events
from ds01_spawner.adapters.engine_files import read_image_file
from ds01_spawner.adapters.engine_network import ensure_bridge
from ds01_spawner.adapters.engine_view import container_view
from ds01_spawner.core.errors import EngineRefused, EngineUnavailable
from ds01_spawner.core.ports import ContainerView, Payload

GONE = 404
CONFLICT = 409
#: Bytes of log that are kept at most, whatever the number of lines: a line has no length limit.
LOG_BYTES = 64 << 10
#: Seconds between two looks while a removal goes on.
LOOK_AGAIN = 0.05


class DockerEngine:
    """`core.ports.Engine` on a real engine. Bound to no event loop; `close` when done with it.

    `base_url`: such as `unix:///var/run/docker.sock`; by default what DOCKER_HOST says. `timeout` is in seconds for
    calls that read, `slow_timeout` for calls that change something (a stop gets its grace on top). The numbers of
    threads are how many calls of each kind go on at once; more of them wait, within their deadline.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        read_threads: int = 8,
        start_threads: int = 8,
        slow_threads: int = 16,
        timeout: float = 10.0,
        slow_timeout: float = 60.0,
    ) -> None:
        self._clients = Clients(base_url)
        self._read = Pool(self._clients, "read", read_threads, timeout)
        self._start = Pool(self._clients, "start", start_threads, slow_timeout)
        self._slow = Pool(self._clients, "slow", slow_threads, slow_timeout)
        self._network_lock = threading.Lock()
        self._files: dict[tuple[str, str], Future[bytes | None]] = {}

    def close(self) -> None:
        """Start no further call; those under way end by themselves."""
        for pool in (self._read, self._start, self._slow):
            pool.close()

    # -- containers: changes

    async def create(self, name: str, payload: Payload) -> str:
        """Create a container and give its id. Raises EngineRefused (400, 404 image missing, 409 name taken)."""

        def work(client: APIClient) -> str:
            made = client.create_container_from_config(dict(payload), name)  # type: ignore[no-untyped-call]  # docker-py leaves this one untyped
            return str(made["Id"])

        return await self._start.call(f"create container {name}", work)

    async def start(self, container: str) -> None:
        """Start it; starting a started one is no error. Raises EngineRefused."""
        await self._start.call(f"start container {container}", lambda client: client.start(container))

    async def stop(self, container: str, *, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. One that is gone or stopped is no error."""
        seconds = math.ceil(max(grace, 0))
        try:
            await self._slow.call(
                f"stop container {container}",
                lambda client: client.stop(container, timeout=seconds),
                deadline=self._slow.timeout + seconds,
            )
        except EngineRefused as refusal:
            _unless(refusal, GONE)

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Send a signal. One that is gone or stopped is no error."""
        try:
            await self._slow.call(f"kill container {container}", lambda client: client.kill(container, signal))
        except EngineRefused as refusal:
            _unless(refusal, GONE, CONFLICT)

    async def remove(self, container: str) -> None:
        """Remove it by force, with its anonymous volumes, and wait until the engine says 404."""
        try:
            async with asyncio.timeout(self._slow.timeout):
                # By id from here on: a new container of the same name is none of our business.
                view = await self.inspect(container)
                if view is not None:
                    await self._remove_until_gone(view.id)
        except TimeoutError:
            text = f"remove container {container}: still there after {self._slow.timeout:g} s"
            raise EngineUnavailable(text) from None

    async def _remove_until_gone(self, container_id: str) -> None:
        wait = LOOK_AGAIN
        while True:
            try:
                await self._slow.call(
                    f"remove container {container_id}",
                    lambda client: client.remove_container(container_id, v=True, force=True),
                )
            except EngineRefused as refusal:
                # 409 is "removal is already in progress": another one's, which may fail, so it is asked for again.
                _unless(refusal, GONE, CONFLICT)
            if await self.inspect(container_id) is None:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)

    # -- containers: reading

    async def inspect(self, container: str) -> ContainerView | None:
        """By id or name; None only where the engine says 404."""
        try:
            return await self._read.call(
                f"inspect container {container}", lambda client: container_view(client.inspect_container(container))
            )
        except EngineRefused as refusal:
            _unless(refusal, GONE)
            return None

    async def list(self, labels: Mapping[str, str] | None = None) -> tuple[ContainerView, ...]:
        """All containers, stopped and `created` ones too, with these labels (value `""`: the label exists)."""
        wanted = [f"{key}={value}" if value else key for key, value in (labels or {}).items()]

        def work(client: APIClient) -> list[str]:
            found = client.containers(all=True, filters={"label": wanted} if wanted else None)
            return [str(entry["Id"]) for entry in found]

        views = await asyncio.gather(*map(self.inspect, await self._read.call("list containers", work)))
        # One that went away since the listing is no longer there.
        return tuple(view for view in views if view is not None)

    async def logs(self, container: str, *, lines: int = 50) -> str:
        """The last lines of its output, at most 64 KiB; nothing of one that is gone."""

        def work(client: APIClient) -> bytes:
            return bytes(client.logs(container, stdout=True, stderr=True, tail=lines))[-LOG_BYTES:]

        try:
            return (await self._slow.call(f"logs of container {container}", work)).decode(errors="replace")
        except EngineRefused as refusal:
            _unless(refusal, GONE)
            return ""

    # -- images, network, events

    async def image_id(self, reference: str) -> str | None:
        """The id of an image, None where there is none."""

        def work(client: APIClient) -> str:
            return str(client.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]  # docker-py leaves this one untyped

        try:
            return await self._read.call(f"inspect image {reference}", work)
        except EngineRefused as refusal:
            _unless(refusal, GONE)
            return None

    async def image_file(self, image_id: str, path: str) -> bytes | None:
        """One file of an image, None where there is none. Kept, so an image is read once: an id never changes."""
        what = f"read {path} of image {image_id}"
        key = (image_id, path)
        reading = self._files.get(key)
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception())):
            reading = self._slow.submit(what, lambda client: read_image_file(client, image_id, path))
            self._files[key] = reading
        try:
            async with asyncio.timeout(self._slow.timeout):
                # Shielded: others may wait for the same file.
                return await asyncio.shield(asyncio.wrap_future(reading))
        except TimeoutError:
            raise EngineUnavailable(f"{what}: no answer within {self._slow.timeout:g} s") from None

    async def ensure_network(self, name: str, *, bridge: str) -> str:
        """Make the bridge network with inter-container traffic off if missing; its gateway's address.

        Raises ConfigError where a network of that name exists that is no such bridge.
        """

        def work(client: APIClient) -> str:
            with self._network_lock:
                return ensure_bridge(client, name, bridge)

        return await self._slow.call(f"make network {name}", work)

    def events(self) -> AsyncIterator[str]:
        """Container ids with a start, die, destroy or oom event, as they come. A hint only: the listing is the truth.

        Raises EngineUnavailable where the stream can't be had, or ends; call it again after a while. End it early
        with `aclose`.
        """
        return container_events(self._clients, self._slow.timeout)


def _unless(refusal: EngineRefused, *statuses: int) -> None:
    """Raise the refusal unless its status is one of these."""
    if refusal.status not in statuses:
        raise refusal

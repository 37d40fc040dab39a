"""Docker in memory: its states, its 404 and 409, its restart, and errors, delays and silence on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from ds01_spawner.core.errors import EngineRefused, EngineUnavailable
from ds01_spawner.core.ports import ContainerView, Payload

IMAGE = "sha256:" + "1" * 64
NANO = 10**9


@dataclass
class Fault:
    """What the next `times` calls of a method meet. `after`: the call takes effect, then its answer is lost."""

    error: Exception
    times: int = 1
    after: bool = False


class FakeEngine:
    """`core.ports.Engine`. `before` is awaited at the start of every call, so that a test can let others go first."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        self.containers: dict[str, ContainerView] = {}
        self.payloads: dict[str, Payload] = {}
        self.images: dict[str, str] = {IMAGE: IMAGE, "ds01/base:latest": IMAGE}
        self.files: dict[tuple[str, str], bytes] = {}
        self.output: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self.latency: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.removed: list[ContainerView] = []
        self.dies_at_start: dict[str, int] = {}
        self._faults: dict[str, Fault] = {}
        self._hanging: dict[str, asyncio.Event] = {}
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._made = 0

    # -- what a test does to it

    def fail(self, method: str, error: Exception | None = None, *, times: int = 1, after: bool = False) -> None:
        """Let the next calls of a method (`*`: of any) fail; by default the engine gives no answer."""
        self._faults[method] = Fault(error or EngineUnavailable("no answer: injected"), times, after)

    def heal(self) -> None:
        """No more faults; what hangs goes on."""
        self._faults.clear()
        for gate in self._hanging.values():
            gate.set()
        self._hanging.clear()

    def hang(self, method: str) -> None:
        """Calls of a method wait until `heal` or `restart_daemon`."""
        self._hanging[method] = asyncio.Event()

    def crash(self, container: str, exit_code: int = 1, *, oom: bool = False) -> None:
        """The container's first process ends by itself."""
        view = self._must(container)
        if view.running:
            self._end(view, exit_code, oom=oom)

    def restart_daemon(self) -> None:
        """Every container ends and every call under way fails, as without live-restore."""
        for view in list(self.containers.values()):
            if view.running:
                self._end(view, 137)
        self.fail("*", EngineUnavailable("the connection was closed"), times=len(self._hanging))
        for gate in self._hanging.values():
            gate.set()
        self._hanging.clear()
        for queue in self._queues:
            queue.put_nowait(None)

    def foreign(self, name: str, *, labels: Mapping[str, str] | None = None, **values: object) -> ContainerView:
        """A running container that somebody else made."""
        view = ContainerView(self._new_id(name), name, "running", dict(labels or {}), IMAGE, created_at=self.clock())
        view = replace(view, **values)  # type: ignore[arg-type]
        return self._set(view)

    def add_image(self, reference: str, *, files: Mapping[str, bytes] | None = None) -> str:
        """An image under a name; its id."""
        image = "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
        self.images.update({reference: image, image: image})
        self.files.update({(image, path): content for path, content in (files or {}).items()})
        return image

    def by_name(self, name: str) -> ContainerView | None:
        return next((view for view in self.containers.values() if view.name == name), None)

    # -- the port

    async def create(self, name: str, payload: Payload) -> str:
        async with self._call("create"):
            if self.by_name(name) is not None:
                raise EngineRefused(f"the container name {name!r} is already in use", 409)
            image = self.images.get(str(payload.get("Image")))
            if image is None:
                raise EngineRefused(f"no such image: {payload.get('Image')}", 404)
            view = self._set(_view_of(self._new_id(name), name, payload, image, self.clock()))
            self.payloads[view.id] = payload
            return view.id

    async def start(self, container: str) -> None:
        async with self._call("start"):
            view = self._must(container)
            if view.running:
                return
            address = f"172.20.{self._made // 250 % 250}.{2 + self._made % 250}"
            view = self._set(replace(view, state="running", pid=1000 + self._made, ip=address, exit_code=None))
            self._tell(view)
            if view.name in self.dies_at_start:
                self._end(view, self.dies_at_start[view.name])

    async def stop(self, container: str, *, grace: float) -> None:
        async with self._call("stop"):
            view = self._find(container)
            if view is not None and view.running:
                self._end(view, 143 if grace else 137)

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        async with self._call("kill"):
            view = self._find(container)
            if view is not None and view.running and signal in ("SIGKILL", "KILL", "SIGTERM", "TERM"):
                self._end(view, 137 if "KILL" in signal else 143)

    async def remove(self, container: str) -> None:
        async with self._call("remove"):
            view = self._find(container)
            if view is not None:
                del self.containers[view.id]
                self.payloads.pop(view.id, None)
                self.removed.append(view)
                self._tell(view)

    async def inspect(self, container: str) -> ContainerView | None:
        async with self._call("inspect"):
            return self._find(container)

    async def list(self, labels: Mapping[str, str] | None = None) -> tuple[ContainerView, ...]:
        async with self._call("list"):
            return tuple(view for view in self.containers.values() if _has(view, labels or {}))

    async def logs(self, container: str, *, lines: int = 50) -> str:
        async with self._call("logs"):
            view = self._find(container)
            return "" if view is None else "".join(self.output.get(view.id, "").splitlines(keepends=True)[-lines:])

    async def image_id(self, reference: str) -> str | None:
        async with self._call("image_id"):
            return self.images.get(reference)

    async def image_file(self, image_id: str, path: str) -> bytes | None:
        async with self._call("image_file"):
            return self.files.get((image_id, path))

    async def ensure_network(self, name: str, *, bridge: str) -> str:
        async with self._call("ensure_network"):
            return self.networks.setdefault(name, f"172.{20 + len(self.networks)}.0.1")

    async def events(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (container := await queue.get()) is not None:
                yield container
            raise EngineUnavailable("the event stream was closed")
        finally:
            self._queues.discard(queue)

    # -- inside

    def _call(self, method: str) -> _Call:
        return _Call(self, method)

    async def _enter(self, method: str) -> None:
        self.calls[method] += 1
        await asyncio.sleep(0)
        if gate := self._hanging.get(method):
            await gate.wait()
        if delay := self.latency.get(method):
            await asyncio.sleep(delay)
        self._meet(method, after=False)

    def _meet(self, method: str, *, after: bool) -> None:
        for name in (method, "*"):
            fault = self._faults.get(name)
            if fault is not None and fault.times and fault.after is after:
                fault.times -= 1
                raise fault.error

    def _find(self, container: str) -> ContainerView | None:
        return self.containers.get(container) or self.by_name(container)

    def _must(self, container: str) -> ContainerView:
        view = self._find(container)
        if view is None:
            raise EngineRefused(f"no such container: {container}", 404)
        return view

    def _set(self, view: ContainerView) -> ContainerView:
        self.containers[view.id] = view
        return view

    def _end(self, view: ContainerView, exit_code: int, *, oom: bool = False) -> None:
        ended = replace(view, state="exited", pid=0, ip="", exit_code=exit_code, oom_killed=oom)
        self._tell(self._set(ended))

    def _tell(self, view: ContainerView) -> None:
        for queue in self._queues:
            queue.put_nowait(view.id)

    def _new_id(self, name: str) -> str:
        self._made += 1
        return hashlib.sha256(f"{self._made} {name}".encode()).hexdigest()


class _Call:
    """One call: waits and faults before it, a lost answer after it."""

    def __init__(self, engine: FakeEngine, method: str) -> None:
        self._engine, self._method = engine, method

    async def __aenter__(self) -> None:
        await self._engine._enter(self._method)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._engine._meet(self._method, after=True)


def _has(view: ContainerView, labels: Mapping[str, str]) -> bool:
    return all(key in view.labels and value in ("", view.labels[key]) for key, value in labels.items())


def _view_of(container_id: str, name: str, payload: Payload, image: str, now: float) -> ContainerView:
    host = payload.get("HostConfig") or {}
    requests = host.get("DeviceRequests") or []
    return ContainerView(
        id=container_id,
        name=name,
        state="created",
        labels=dict(payload.get("Labels") or {}),
        image_id=image,
        device_ids=tuple(uuid for request in requests for uuid in request.get("DeviceIDs") or ()),
        all_devices=any(request.get("Count") == -1 for request in requests),
        memory=host.get("Memory") or 0,
        memory_swap=max(host.get("MemorySwap") or 0, 0),
        cpus=(host.get("NanoCpus") or 0) / NANO,
        shm_size=host.get("ShmSize") or 64 << 20,
        pids_limit=max(host.get("PidsLimit") or 0, 0),
        created_at=now,
    )

"""DS01Spawner: JupyterHub's hooks, each handed on to the `DS01Hub` that this process was wired with.

A DockerSpawner whose containers are leased: limits and devices are decided at each start, a live container is never
called dead, and an old container is never resumed. Decisions live in `core`, sequences in `lifecycle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, ClassVar

from dockerspawner import DockerSpawner
from jinja2 import Environment
from traitlets import Float, default

from ds01_spawner import options_form
from ds01_spawner.api import refused
from ds01_spawner.container_spec import PORT
from ds01_spawner.core.errors import DS01Error, Reason, Refusal, Unavailable
from ds01_spawner.core.leases import Owner
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.hub import DS01Hub
from ds01_spawner.launch import Launch
from ds01_spawner.progress import ProgressLog

#: Seconds that a cancelled start gets to clean up before the hub hears of it. The hub itself waits for one second, and
#: then takes a start that still goes on for a server that is ready.
CLEAN_UP = 0.5


class DS01Spawner(DockerSpawner):  # type: ignore[misc]  # DockerSpawner ships no types
    """Starts each server in a container with the limits and the devices that one YAML file grants."""

    ds01: ClassVar[DS01Hub]

    stop_grace = Float(
        10.0,
        min=0,
        help="""Seconds between SIGTERM and SIGKILL when a container is stopped.

        Default 10. Longer lets a training run write its checkpoint; a user's Stop then takes up to that long,
        and its GPU comes back that much later. Nobody else waits for it.
        """,
    ).tag(config=True)

    _progress: ProgressLog
    _lease_id = ""
    _address: tuple[str, int] | None = None
    _accepted_options: dict[str, Any]
    _start_under_way: asyncio.Task[tuple[str, int]] | None = None
    _last_exit = ""

    def __init__(self, **kwargs: Any) -> None:
        self._progress = ProgressLog()
        self._accepted_options = {}
        super().__init__(**kwargs)

    # What DockerSpawner would do by itself and we never want: resume, auto-remove, pull, any image.
    remove = True
    pull_policy = "skip"

    @default("http_timeout")
    def _default_http_timeout(self) -> int:
        return 60

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        return 180

    @default("options_form")
    def _default_options_form(self) -> Callable[..., Any]:
        return DS01Spawner._render_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Callable[..., Any]:
        return self._read_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Callable[..., None]:
        # start() is the authority: it runs for the form, for REST and for a start without options alike.
        return lambda _spawner, _options: None

    @property
    def executor(self) -> ThreadPoolExecutor:
        """DockerSpawner's own calls (image inspection by subclasses) never queue behind one thread."""
        return self.ds01.executor

    @property
    def owner(self) -> Owner:
        """The *target* user and server, whoever asked."""
        return Owner(self.user.name, self.name or "")

    @property
    def groups(self) -> tuple[str, ...]:
        """The hub groups of the target user."""
        return tuple(group.name for group in self.user.groups)

    # -- options

    async def _render_form(self) -> str:
        resolved = await self.ds01.resolve(self.owner.user, self.groups)
        model = await self.ds01.form(resolved, admin=bool(self.user.admin))
        chosen = self.orm_spawner.user_options or {}
        return str(_form_template().render(form=model, chosen=chosen, last_exit=self._last_exit))

    def _read_form(self, form: dict[str, list[str]]) -> dict[str, Any]:
        try:
            return options_form.from_form(form)
        except Refusal as refusal:
            raise refused(refusal) from None

    def _reset_options(self) -> None:
        """The hub stored the options before anybody looked at them; a refused choice must not stick."""
        self.user_options = dict(self._accepted_options)
        self.orm_spawner.user_options = dict(self._accepted_options)

    def _accept_options(self, options: dict[str, Any]) -> None:
        self._accepted_options = options
        self.user_options = dict(options)
        self.orm_spawner.user_options = dict(options)

    # -- start, stop, poll

    async def start(self) -> tuple[str, int]:
        """Decide, lease, create, start and check the container; its address. Refusals are SpawnExceptions.

        A cancelled start goes on cleaning up after this has raised; `poll` and `stop` know.
        """
        if self._progress.closed:  # otherwise somebody may follow it already
            self._progress = ProgressLog()
        task = self._start_under_way = asyncio.ensure_future(self._checked_start())
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # heard, whoever reads it
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task], timeout=CLEAN_UP)
            raise

    @property
    def _starting(self) -> bool:
        return self._start_under_way is not None and not self._start_under_way.done()

    async def _checked_start(self) -> tuple[str, int]:
        started = False
        try:
            address = await self._start()
            started = True
            return address
        except Refusal as refusal:
            raise refused(refusal) from None
        except Unavailable as problem:
            self.log.error("%s can't start: %s", self._log_name, problem)
            text = (
                f"The container could not be started just now ({str(problem)[:300]}). Nothing of it stays. "
                "Please try again in a minute, and tell an administrator if it goes on."
            )
            raise refused(Refusal(Reason.ENGINE, text)) from None
        except DS01Error as problem:
            self.log.error("%s can't start: %s", self._log_name, problem)
            raise refused(Refusal(Reason.ENGINE, f"The container could not be started: {problem}")) from None
        finally:
            if not started:
                self._reset_options()
            self._progress.close()

    async def _start(self) -> tuple[str, int]:
        await self.ds01.ready()
        resolved = await self.ds01.resolve(self.owner.user, self.groups)
        request = options_form.parse(self.user_options, resolved, self.ds01.environment_names)
        launch = Launch(self.owner, request, resolved, self.get_env(), self.get_args(), self._progress.add)
        started = await self.ds01.launcher.start(launch)
        self._accept_options(
            {
                "environment": request.environment,
                "gpu": str(request.gpu) if request.gpu else None,
                "count": request.count,
                "profile": options_form.summary(request, resolved),
            }
        )
        self._remember(started.view, started.lease_id)
        return started.view.ip, PORT

    def _remember(self, view: ContainerView, lease_id: str) -> None:
        self.object_id, self.object_name, self._lease_id = view.id, view.name, lease_id
        self._address = view.ip, PORT

    async def stop(self, now: bool = False) -> None:
        """Stop and remove the container; returns when its absence was observed."""
        if self._start_under_way is not None:
            # A cancelled start cleans up after itself; what it may have left all the same is found by its owner below.
            await asyncio.wait([self._start_under_way])
        await self.ds01.launcher.stop(self.owner, self.object_id, grace=0 if now else self.stop_grace)
        self.clear_state()

    async def poll(self) -> int | str | None:
        """None while alive, starting or unknown; otherwise how it ended. Never raises."""
        try:
            await self.ds01.ready()
            if self._starting:
                return None
            found = await self.ds01.launcher.find(self.owner, self.object_id, self._lease_id)
            if found.alive:
                self._remember(found.alive, found.lease_id or self._lease_id)
                return None
            self._last_exit = found.cause
            return found.cause or 0
        except Exception as problem:  # poll must not raise: the hub would call a live server dead
            self.log.warning("%s: state unknown (%s)", self._log_name, problem)
            return None

    async def get_url(self) -> str:
        """Where the container is, as the engine said last; after a crash the hub's own row may be older."""
        if self._address is None:
            return str(await super().get_url())
        ip, port = self._address
        return f"http://{ip}:{port}{self.server.base_url}"

    # -- DockerSpawner's own steps, which nothing may take around the lease

    async def get_object(self) -> dict[str, Any] | None:
        """The container in DockerSpawner's terms; None only where the engine says that there is none."""
        view = await self.ds01.engine.inspect(self.object_id or self.object_name)
        return None if view is None else {"Id": view.id, "State": {"Running": view.running, "Status": view.state}}

    async def create_object(self) -> dict[str, Any]:
        """Containers are made by `start` alone, which leases first."""
        raise NotImplementedError("DS01Spawner.start leases, creates and starts")

    # -- state, progress

    def get_state(self) -> dict[str, Any]:
        """What survives a hub restart: a cache; the ledger and the engine are the truth."""
        state: dict[str, Any] = super().get_state()
        if self._lease_id:
            state["lease_id"] = self._lease_id
        state["accepted_options"] = self._accepted_options
        state["last_exit"] = self._last_exit
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Read what `get_state` wrote."""
        super().load_state(state)
        self._lease_id = state.get("lease_id", "")
        self._accepted_options = state.get("accepted_options", {})
        self._last_exit = state.get("last_exit", "")

    def clear_state(self) -> None:
        """Forget the container; the last accepted options stay."""
        super().clear_state()
        self.object_id = ""
        self._lease_id = ""
        self._address = None

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The steps of this start, from its first one for every listener."""
        async for event in self._progress.follow():
            yield event


def _form_template() -> Any:
    source = files("ds01_spawner").joinpath("templates/spawn_form.html").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(source)

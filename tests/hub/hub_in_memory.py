"""The hub under test: what is in memory instead of real, and the ways to speak to it and to look behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jupyterhub import orm, roles

from ds01_spawner.core import labels
from ds01_spawner.core.admission import Host
from ds01_spawner.core.errors import LedgerUnavailable
from ds01_spawner.core.invariants import violations
from ds01_spawner.core.leases import Lease, Owner
from ds01_spawner.core.ports import ContainerView
from ds01_spawner.hub import DS01Hub
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory
from tests.fakes.serving_engine import ServingEngine

GIB = 1 << 30
BIG_HOST = Host(memory=4096 * GIB, memory_reserve=16 * GIB, cpus=256)
LIMITS = """
version: 1
defaults:
  {max_mig_instances: 1, max_cpus: 2, memory: "1g", shm_size: "64m", pids_limit: 100, max_containers_per_user: 3}
groups:
  researchers: {members: [carla], max_mig_instances: 3}
"""
PASSWORD = "a password for everybody"
SECONDS = 20.0


class FakeHub(DS01Hub):
    """DS01Hub with everything outside of this process in memory. `host` is far larger than any test needs."""

    host_size = BIG_HOST

    def make_engine(self) -> ServingEngine:
        return ServingEngine()

    def make_inventory(self) -> FakeInventory:
        return FakeInventory(SEVEN_SLICES, node=self.node)

    def make_host(self) -> Host:
        return self.host_size

    def open_network(self) -> str:
        return "127.0.0.1"

    def assert_firewall(self) -> None:
        """There is none."""


@dataclass
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """The closed-set reason of a refusal; empty where there is none."""
        return self.headers.get("X-DS01-Reason", "")

    @property
    def message(self) -> str:
        """The text of an error."""
        return str(self.json.get("message", "")) if self.text else ""


@dataclass
class Browser:
    """One person's browser at the hub: cookies, forms, no token."""

    session: aiohttp.ClientSession
    base: str

    async def ask(self, method: str, path: str, **fields: Any) -> Answer:
        """One page; `fields` are a form's, text or lists of text."""
        data = aiohttp.FormData(
            [(key, value) for key, given in fields.items() for value in (given if isinstance(given, list) else [given])]
        )
        cookies = {
            name: cookie.value
            for morsels in self.session.cookie_jar._cookies.values()
            for name, cookie in morsels.items()
        }
        query = {"_xsrf": cookies["_xsrf"]} if method == "POST" else {}
        address = f"{self.base}{path}"
        async with self.session.request(
            method, address, params=query, data=data if method == "POST" else None, allow_redirects=False
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.text())


@dataclass
class HubInMemory:
    """The hub under test, and the ways to speak to it and to look behind it."""

    app: Any
    ds01: FakeHub
    session: aiohttp.ClientSession
    limits_file: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> ServingEngine:
        assert isinstance(self.ds01.engine, ServingEngine)
        return self.ds01.engine

    @property
    def gpus(self) -> FakeInventory:
        assert isinstance(self.ds01.inventory, FakeInventory)
        return self.ds01.inventory

    # -- HTTP

    async def api(self, method: str, path: str, body: object = None, *, token: str | None = "admin") -> Answer:
        """One call of the REST API, as a user whose name is given, or with a token as it stands, or with none."""
        headers = {} if token is None else {"Authorization": f"token {self.tokens.get(token, token)}"}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, f"{self.url}api/{path}", data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.app.hub.port}{self.app.hub.base_url}"

    @asynccontextmanager
    async def browser(self, user: str) -> AsyncIterator[Browser]:
        """A browser in which this user has logged in."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            browser = Browser(session, self.url)
            await browser.ask("GET", "login")
            answer = await browser.ask("POST", "login", username=user, password=PASSWORD)
            assert answer.status == 302, answer
            await browser.ask("GET", "home")
            yield browser

    def add_user(self, name: str, *, admin: bool = False) -> str:
        """A hub user as a first login makes one, with a token of all its rights, kept under its name."""
        db = self.app.db
        row = orm.User.find(db, name)
        if row is None:
            row = orm.User(name=name, admin=admin)
            db.add(row)
            db.commit()
        roles.assign_default_roles(db, entity=row)
        self.tokens[name] = str(self.app.users[name].new_api_token())
        return self.tokens[name]

    def user(self, name: str) -> Any:
        """The hub's own object of a user."""
        return self.app.users[name]

    def spawner(self, name: str, server: str = "") -> Any:
        """The spawner as the hub has it now, or would make it."""
        return self.user(name).get_spawner(server, replace_failed=True)

    def stored_options(self, name: str, server: str = "") -> Any:
        """What the hub's database has, and the next start without options would use."""
        self.app.db.expire_all()
        return self.user(name).orm_user.orm_spawners[server].user_options

    @staticmethod
    def path(user: str, server: str = "") -> str:
        return f"users/{user}/servers/{server}" if server else f"users/{user}/server"

    async def spawn(
        self, user: str, options: Mapping[str, Any] | None = None, server: str = "", *, by: str | None = None
    ) -> Answer:
        """Ask for a server: 201 ready, 202 pending, otherwise a refusal."""
        body = None if options is None else {"user_options": options}
        return await self.api("POST", self.path(user, server), body, token=by or user)

    async def stop(self, user: str, server: str = "", *, by: str | None = None) -> Answer:
        """Ask to stop a server, and wait until the hub has done so."""
        answer = await self.api("DELETE", self.path(user, server), token=by or user)
        await self.until(lambda: server not in self.user(user).spawners or not self.spawner(user, server).active)
        return answer

    # -- behind it

    async def leases(self) -> tuple[Lease, ...]:
        """All live leases."""
        return await self.ds01.allocator.live()

    async def lease(self, user: str, server: str = "") -> Lease | None:
        """The live lease of one server."""
        return await self.ds01.allocator.lease_of(Owner(user, server))

    def container(self, user: str, server: str = "") -> ContainerView:
        """The one container of one server."""
        (found,) = self.containers(user, server)
        return found

    def containers(self, user: str, server: str = "") -> list[ContainerView]:
        owner = Owner(user, server)
        return [view for view in self.engine.containers.values() if labels.owner_of(view.labels) == owner]

    async def events(self, kind: str) -> list[Any]:
        """All events of one kind, oldest first."""
        ledger = self.ds01.allocator._ledger
        found = await asyncio.to_thread(ledger.events, limit=10_000)
        return [event for event in reversed(found) if event.kind == kind]

    async def broken(self, *, settled: bool = True) -> tuple[str, ...]:
        """The invariants that do not hold now."""
        leases, claims = await self.ds01.allocator.live_with_claims()
        views = tuple(self.engine.containers.values())
        trusted = {
            view.id for view in views if labels.trusts(view, instance=self.ds01.instance, key=self.ds01.label_key)
        }
        resolved = {name: await self.ds01.resolve(name, ()) for name in {lease.owner.user for lease in leases}}
        return violations(
            leases,
            claims,
            views,
            self.gpus.now,
            self.ds01.allocator.now(),
            trusted=trusted,
            busy=self.ds01.allocator.in_flight,
            resolved=resolved,
            host=self.ds01.host,
            settled=settled,
        )

    def silence_ledger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The ledger gives no answer any more, until the patch is undone."""

        def silent(*_args: object, **_named: object) -> Any:
            raise LedgerUnavailable("the ledger gives no answer: injected")

        for method in ("reserve", "move", "end", "adopt", "live", "get", "claims", "uid_of", "record", "events"):
            monkeypatch.setattr(self.ds01.allocator._ledger, method, silent)

    def write_limits(self, **defaults: object) -> None:
        """Another YAML with these defaults."""
        self.limits_file.write_text(json.dumps({"version": 1, "defaults": defaults}))

    async def until(self, holds: Callable[[], bool | Awaitable[bool]], seconds: float = SECONDS) -> None:
        """Returns as soon as something is so; fails where it never is."""
        async with asyncio.timeout(seconds):
            while True:
                found = holds()
                if (await found) if isinstance(found, Awaitable) else found:
                    return
                await asyncio.sleep(0.01)

    async def reconcile(self) -> Any:
        """Compare ledger, engine and GPUs once."""
        return await self.ds01.reconciler.run_once()

    async def nothing_left(self) -> None:
        """No container, no lease, no claim, no broken invariant."""
        assert await self.leases() == ()
        assert not self.engine.containers
        _, claims = await self.ds01.allocator.live_with_claims()
        assert claims == ()
        assert await self.broken() == ()

"""Names of users and of their servers, as strange as they come."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

import pytest
from yarl import URL

from ds01_spawner.adapters import identity
from ds01_spawner.core.errors import Reason
from tests.hub.hub_in_memory import HubInMemory

LONG = "u" * 64


@pytest.mark.parametrize("name", ["a.b@dom", "12345", LONG])
async def test_user_names(hub: HubInMemory, name: str) -> None:
    """Names with dots and @, of digits only, of 64 characters: a container of the user's own, with home and lease."""
    hub.add_user(name)
    assert (await hub.spawn(name, {"gpu": "1g"})).status == 201
    view = hub.container(name)
    payload = hub.engine.payloads[view.id]
    uid, gid = payload["User"].split(":")
    assert uid == gid and int(uid) >= hub.ds01.first_uid
    targets = {mount["Target"] for mount in payload["HostConfig"]["Mounts"]}
    assert {f"/home/{name}", "/workspace"} <= targets
    assert f"USER={name}" in payload["Env"]
    assert await hub.broken() == ()
    await hub.stop(name)
    await hub.nothing_left()


async def test_two_users_whose_names_look_alike_share_nothing(hub: HubInMemory) -> None:
    """`a.b@dom` and `a-b-dom` have folders and ids of their own."""
    seen = []
    for name in ("a.b@dom", "a-b-dom"):
        hub.add_user(name)
        assert (await hub.spawn(name)).status == 201
        payload = hub.engine.payloads[hub.container(name).id]
        seen.append((payload["User"], {mount["Source"] for mount in payload["HostConfig"]["Mounts"]}))
    (one, first), (two, second) = seen
    assert one != two and not first & second


async def test_a_system_account_with_a_huge_uid(hub: HubInMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directory services give uids such as 1.7e9: the container runs as exactly that."""
    account = pwd.struct_passwd(("ana", "x", 1_700_000_000, 1_700_000_513, "", "/home/ana", "/bin/sh"))
    monkeypatch.setattr(identity, "_account", lambda user: account if user == "ana" else None)
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201
    view = hub.container("ana")
    assert hub.engine.payloads[view.id]["User"] == "1700000000:1700000513"
    assert view.name.startswith("main._.1700000000.")


async def test_a_uid_of_somebody_else_is_refused(hub: HubInMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names for one account: the second gets no container, and is told to ask an administrator."""
    account = pwd.struct_passwd(("ana", "x", 4242, 4242, "", "/home/ana", "/bin/sh"))
    monkeypatch.setattr(identity, "_account", lambda user: account)
    assert (await hub.spawn("ana")).status == 201
    refused = await hub.spawn("ben", {"gpu": "1g"})
    assert refused.reason == Reason.IDENTITY and "administrator" in refused.message
    assert {lease.owner.user for lease in await hub.leases()} == {"ana"}


@dataclass(frozen=True)
class Name:
    """A server's name as typed, and what would do instead (empty: nothing)."""

    typed: str
    instead: str = ""


BAD_SERVERS = (
    Name("a.b@dom", "a-b-dom-x"),
    Name("12345", "n-12345-x"),
    Name("My Project", "my-project-x"),
    Name("a--b", "a-b-x"),
    Name("main-", "main-x"),
    Name("s" * 64, "sssss"),
    Name("../x"),
    Name("-rf"),
    Name("s" * 300),
    Name("аlpha"),  # a Cyrillic letter first
    Name("a\u200bb"),
    Name("x\u0000"),
    Name("%2e%2e"),
)


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_server_names(hub: HubInMemory, method: str) -> None:
    """What isn't a name of the hub's is refused with the rule, and a name that would do where there is one."""
    for name in BAD_SERVERS:
        address = URL(hub.url + "api/users/ana/servers/").joinpath(name.typed.replace("/", "%2F"), encoded=False)
        if "%" in name.typed or "/" in name.typed:
            quoted = "".join(f"%{byte:02X}" for byte in name.typed.encode())
            address = URL(f"{hub.url}api/users/ana/servers/{quoted}", encoded=True)
        headers = {"Authorization": f"token {hub.tokens['ana']}"}
        async with hub.session.request(method, address, headers=headers) as answer:
            body = await answer.json(content_type=None)
            assert answer.status == 400, name
            assert answer.headers["X-DS01-Reason"] == Reason.OPTIONS, name
        message = body["message"]
        assert "1 to 30 of a-z" in message and len(message) < 400, name
        assert (f"'{name.instead}" in message) if name.instead else ("would do" not in message), (name, message)
        assert message.isascii()
    assert hub.user("ana").orm_user.orm_spawners.keys() == {""}
    await hub.nothing_left()
    assert (await hub.spawn("ana", server="good-name-2")).status == 201


async def test_server_names_by_form(hub: HubInMemory) -> None:
    """The spawn page refuses them with the same text."""
    async with hub.browser("ana") as browser:
        for method in ("GET", "POST"):
            page = await browser.ask(method, "spawn/ana/-rf")
            assert page.status == 400 and "1 to 30 of a-z" in page.text and page.reason == Reason.OPTIONS
    assert hub.user("ana").orm_user.orm_spawners.keys() == {""}

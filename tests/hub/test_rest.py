"""The REST interface of our own, by every kind of caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from traitlets.config import Config

from tests.hub.hub_in_memory import GIB, HubInMemory

OURS = ("limits", "limits/ana", "devices", "leases")
WATCH, BARE = "w" * 32, "b" * 32


@pytest.fixture
def hub_settings() -> Callable[[Config], None]:
    """Two services: one with our scopes, one without any."""

    def change(config: Config) -> None:
        config.JupyterHub.services = [{"name": "watch", "api_token": WATCH}, {"name": "bare", "api_token": BARE}]
        scopes = ["custom:ds01:limits:read", "custom:ds01:leases:read"]
        config.JupyterHub.load_roles = [
            *config.JupyterHub.load_roles,
            {"name": "watch", "services": ["watch"], "scopes": scopes},
        ]

    return change


def own_token(hub: HubInMemory, user: str) -> str:
    """The token that a user's container finds in its environment."""
    env = hub.engine.payloads[hub.container(user).id]["Env"]
    (token,) = [text.partition("=")[2] for text in env if text.startswith("JUPYTERHUB_API_TOKEN=")]
    return str(token)


def limited_token(hub: HubInMemory, user: str, *scopes: str) -> str:
    return str(hub.user(user).new_api_token(scopes=list(scopes)))


async def statuses(hub: HubInMemory, token: str | None) -> dict[str, int]:
    return {path: (await hub.api("GET", f"ds01/v1/{path}", token=token)).status for path in OURS}


async def test_a_users_own_token(hub: HubInMemory) -> None:
    """One's own limits with rule and line and what is used of them; what is free; nobody else's anything."""
    await hub.spawn("ana", {"gpu": "1g"})
    answer = await hub.api("GET", "ds01/v1/limits", token="ana")
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    assert answer.json["user"] == "ana" and answer.json["usage"]["devices"] == 1
    assert answer.json["usage"]["gpu_equivalents"] == "1/7" and answer.json["usage"]["memory"] == GIB
    memory = answer.json["limits"]["memory"]
    assert (memory["value"], memory["in_force"]) == (GIB, True) and memory["source"] and memory["line"]
    devices = (await hub.api("GET", "ds01/v1/devices", token="ben")).json
    assert devices == {"simulated": False, "frozen": "", "classes": {"1g": {"free": 6, "total": 7}}}
    assert await statuses(hub, "ben") == {"limits": 200, "limits/ana": 403, "devices": 200, "leases": 403}
    assert (await hub.api("GET", "ds01/v1/limits/no-such", token="ben")).status == 403


async def test_a_containers_own_token(hub: HubInMemory) -> None:
    """It reaches its owner's limits and what is free, nothing of anybody else's, and ends with the server."""
    await hub.spawn("ana")
    await hub.spawn("ben")
    token = own_token(hub, "ana")
    assert token != hub.tokens["ana"]
    answer = await hub.api("GET", "ds01/v1/limits", token=token)
    assert answer.status == 200 and answer.json["user"] == "ana"
    assert await statuses(hub, token) == {"limits": 200, "limits/ana": 403, "devices": 200, "leases": 403}
    assert (await hub.api("GET", "ds01/v1/limits/ben", token=token)).status == 403
    for method, path in (
        ("GET", "users"),
        ("GET", "users/ben"),
        ("POST", "users/ben/tokens"),
        ("POST", "users/ana/tokens"),
        ("POST", "users/ben/servers/two"),
        ("POST", "users/ana/servers/two"),
        ("DELETE", "users/ben/server"),
        ("DELETE", "users/ana/server"),
    ):
        assert (await hub.api(method, path, token=token)).status in (403, 404), (method, path)
    assert hub.container("ben").running and hub.container("ana").running
    await hub.stop("ana")
    assert await statuses(hub, token) == dict.fromkeys(OURS, 403)


async def test_an_admin_and_the_filter_of_a_scope(hub: HubInMemory) -> None:
    """Admins see all; a token that is narrowed to one user reaches that one, and the list of all leases not at all."""
    await hub.spawn("ana", {"gpu": "1g"})
    assert await statuses(hub, "admin") == dict.fromkeys(OURS, 200)
    assert (await hub.api("GET", "ds01/v1/limits/no-such", token="admin")).status == 404
    (lease,) = (await hub.api("GET", "ds01/v1/leases")).json["leases"]
    assert (lease["user"], lease["state"], lease["devices"][0]["uuid"]) == ("ana", "bound", "MIG-0000-0-0")
    narrow = limited_token(hub, "admin", "custom:ds01:limits:read!user=ana", "custom:ds01:leases:read!user=ana")
    assert (await hub.api("GET", "ds01/v1/limits/ana", token=narrow)).status == 200
    assert (await hub.api("GET", "ds01/v1/limits/ben", token=narrow)).status in (403, 404)
    assert (await hub.api("GET", "ds01/v1/leases", token=narrow)).status == 403


async def test_services(hub: HubInMemory) -> None:
    """A service has no limits of its own; with our scopes it sees all, without them what is free alone."""
    assert await statuses(hub, WATCH) == {"limits": 400, "limits/ana": 200, "devices": 200, "leases": 200}
    assert await statuses(hub, BARE) == {"limits": 400, "limits/ana": 403, "devices": 200, "leases": 403}


async def test_nobody(hub: HubInMemory) -> None:
    """Without a token, and with one that is none, every path of ours says 403."""
    assert await statuses(hub, None) == dict.fromkeys(OURS, 403)
    assert await statuses(hub, "0" * 32) == dict.fromkeys(OURS, 403)


async def test_a_browser(hub: HubInMemory) -> None:
    """A session's cookie is as good as a token for reading one's own."""
    async with hub.browser("ana") as browser:
        answer = await browser.ask("GET", "api/ds01/v1/limits")
        assert answer.status == 200 and answer.json["user"] == "ana"
        assert (await browser.ask("GET", "api/ds01/v1/leases")).status == 403


async def test_a_ledger_that_gives_no_answer(hub: HubInMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with a text instead of a wrong answer; the form still offers a start without GPU, and that start works."""
    await hub.ds01.ready()
    uid = await hub.spawn("ana")
    assert uid.status == 201
    await hub.stop("ana")
    with monkeypatch.context() as patch:
        hub.silence_ledger(patch)
        for path in OURS:
            answer = await hub.api("GET", f"ds01/v1/{path}")
            assert answer.status == 503 and "try again" in answer.message, path
        page = str(await hub.spawner("ana")._render_form())
        assert "the ledger gives no answer" in page and "No GPU (CPU only)" in page and "1g MIG" not in page
        refused = await hub.spawn("ana", {"gpu": "1g"})
        assert refused.reason in ("ledger", "gpu-unknown") and refused.status == 503
        assert (await hub.spawn("ana", {"gpu": None})).status == 201
        assert await hub.spawner("ana").poll() is None
    await hub.reconcile()
    (lease,) = await hub.leases()
    assert lease.owner.user == "ana" and lease.container_id == hub.container("ana").id
    assert await hub.broken() == ()


async def test_a_broken_limits_file(hub: HubInMemory) -> None:
    """The last good one counts, and whoever asks for limits is told so with the line."""
    hub.limits_file.write_text("version: 1\ndefaults: {memory: 48}\n")
    notes: Any = (await hub.api("GET", "ds01/v1/limits", token="ana")).json["notes"]
    assert any(":2" in note for note in notes)
    assert (await hub.spawn("ana", {"gpu": "1g"})).status == 201
    assert hub.container("ana").memory == GIB

"""What a form or REST may ask for: each refusal says what is allowed, changes nothing and doesn't stick."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.core.errors import HTTP_STATUS, Reason
from tests.hub.hub_in_memory import HubInMemory

LIMITS = {"version": 1, "defaults": {"max_mig_instances": 1, "memory": "1g", "environments": ["base"]}}
#: What was asked for, why not, and a word of what is allowed. `NaN` and the like are what Python's JSON makes of them.
BAD: tuple[tuple[dict[str, Any], Reason, str], ...] = (
    ({"cpus": 64}, Reason.OPTIONS, "environment, gpu, count"),
    ({"": 1}, Reason.OPTIONS, "environment, gpu, count"),
    ({"gpu": "1g", "GPU": "1g"}, Reason.OPTIONS, "environment, gpu, count"),
    ({"image": "evil:latest"}, Reason.OPTIONS, "environment"),
    ({"device_ids": ["MIG-0000-0-0"]}, Reason.OPTIONS, "environment, gpu, count"),
    ({"gpu": "MIG-0000-0-0"}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": "GPU-0000"}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": "all"}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": 1}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": ["1g"]}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": {"class": "1g"}}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": "1g" + "0" * 10_000}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": "1g\u0000"}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": ">=99999GB"}, Reason.OPTIONS, "'full', a MIG class"),
    ({"gpu": "1g", "count": -1}, Reason.OPTIONS, "between 1 and 64"),
    ({"gpu": "1g", "count": 0}, Reason.OPTIONS, "between 1 and 64"),
    ({"gpu": "1g", "count": 10**30}, Reason.OPTIONS, "between 1 and 64"),
    ({"gpu": "1g", "count": float("nan")}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": float("inf")}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": 1.0}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "2"}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": True}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": None}, Reason.OPTIONS, "whole number"),
    ({"count": 9}, Reason.OPTIONS, "without a GPU"),
    ({"gpu": "1g", "count": 9}, Reason.DEVICES, "at most 1"),
    ({"gpu": "full"}, Reason.NO_SUCH_DEVICE, "7 x 1g"),
    ({"gpu": "2g"}, Reason.NO_SUCH_DEVICE, "7 x 1g"),
    ({"environment": "ben/thesis-image"}, Reason.ENVIRONMENT, "base"),
    ({"environment": "no-such"}, Reason.ENVIRONMENT, "base"),
    ({"environment": ["base"]}, Reason.ENVIRONMENT, "base"),
    ({"environment": ""}, Reason.ENVIRONMENT, "base"),
    ({"environment": "../base"}, Reason.ENVIRONMENT, "base"),
)
#: The same through a browser's form, where everything is text.
BAD_FIELDS: tuple[tuple[dict[str, Any], Reason, str], ...] = (
    ({"cpus": "64"}, Reason.OPTIONS, "environment, gpu, count"),
    ({"image": "evil:latest"}, Reason.OPTIONS, "environment"),
    ({"gpu": "MIG-0000-0-0"}, Reason.OPTIONS, "a MIG class"),
    ({"gpu": ["1g", "1g"]}, Reason.OPTIONS, "more than once"),
    ({"gpu": "1g", "count": "-1"}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "NaN"}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "1e3"}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "9" * 400}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "٢"}, Reason.OPTIONS, "whole number"),
    ({"gpu": "1g", "count": "0"}, Reason.OPTIONS, "between 1 and 64"),
    ({"gpu": "1g", "count": "9"}, Reason.DEVICES, "at most 1"),
    ({"environment": "ben/thesis-image"}, Reason.ENVIRONMENT, "base"),
)


@pytest.fixture
def hub_settings() -> Callable[[Config], None]:
    """A hub that offers another user's environment too."""

    def change(config: Config) -> None:
        from ds01_spawner.spawner import DS01Spawner

        DS01Spawner.ds01.environments["ben/thesis-image"] = "ds01/base:latest"

    return change


async def what_stands(hub: HubInMemory) -> tuple[Any, ...]:
    """All that a refused request must leave as it was."""
    granted = [event for kind in ("lease.reserved", "lease.bound") for event in await hub.events(kind)]
    return await hub.leases(), tuple(hub.engine.containers), len(granted), json.dumps(hub.stored_options("ana"))


async def test_bad_options_by_rest(hub: HubInMemory) -> None:
    """Each is refused with a reason of the closed set and what is allowed; leases, grants and stored options stay."""
    hub.limits_file.write_text(json.dumps(LIMITS))
    assert (await hub.spawn("ana", {})).status == 201
    await hub.stop("ana")
    before = await what_stands(hub)
    for options, reason, hint in BAD:
        answer = await hub.spawn("ana", options)
        assert (answer.reason, answer.status) == (reason, HTTP_STATUS[reason]), (options, answer)
        assert hint in answer.message and len(answer.message) < 400, (options, answer.message)
        assert await what_stands(hub) == before, options
    assert (await hub.spawn("ana")).status == 201
    assert hub.container("ana").device_ids == ()


async def test_a_body_that_is_no_object(hub: HubInMemory) -> None:
    """The hub itself refuses what isn't an object; a bare object is taken for the options."""
    for body in ("text", [1], {"user_options": "1g"}, {"user_options": [1]}, {"display_name": 1}):
        assert (await hub.api("POST", "users/ana/server", body, token="ana")).status == 400, body
    refused = await hub.api("POST", "users/ana/server", {"image": "evil:latest"}, token="ana")
    assert refused.reason == Reason.OPTIONS
    await hub.nothing_left()
    assert (await hub.spawn("ana")).status == 201


async def test_bad_options_by_form(hub: HubInMemory) -> None:
    """The form shows the refusal's own text and status, and changes as little as REST does."""
    hub.limits_file.write_text(json.dumps(LIMITS))
    async with hub.browser("ana") as browser:
        page = await browser.ask("GET", "spawn/ana")
        assert page.status == 200 and "1g MIG slice" in page.text and "7 of 7 free" in page.text
        assert (await browser.ask("POST", "spawn/ana", environment="base", gpu="none", count="1")).status == 302
        await hub.until(lambda: hub.spawner("ana").ready)
        await hub.stop("ana")
        before = await what_stands(hub)
        for fields, reason, hint in BAD_FIELDS:
            page = await browser.ask("POST", "spawn/ana", **fields)
            assert (page.reason, page.status) == (reason, HTTP_STATUS[reason]), (fields, page.status, page.reason)
            assert hint in page.text, fields
            assert await what_stands(hub) == before, fields
        page = await browser.ask("GET", "spawn/ana?opt-image=evil")
        assert page.reason == Reason.OPTIONS and await what_stands(hub) == before
    assert (await hub.spawn("ana")).status == 201


async def test_a_refusal_that_comes_later_does_not_stick_either(hub: HubInMemory) -> None:
    """Busy, a broken engine, a cancelled start: the next start without options uses the last accepted ones."""
    assert (await hub.spawn("carla", {"gpu": "1g", "count": 3})).status == 201
    accepted = hub.stored_options("carla")
    assert accepted == {"environment": "base", "gpu": "1g", "count": 3, "profile": accepted["profile"]}
    await hub.stop("carla")
    hub.engine.fail("create")
    assert (await hub.spawn("carla", {"gpu": None})).reason == Reason.ENGINE
    assert hub.stored_options("carla") == accepted
    hub.engine.exit_at_start = 1
    assert (await hub.spawn("carla", {"gpu": "1g"})).reason == Reason.ENGINE
    assert hub.stored_options("carla") == accepted
    hub.engine.exit_at_start = None
    assert (await hub.spawn("carla")).status == 201
    assert len(hub.container("carla").device_ids) == 3


async def test_the_profile_is_the_hubs_own(hub: HubInMemory) -> None:
    """What a user writes there is ignored; the admin panel shows what was granted."""
    assert (await hub.spawn("ana", {"gpu": "1g", "profile": "<script>"})).status == 201
    assert hub.stored_options("ana")["profile"] == "base, 1 x 1g, 1 GiB, 2 CPUs"


async def test_a_start_that_breaks_by_our_own_mistake_resets_too(
    hub: HubInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody expected leaves no option, no container and no lease."""

    def mistake(*_args: object) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("ds01_spawner.container_spec.make", mistake)
    answer = await hub.spawn("ana", {"gpu": "1g"})
    assert answer.status == 500 and hub.stored_options("ana") == {}
    await hub.nothing_left()

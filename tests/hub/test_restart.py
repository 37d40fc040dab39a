"""A hub that goes away and comes back: containers, leases and open kernels go on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import requests
import websockets

from tests.kernels import message, new_kernel
from tests.running_hub import RunningHub

USERS = tuple(f"user{number}" for number in range(10))


def lease_keys(hub: RunningHub) -> dict[str, tuple[Any, ...]]:
    return {row["id"]: (row["user"], row["state"], row["container_id"], str(row["devices"])) for row in hub.leases()}


async def printed(socket: Any) -> str:
    """The next text that the kernel prints."""
    async with asyncio.timeout(60):
        while True:
            message = json.loads(await socket.recv())
            if message.get("msg_type") == "stream":
                return str(message["content"]["text"])


async def test_ten_containers_and_an_open_kernel_survive(ten_hub: RunningHub) -> None:
    """After SIGKILL and a new start all ten answer, no lease changed, and a WebSocket opened before still works."""
    hub = ten_hub
    hub.add_users(*USERS)
    for user in USERS:
        assert hub.spawn(user).status_code in (201, 202)
    for user in USERS:
        hub.wait_ready(user)
    before = lease_keys(hub)
    assert len(before) == 10

    token = hub.user_token("user0")
    headers = {"Authorization": f"token {token}"}
    async with websockets.connect(new_kernel(hub, "user0", token), additional_headers=headers) as socket:
        await socket.send(message("x = 41; print('before')"))
        assert await printed(socket) == "before\n"
        await asyncio.to_thread(hub.kill_hub)
        await asyncio.to_thread(hub.start)
        await socket.send(message("print(x + 1)"))
        assert await printed(socket) == "42\n"

    for user in USERS:
        hub.wait_ready(user)
        answer = requests.get(
            f"{hub.url}/user/{user}/api/status", headers={"Authorization": f"token {hub.user_token(user)}"}, timeout=60
        )
        assert answer.status_code == 200
    assert lease_keys(hub) == before

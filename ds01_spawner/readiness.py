"""Waiting for a started container to accept connections, without waiting for one that has died.

The hub's own wait backs off in steps of up to seconds and notices a dead container only at its time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ds01_spawner.core.errors import Unavailable
from ds01_spawner.core.ports import ContainerView

#: Seconds between two tries to connect: short beside the two seconds that Python needs to import JupyterLab.
CONNECT_EVERY = 0.05
#: Seconds between two looks at the container.
LOOK_EVERY = 0.5


async def accepts_connections(ip: str, port: int) -> bool:
    """One try to connect."""
    try:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes together with a refused connection.
        async with asyncio.timeout(LOOK_EVERY):
            _, writer = await asyncio.open_connection(ip, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def wait_until_listening(
    ip: str, port: int, look: Callable[[], Awaitable[ContainerView | None]], *, deadline: float
) -> bool:
    """Wait until the port accepts. False where the container has ended or is gone meanwhile.

    Raises TimeoutError after `deadline` seconds.
    """
    async with asyncio.timeout(deadline):
        tries = 0
        while not await accepts_connections(ip, port):
            tries += 1
            if tries % round(LOOK_EVERY / CONNECT_EVERY) == 0:
                with suppress(Unavailable):  # nobody knows: it may be about to listen
                    view = await look()
                    if view is None or not view.running:
                        return False
            await asyncio.sleep(CONNECT_EVERY)
    return True

"""Waiting for a started container to accept connections, without waiting for one that has died.

The hub's own wait backs off in steps of up to seconds and notices a dead container only at its time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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
) -> ContainerView | None:
    """Wait until the port accepts; the view of a container that died meanwhile, None when it listens.

    Raises TimeoutError after `deadline` seconds.
    """
    async with asyncio.timeout(deadline):
        tries = 0
        while not await accepts_connections(ip, port):
            tries += 1
            if tries % round(LOOK_EVERY / CONNECT_EVERY) == 0:
                view = await look()
                if view is not None and not view.running:
                    return view
            await asyncio.sleep(CONNECT_EVERY)
    return None

"""Awaiting work that must not be left half done: it hears of a cancellation once and then cleans up in peace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
#: The loop itself keeps only weak references to tasks that nobody waits for any more.
_running: set[asyncio.Future[Any]] = set()


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` in a task of its own, which goes on to its end where the caller is cancelled."""
    return await asyncio.shield(_kept(work))


def _kept(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def owned(work: Coroutine[Any, Any, T], abandon: Callable[[T], Awaitable[object]] | None = None) -> T:
    """Await `work` in a task of its own. A cancelled caller cancels it once and waits until it has cleaned up.

    A caller that is cancelled a second time goes, and the clean-up goes on without it. Where `work` finished all the
    same, its result is given to `abandon`, since the caller will never see it.
    """
    task = _kept(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        await undisturbed(_finish(task, abandon))
        raise


async def _finish(task: asyncio.Future[T], abandon: Callable[[T], Awaitable[object]] | None) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and abandon is not None:
        await abandon(task.result())


async def uncut(call: Awaitable[T]) -> T:
    """Await one call of another part. A cancelled caller waits for its end first, so that its effect is known.

    The call has a deadline of its own, and so has this wait. A second cancellation goes unheard until then.
    """
    task = asyncio.ensure_future(call)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # heard, though nobody will read it
    raise cancelled

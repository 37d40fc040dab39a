"""Work that hears of a cancellation once and then cleans up in peace."""

from __future__ import annotations

import asyncio

import pytest

from ds01_spawner.owned import owned, uncut, undisturbed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_result_or_an_error_comes_through() -> None:
    """Without a cancellation nothing is different."""

    async def fails() -> None:
        raise ValueError("broken")

    async def works() -> int:
        return 7

    for wrapper in (owned, uncut, undisturbed):
        assert await wrapper(works()) == 7
        with pytest.raises(ValueError, match="broken"):
            await wrapper(fails())


async def test_the_caller_waits_for_the_clean_up() -> None:
    """A cancelled caller comes back when everything is tidy, and one that is cancelled again at once."""
    tidy, steps = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            steps.append("cancelled")
            await tidy.wait()
            steps.append("tidy")
            raise

    patient = asyncio.create_task(owned(work()))
    await turns()
    patient.cancel()
    await turns()
    assert not patient.done()
    tidy.set()
    with pytest.raises(asyncio.CancelledError):
        await patient
    assert steps == ["cancelled", "tidy"]

    tidy.clear()
    steps.clear()
    hasty = asyncio.create_task(owned(work()))
    await turns()
    hasty.cancel()
    await turns()
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert steps == ["cancelled"]
    tidy.set()
    await turns()
    assert steps == ["cancelled", "tidy"]


async def test_a_result_that_nobody_will_see_is_given_back() -> None:
    """The work finished although its caller was cancelled: somebody has to undo it."""
    gate, abandoned = asyncio.Event(), []

    async def stubborn() -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            return "made all the same"
        return "made"

    async def abandon(result: str) -> None:
        abandoned.append(result)

    caller = asyncio.create_task(owned(stubborn(), abandon))
    await turns()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert abandoned == ["made all the same"]


async def test_work_that_cancels_itself_is_no_clean_up() -> None:
    """There is nothing to wait for."""

    async def gives_up() -> None:
        raise asyncio.CancelledError

    for wrapper in (owned, uncut):
        with pytest.raises(asyncio.CancelledError):
            await wrapper(gives_up())


async def test_one_call_is_never_cut() -> None:
    """However often the caller is cancelled, the call ends first, well or badly, and is then a cancellation."""
    for error in (None, ValueError("broken")):
        gate, ended = asyncio.Event(), []

        async def call(error: Exception | None = error, gate: asyncio.Event = gate, ended: list[int] = ended) -> int:
            await gate.wait()
            ended.append(1)
            if error is not None:
                raise error
            return 1

        caller = asyncio.create_task(uncut(call()))
        for _ in range(3):
            await turns()
            caller.cancel()
        await turns()
        assert not caller.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended == [1]


async def test_undisturbed_work_goes_on_alone() -> None:
    """A stop that was begun is finished, whoever waits for it."""
    gate, done = asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    caller = asyncio.create_task(undisturbed(work()))
    await turns()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await turns()
    assert done == [1]

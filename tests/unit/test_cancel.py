"""Work that the NATS client does not let us cancel at once."""

from __future__ import annotations

import asyncio

import pytest

from everlytic_async._waiting import run_shielded


async def test_work_that_swallows_cancellations_is_cancelled_until_it_ends() -> None:
    swallowed = 0

    async def stubborn() -> int:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
        return swallowed

    calling = asyncio.ensure_future(run_shielded(stubborn()))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(calling, 10)
    assert swallowed == 2  # and it has ended


async def test_shielded_work_returns_its_result_or_raises() -> None:
    async def fail() -> int:
        raise ValueError("no")

    assert await run_shielded(asyncio.sleep(0, 7)) == 7
    with pytest.raises(ValueError, match="no"):
        await run_shielded(fail())

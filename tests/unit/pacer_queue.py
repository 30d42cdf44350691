"""Senders that wait for a pacer."""

from __future__ import annotations

import asyncio

import pytest

from everlytic_async._pacer import Pacer
from everlytic_async._waiting import StoppedError, StopToken
from everlytic_async.errors import ThrottledError
from everlytic_async.policies import Pacing
from support.clock import FakeClock, settle


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def slots(count: int, max_rate: float | None = None, *, adaptive: bool = False) -> Pacing:
    return Pacing(max_concurrency=count, max_rate=max_rate, adaptive=adaptive)


def throttled(retry_after_s: float | None = None) -> ThrottledError:
    return ThrottledError("the endpoint was too busy", 429, retry_after_s)


class Queue:
    """Senders by number, and what became of each.

    Attributes:
        admitted: Those that had their turn, in this order.
        admitted_at: When.
        stopped: Those that were stopped, and why.
    """

    def __init__(self, pacer: Pacer, token: StopToken | None = None) -> None:
        self.pacer = pacer
        self.token = token or StopToken()
        self.tasks: list[asyncio.Task[None]] = []
        self.admitted: list[int] = []
        self.admitted_at: dict[int, float] = {}
        self.stopped: dict[int, str] = {}

    async def join(self, count: int = 1, *, is_retry: bool = False) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._wait(len(self.tasks), is_retry)))
            await asyncio.sleep(0)  # so that they are in line in this order
        await settle()

    async def _wait(self, number: int, is_retry: bool) -> None:
        try:
            self.admitted_at[number] = await self.pacer.acquire(self.token, is_retry=is_retry)
        except StoppedError as stopped:
            self.stopped[number] = str(stopped)
        else:
            self.admitted.append(number)

    async def release(self, count: int = 1) -> None:
        """Give slots back, one by one."""
        for _ in range(count):
            self.pacer.release()
            await settle()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

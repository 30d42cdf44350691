"""The senders of the pacing benchmark: ours, and the usual ways to retry what was throttled.

Run as a process of its own, which says when it is ready and begins when its standard input ends, so
that several begin as one. It sends so many orders, or as many as it can in so many seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import tenacity

from benchmarks._load import CUSTOMER_HASH, HEADERS, PATH, STORE_HASH, check, order, run
from everlytic_async import BatchStoppedError, EverlyticClient, Outcome, Pacing

_OWN_NUMBERS = 100_000_000
_TOO_MANY = 429


class Tally:
    """What became of the orders, and when."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._orders: int = settings["orders"]
        self._first: int = settings["process"] * _OWN_NUMBERS
        self._duration_s: float | None = settings["duration_s"]
        self._began = time.monotonic()
        self.read = 0
        self.sent = 0
        self.in_time = 0
        self.per_second: Counter[int] = Counter()
        self.not_sent: Counter[str] = Counter()
        self.stopped: str | None = None

    def source(self) -> Iterator[dict[str, Any]]:
        """The orders: so many, or as many as are asked for until the time is over."""
        for number in range(self._first, self._first + self._orders):
            if self._over():
                return
            self.read += 1
            yield order(number)

    def _over(self) -> bool:
        return self._duration_s is not None and self._elapsed_s() >= self._duration_s

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def accepted(self) -> None:
        """One order was accepted now."""
        self.sent += 1
        if not self._over():
            self.in_time += 1
        self.per_second[int(self._elapsed_s())] += 1

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON."""
        elapsed_s = self._elapsed_s()
        return {
            "read": self.read,
            "sent": self.sent,
            "in_time": self.in_time,
            "not_sent": self.not_sent,
            "stopped": self.stopped,
            "elapsed_s": elapsed_s,
            "per_second": [self.per_second[second] for second in range(int(elapsed_s) + 1)],
        }


async def _ours(settings: dict[str, Any], tally: Tally, max_rate: float | None) -> None:
    client = EverlyticClient(
        settings["url"],
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=settings["concurrency"], max_rate=max_rate),
    )
    async with client, client.stream_orders(tally.source()) as results:
        try:
            async for result in results:
                if result.outcome is Outcome.SENT:
                    tally.accepted()
                else:
                    tally.not_sent[f"{result.outcome}: {type(result.error).__name__}"] += 1
        except BatchStoppedError as error:
            tally.stopped = error.message


async def adaptive(settings: dict[str, Any], tally: Tally) -> None:
    """Ours, which knows nothing of the limit."""
    await _ours(settings, tally, None)


async def max_rate(settings: dict[str, Any], tally: Tally) -> None:
    """Ours, which is told the limit: with several processes, its part of it."""
    await _ours(settings, tally, settings["limit"] / settings["processes"])


async def _retrying(
    settings: dict[str, Any], tally: Tally, wait: Callable[[tenacity.RetryCallState], float]
) -> None:
    """So many workers over one session, each of which retries for itself."""
    url = settings["url"] + PATH
    source = tally.source()
    connector = aiohttp.TCPConnector(limit=max(100, settings["concurrency"]))
    async with aiohttp.ClientSession(connector=connector) as session:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(settings["attempts"]),
            wait=wait,
            retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
        )
        async def post(one: dict[str, Any]) -> None:
            async with session.post(url, json=one, headers=HEADERS) as response:
                response.raise_for_status()
                check(response.status, await response.json())

        async def work() -> None:
            for one in source:
                try:
                    await post(one)
                except tenacity.RetryError as error:
                    cause = error.last_attempt.exception()
                    tally.not_sent[f"retries ran out: {type(cause).__name__}"] += 1
                else:
                    tally.accepted()

        await asyncio.gather(*(work() for _ in range(settings["concurrency"])))


# The example of tenacity's own documentation.
_JITTER = tenacity.wait_random_exponential(multiplier=1, max=60)


async def tenacity_jitter(settings: dict[str, Any], tally: Tally) -> None:
    """Under tenacity, with exponential backoff and full jitter."""
    await _retrying(settings, tally, _JITTER)


async def tenacity_retry_after(settings: dict[str, Any], tally: Tally) -> None:
    """The same, which waits for as long as a Retry-After asks and up to a second more.

    Without that jitter all come back at once, and most of them for nothing.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, aiohttp.ClientResponseError) and error.status == _TOO_MANY:
            asked = "" if error.headers is None else error.headers.get("Retry-After", "")
            if asked.isdecimal():
                return float(asked) + random.uniform(0, 1)
        return _JITTER(state)

    await _retrying(settings, tally, wait)


Sender = Callable[[dict[str, Any], Tally], Awaitable[None]]
SENDERS: dict[str, Sender] = {
    sender.__name__: sender
    for sender in (adaptive, max_rate, tenacity_jitter, tenacity_retry_after)
}


async def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Run one sender."""
    tally = Tally(settings)
    await SENDERS[settings["sender"]](settings, tally)
    return tally.figures()


def main() -> None:
    """Say that it is ready, wait for the sign, send, and print what came of it."""
    settings = json.loads(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.read()
    print(json.dumps(run(measure(settings))), flush=True)


if __name__ == "__main__":
    main()

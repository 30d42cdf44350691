"""Endpoints with a limit, and clients that always have more to send, in simulated time.

A discrete-event simulation of `Pacer`s that share one limiter: without an event loop, without
sleeping, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Protocol

import attrs
from pacer_queue import throttled

from everlytic_async._pacer import Pacer
from everlytic_async.events import Dispatcher, RateChanged
from everlytic_async.policies import Pacing, RetryPolicy


class Limiter(Protocol):
    """Lets requests pass or refuses them."""

    def admit(self, now: float) -> bool:
        """Whether a request that arrives now passes."""

    def done(self) -> None:
        """A request that had passed was answered."""


class NoLimit:
    """Everything passes."""

    def admit(self, now: float) -> bool:  # noqa: ARG002 - as the others
        return True

    def done(self) -> None:
        pass


@attrs.define
class LeakyBucket(NoLimit):
    """Like nginx's ``limit_req zone=... burst=... nodelay``; the rate may change.

    A bucket of `burst` + 1 tokens does the same.

    Its clock counts multiples of `grain_s`, if that is not 0: nginx's counts milliseconds.
    """

    rate: float
    burst: int
    grain_s: float = 0.0
    _excess: float = 0.0
    _last: float | None = None

    def admit(self, now: float) -> bool:
        if self.grain_s:
            now -= now % self.grain_s
        excess = 0.0
        if self._last is not None:
            excess = max(0.0, self._excess - self.rate * (now - self._last) + 1.0)
        if excess > self.burst:
            return False
        self._excess, self._last = excess, now
        return True


@attrs.define
class ConcurrencyLimit:
    """So many requests may be in flight at a time."""

    limit: int
    _serving: int = 0

    def admit(self, now: float) -> bool:  # noqa: ARG002 - as the others
        if self._serving >= self.limit:
            return False
        self._serving += 1
        return True

    def done(self) -> None:
        self._serving -= 1


@attrs.define
class RandomRefusals(NoLimit):
    """Refuses this share of all requests, whatever the rate."""

    share: float
    rng: random.Random

    def admit(self, now: float) -> bool:  # noqa: ARG002 - as the others
        return self.rng.random() >= self.share


@attrs.define
class FirstRefused(NoLimit):
    """Refuses this many requests, and none after them."""

    left: int

    def admit(self, now: float) -> bool:  # noqa: ARG002 - as the others
        self.left -= 1
        return self.left < 0


@attrs.define
class Changeable:
    """Another limiter, which may be replaced meanwhile."""

    current: Limiter

    def admit(self, now: float) -> bool:
        return self.current.admit(now)

    def done(self) -> None:
        self.current.done()


@attrs.define
class ClientLog:
    """When one client had orders accepted and refused, and its estimates of the limit."""

    accepted: list[float] = attrs.Factory(list)
    refused: list[float] = attrs.Factory(list)
    changes: list[RateChanged] = attrs.Factory(list)


class Simulation:
    """Clients that always have more to send, and one endpoint.

    Args:
        limiter: The endpoint's.
        clients: How many, each with a `Pacer` of its own.
        slots: How many POSTs each may have in flight.
        network_s: How long a request takes, and its answer as well.
        service_s: How long the endpoint takes for a request that passes.
        retry_after_s: What each refusal asks for, if anything.
        max_rate: Of each client.
        timer_s: The resolution of the clients' timers: each is late by up to this.
        seed: Of the jitter of the pauses and of the network.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        clients: int = 1,
        slots: int = 64,
        network_s: float = 0.002,
        service_s: float = 0.001,
        retry_after_s: float | None = None,
        max_rate: float | None = None,
        timer_s: float = 0.001,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.limiter = limiter
        self.network_s = network_s
        self.service_s = service_s
        self.retry_after_s = retry_after_s
        self.timer_s = timer_s
        self.records = [ClientLog() for _ in range(clients)]
        self._rng = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._wakes: list[float | None] = [None] * clients
        self._gone: set[int] = set()
        self.pacers = [
            Pacer(
                Pacing(max_concurrency=slots, max_rate=max_rate),
                RetryPolicy(),
                dispatcher=Dispatcher((self._hook(record),)),
                clock=lambda: self.now,
                rng=random.Random(seed * 1_000 + number),
            )
            for number, record in enumerate(self.records)
        ]
        for client in range(clients):
            # Nobody starts two processes in the same millisecond.
            self._at(self._rng.uniform(0.0, 0.05) if client else 0.0, self._sender(client))

    def run(self, seconds: float) -> None:
        """Let the time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._queue)
            happen()
        self.now = end

    def stop_clients(self, *clients: int) -> None:
        """These have nothing more to send."""
        self._gone.update(clients)

    def throughput(self, since: float, client: int | None = None) -> float:
        """Accepted orders a second since then, of one client or of all."""
        records = self.records if client is None else [self.records[client]]
        accepted = sum(moment >= since for record in records for moment in record.accepted)
        return accepted / (self.now - since)

    def refused_share(self, since: float = 0.0) -> float:
        """How many of the requests since then were refused."""
        refused = sum(moment >= since for record in self.records for moment in record.refused)
        accepted = sum(moment >= since for record in self.records for moment in record.accepted)
        return refused / max(1, refused + accepted)

    def lowest_share(self, since: float) -> float:
        """The throughput of the client with the least, as a part of a fair share."""
        clients = range(len(self.pacers))
        lowest = min(self.throughput(since, client) for client in clients)
        return lowest * len(clients) / self.throughput(since)

    @staticmethod
    def _hook(record: ClientLog) -> Callable[[object], None]:
        def hook(event: object) -> None:
            if isinstance(event, RateChanged):
                record.changes.append(event)

        return hook

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._numbers), happen))

    def _sender(self, client: int) -> Callable[[], None]:
        return lambda: self._send(client)

    def _send(self, client: int) -> None:
        """Start as many as may start now; call again when the next one may."""
        if client in self._gone:
            return
        pacer = self.pacers[client]
        while (started_at := pacer.try_acquire()) is not None:
            self._start(client, started_at)
        next_at = pacer.next_start_at()
        if next_at < math.inf and self._wakes[client] != next_at:
            self._wakes[client] = next_at
            self._at(next_at + self._rng.uniform(0.0, self.timer_s), self._sender(client))

    def _start(self, client: int, started_at: float) -> None:
        def arrive() -> None:
            passes = self.limiter.admit(self.now)
            service_s = 0.0
            if passes and self.service_s:
                service_s = self.service_s * self._rng.uniform(0.9, 1.1)
            self._at(self.now + service_s, lambda: self._answer(client, started_at, passes))

        self._at(self.now + self._travel_s(), arrive)

    def _answer(self, client: int, started_at: float, passed: bool) -> None:
        if passed:
            self.limiter.done()

        def receive() -> None:
            pacer, record = self.pacers[client], self.records[client]
            if passed:
                record.accepted.append(self.now)
                pacer.on_accepted(started_at)
            else:
                record.refused.append(self.now)
                pacer.on_throttled(started_at, throttled(self.retry_after_s))
            pacer.release()
            self._send(client)

        self._at(self.now + self._travel_s(), receive)

    def _travel_s(self) -> float:
        return self.network_s * self._rng.uniform(0.8, 1.2)

"""``worker``: takes orders from the queue and sends them, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
from rich.text import Text

from everlytic_async.cli._exit import Exit, say, silence
from everlytic_async.cli._nats import load_nats, load_queue, reached
from everlytic_async.cli._proxy import find_proxy
from everlytic_async.cli._screen import NAMES, orders, screen, show
from everlytic_async.cli._settings import Account, load_stores
from everlytic_async.cli._signals import Signals
from everlytic_async.client import EverlyticClient
from everlytic_async.errors import (
    AuthenticationError,
    ConfigurationError,
    QueueError,
    redact_emails,
)
from everlytic_async.ledger import Durability, SqliteLedger
from everlytic_async.policies import Delivery, Pacing, RetryPolicy
from everlytic_async.worker import OrderQueue, QueueSettings, Worker

if TYPE_CHECKING:
    from everlytic_async.worker import HealthServer

__all__ = ["Options", "work"]

_LOGGER = logging.getLogger("everlytic_async.worker")
# How often it is looked whether the queue is empty, in seconds; only where the worker has nothing.
_LOOK_S = 0.25
# How often the log tells what was done meanwhile, in seconds.
_REPORT_S = 60.0
# While a server starts or elects a leader, a worker can wait for longer than a person would.
_PATIENCE_S = 30.0
_MAX_PORT = 65_535
# Which store the running task works for: the log tells it.
_STORE: ContextVar[str] = ContextVar("store", default="-")


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``worker``, as they were given."""

    nats: Mapping[str, Any]
    stores: tuple[str, ...]
    ledger: str | None
    durability: str | None
    concurrency: int
    rate: float | None
    delivery: str
    retries: int
    grace: float
    exit_when_empty: bool
    health: str | None
    log_level: str
    config: str | None
    allow_http: bool


def work(options: Options) -> int:
    """Serve the stores until SIGTERM or Ctrl-C, and return the exit code.

    Raises:
        ConfigurationError: before anything is taken from the queue.
        LedgerError: the same.
        QueueError: the same: the queue can't be reached.
    """
    if options.health is not None:
        address_of(options.health)
    if options.durability is not None and options.ledger is None:
        raise ConfigurationError("--durability is about a ledger in a file: give --ledger")
    accounts = load_stores(options.config, options.stores)
    stores = {
        name: (_client(options, account), load_queue(options.config, name))
        for name, account in accounts.items()
    }
    _log_to_stderr(options.log_level)
    run = _Run(options, stores, {name: _host(account) for name, account in accounts.items()})
    try:
        return asyncio.run(run.to_the_end())
    except asyncio.CancelledError:
        if run.left is None:
            raise
        # By the second signal: what was in flight is unknown, and the ledger knows.
        return 128 + run.left


def _client(options: Options, account: Account) -> EverlyticClient:
    return EverlyticClient(
        account.base_url,
        store_hash=account.store_hash,
        customer_hash=account.customer_hash,
        delivery=Delivery(options.delivery.replace("-", "_")),
        retry=RetryPolicy(attempts=options.retries + 1),
        pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
        proxy=find_proxy(account.base_url),
        allow_http=options.allow_http,
    )


def address_of(where: str) -> tuple[str, int]:
    """The host and the port of ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``, which is all hosts.

    Raises:
        ConfigurationError: it is none of these.
    """
    host, colon, port = where.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ConfigurationError(f"--health wants HOST:PORT, such as 127.0.0.1:9090, not {where!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - as it was asked for


def _host(account: Account) -> str:
    host: str = urlsplit(account.base_url.strip()).netloc.rpartition("@")[2]
    return host


class _OfStore(logging.Filter):
    """Gives each line of the log the store that it is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.store = _STORE.get()
        return True


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_OfStore())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(store)s] %(message)s"))
    logger = logging.getLogger("everlytic_async")
    logger.addHandler(handler)
    logger.setLevel(level.upper())


class _Run:
    """One run of the command, for one or more stores.

    Attributes:
        left: The signal by which it was left at once; None where it was not.
    """

    def __init__(
        self,
        options: Options,
        stores: Mapping[str, tuple[EverlyticClient, QueueSettings]],
        hosts: Mapping[str, str],
    ) -> None:
        self._options = options
        self._stores = stores
        self._hosts = hosts
        self._workers: dict[str, Worker] = {}
        self._signals = Signals(self._drain, self._leave)
        self._task: asyncio.Task[object] | None = None
        self._working = False
        self._failed = False
        self.left: int | None = None

    async def to_the_end(self) -> int:
        """Serve until told to stop; return the exit code."""
        self._task = asyncio.current_task()
        options = self._options
        nats = load_nats(options.config, options.nats)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._signals.heard())
            ledger = None
            if options.ledger is not None:
                durability = Durability(options.durability or Durability.PROCESS)
                ledger = SqliteLedger(options.ledger, durability=durability)
                await stack.enter_async_context(ledger)
            where = await stack.enter_async_context(reached(nats, patience_s=_PATIENCE_S))
            for name, (client, settings) in self._stores.items():
                _STORE.set(name)  # for what the connection has to say
                queue = await stack.enter_async_context(OrderQueue(settings=settings, **where))
                await stack.enter_async_context(client)
                self._workers[name] = Worker(client, queue, ledger, grace_s=options.grace)
            _STORE.set("-")
            if options.health is not None:
                health = await stack.enter_async_context(self._health(options.health))
                _LOGGER.info("health is served at %s", health.url)
            self._working = True
            await self._work()
        show(screen(), self._summary())
        return Exit.FAILED if self._failed else Exit.OK

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(self._report())]
                if self._options.exit_when_empty:
                    others.append(group.create_task(self._stop_when_empty()))
                async with asyncio.TaskGroup() as serving:
                    for name, worker in self._workers.items():
                        serving.create_task(self._serve(name, worker))
                for task in others:
                    task.cancel()
        except ExceptionGroup as errors:
            raise _first(errors) from errors

    async def _serve(self, name: str, worker: Worker) -> None:
        _STORE.set(name)  # of this task, and of those that it starts
        _LOGGER.info("orders of %s go to %s", name, self._hosts[name])
        try:
            await worker.run()
        except AuthenticationError as error:
            # It is of this store alone: the others go on.
            self._failed = True
            _LOGGER.error(  # noqa: TRY400 - it is told in full
                "no more orders of this store are taken: %s. They are back in the queue: set the "
                "right hashes, and start a worker again",
                redact_emails(str(error)),
            )
        except QueueError as error:
            # The workers of other stores may have credentials that are still good.
            self._failed = True
            _LOGGER.error(  # noqa: TRY400 - it is told in full
                "no more orders of this store are taken: %s. Those in the queue stay there: renew "
                "the credentials, and start a worker again",
                error,
            )

    async def _report(self) -> None:
        """Tell now and then what was done."""
        told: dict[str, object] = {}
        while True:
            await asyncio.sleep(_REPORT_S)
            for name, worker in self._workers.items():
                status = worker.status
                if told.get(name) != status.counts:
                    told[name] = status.counts
                    _LOGGER.info("so far %s: %s", name, _figures(worker))

    async def _stop_when_empty(self) -> None:
        """Stop each worker once its queue has nothing for it, nor for any other."""
        waiting = dict(self._workers)
        while waiting:
            for name, worker in tuple(waiting.items()):
                if worker.status.in_hand == 0 and await self._is_empty(worker):
                    worker.stop()
                    del waiting[name]
            await asyncio.sleep(_LOOK_S)

    async def _is_empty(self, worker: Worker) -> bool:
        try:
            return (await worker.queue.status()).depth == 0
        except QueueError as error:
            _LOGGER.warning("it is not known whether the queue is empty: %s", error)
            return False

    def _health(self, where: str) -> HealthServer:
        from everlytic_async.worker import HealthServer  # noqa: PLC0415 - who does not ask needs none

        host, port = address_of(where)
        return HealthServer(self._workers, host=host, port=port)

    # ------------------------------------------------------------------------------ signals

    def _drain(self) -> None:
        if not self._working:
            self._leave()  # it still connects: no order was taken
            return
        for name, worker in self._workers.items():
            _STORE.set(name)
            worker.stop()
        try:
            say(
                "Stopping: no more orders are taken; waiting for those in flight, "
                f"{self._options.grace:g} s at most. Again to leave at once."
            )
        except OSError:  # whoever read the log has gone
            silence(sys.stderr.fileno())

    def _leave(self) -> None:
        self.left = self._signals.received
        if self._task is not None:
            self._task.cancel()

    # ------------------------------------------------------------------------------- screen

    def _summary(self) -> Iterator[Text | str]:
        for name, worker in self._workers.items():
            yield f"{name}: {_figures(worker)}"


def _figures(worker: Worker) -> str:
    """What a worker did, in words."""
    status = worker.status
    counts = [f"{status.counts[outcome]:,} {NAMES[outcome]}" for outcome in NAMES]
    told = ", ".join(text for text in counts if not text.startswith("0 "))
    return (
        f"{told or 'no orders'}; {orders(status.dead)} to the dead letters, "
        f"{status.returned:,} back to the queue"
    )


def _first(errors: ExceptionGroup) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error

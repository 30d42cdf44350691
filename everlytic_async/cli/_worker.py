"""``worker``: takes orders from the queue and sends them, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar

import attrs

from everlytic_async.cli._client import make_client
from everlytic_async.cli._console import print_lines
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._nats import connect
from everlytic_async.cli._queue_commands import WorkerOptions
from everlytic_async.cli._run import Signals
from everlytic_async.cli._screen import SEND_LABELS, count_orders
from everlytic_async.cli._settings import QUEUE_TABLES, Settings
from everlytic_async.client import EverlyticClient
from everlytic_async.errors import (
    AuthenticationError,
    ConfigurationError,
    QueueError,
    redact_emails,
)
from everlytic_async.ledger import Durability, SqliteLedger
from everlytic_async.worker import Worker

_LOGGER = logging.getLogger("everlytic_async.worker")
# How often to check whether the queue is empty or a private server has ended, in seconds.
_POLL_S = 0.25
# While a server starts or elects a leader, a worker can wait longer than a person would.
_TIMEOUT_S = 30.0
# A private server that can't be reached for this long has ended: nothing restarts it.
_SERVER_ENDED_S = 5.0
_MAX_PORT = 65_535
# Which store the running task works for, for the log.
_STORE: ContextVar[str] = ContextVar("store", default="-")


def work(options: WorkerOptions) -> int:
    """Serve the stores until SIGTERM or Ctrl-C, and return the exit code."""
    settings = Settings(options.config, "everlytic", *QUEUE_TABLES)
    if options.health is not None:
        parse_address(options.health)
    if options.durability is not None and options.ledger is None:
        raise ConfigurationError("--durability is for a ledger in a file: name it with --ledger")
    accounts = settings.store_accounts(options.stores)
    clients = {name: make_client(options, account) for name, account in accounts.items()}
    hosts = {name: account.host for name, account in accounts.items()}
    run = _Run(options, settings, clients, hosts)
    try:
        with _log_to_stderr(options.log_level):
            return asyncio.run(run.run())
    except asyncio.CancelledError:
        if run.signals.received is None:
            raise
        # The second signal: what was in flight is unknown, and recorded as such.
        return 128 + run.signals.received


def parse_address(where: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``, which is all hosts."""
    host, colon, port = where.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ConfigurationError(f"--health wants HOST:PORT, such as 127.0.0.1:9090, not {where!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - the user wants that


def _add_store(record: logging.LogRecord) -> bool:
    record.store = _STORE.get()
    return True


@contextmanager
def _log_to_stderr(level: str) -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_store)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(store)s] %(message)s"))
    logger = logging.getLogger("everlytic_async")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@attrs.define(eq=False)
class _Run:
    """One run of the command, for one or more stores."""

    _options: WorkerOptions
    _settings: Settings
    _clients: Mapping[str, EverlyticClient]
    _hosts: Mapping[str, str]
    signals: Signals = attrs.field(init=False)
    _workers: dict[str, Worker] = attrs.field(factory=dict, init=False)
    _task: asyncio.Task[object] | None = attrs.field(default=None, init=False)
    _started: bool = attrs.field(default=False, init=False)
    _failed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.signals = Signals(self._drain, self._exit_now)

    async def run(self) -> int:
        self._task = asyncio.current_task()
        options = self._options
        async with AsyncExitStack() as stack:
            stack.enter_context(self.signals.install())
            ledger = None
            if options.ledger is not None:
                durability = Durability(options.durability or Durability.PROCESS)
                ledger = SqliteLedger(options.ledger, durability=durability)
                await stack.enter_async_context(ledger)
            queues = connect(options, self._settings, timeout_s=_TIMEOUT_S)
            make_queue = await stack.enter_async_context(queues)
            for name, client in self._clients.items():
                _STORE.set(name)  # for the log of the connection
                queue = await stack.enter_async_context(make_queue(name))
                await stack.enter_async_context(client)
                self._workers[name] = Worker(
                    client, queue, ledger, shutdown_timeout_s=options.grace
                )
            _STORE.set("-")
            if options.health is not None:
                from everlytic_async.worker import HealthServer  # noqa: PLC0415 - only here

                host, port = parse_address(options.health)
                server = HealthServer(self._workers, host=host, port=port)
                health = await stack.enter_async_context(server)
                _LOGGER.info("health is served at %s", health.url)
            self._started = True
            await self._work(is_embedded=make_queue.is_embedded)
        summary = [f"{name}: {_summarize(worker)}" for name, worker in self._workers.items()]
        print_lines(summary)
        return Exit.FAILED if self._failed else Exit.OK

    async def _work(self, *, is_embedded: bool) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                others = []
                if is_embedded:
                    others.append(group.create_task(self._stop_when_server_ended()))
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
        except (AuthenticationError, QueueError) as error:
            # Only this store is affected: the others go on.
            self._failed = True
            is_hashes = isinstance(error, AuthenticationError)
            _LOGGER.error(  # noqa: TRY400 - the text says it all
                "no more orders of this store are taken: %s. They are in the queue: %s, and start "
                "a worker again",
                redact_emails(str(error)),
                "set the right hashes" if is_hashes else "renew the credentials",
            )

    async def _stop_when_empty(self) -> None:
        """Stop each worker once nothing is left in its queue, or with another worker."""
        waiting = dict(self._workers)
        while waiting:
            for name, worker in tuple(waiting.items()):
                if worker.status.in_flight == 0 and await self._is_empty(worker):
                    worker.stop()
                    del waiting[name]
            await asyncio.sleep(_POLL_S)

    async def _is_empty(self, worker: Worker) -> bool:
        try:
            return (await worker.queue.status()).depth == 0
        except QueueError as error:
            _LOGGER.warning("cannot check whether the queue is empty: %s", error)
            return False

    async def _stop_when_server_ended(self) -> None:
        """A private server ends with the command that started it, and nothing restarts it."""
        loop = asyncio.get_running_loop()
        reached_at = loop.time()
        while loop.time() - reached_at < _SERVER_ENDED_S:
            if all(worker.status.connected for worker in self._workers.values()):
                reached_at = loop.time()
            await asyncio.sleep(_POLL_S)
        self._failed = True
        _LOGGER.error(
            "the private NATS server has ended, with the command that had started it. The orders "
            "are in its directory: start this worker again, which then starts the server"
        )
        for worker in self._workers.values():
            worker.stop()

    # ------------------------------------------------------------------------------ signals

    def _drain(self) -> None:
        if not self._started:
            self._exit_now()  # still connecting: no order was taken
            return
        for name, worker in self._workers.items():
            _STORE.set(name)
            worker.stop()
        say(
            "Stopping: no more orders are taken; waiting for those in flight, "
            f"{self._options.grace:g} s at most. Again to exit at once."
        )

    def _exit_now(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _summarize(worker: Worker) -> str:
    status = worker.status
    counts = ((status.counts[outcome], name) for outcome, (name, *_) in SEND_LABELS.items())
    outcomes = ", ".join(f"{count:,} {name}" for count, name in counts if count)
    return (
        f"{outcomes or 'no orders'}; {count_orders(status.dead_lettered)} to the dead letters, "
        f"{status.nacked:,} back to the queue"
    )


def _first(errors: ExceptionGroup) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error

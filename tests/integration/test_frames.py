"""No frame of an exception that leaves the package holds a hash or an order.

Error trackers send the local variables of every frame away, and rich prints them. The hashes are
globals here, and no local variable of a test holds them: what is found comes from the package.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import pytest
import rich.console
import rich.traceback
import sentry_sdk
import sentry_sdk.transport

from everlytic_async import (
    BatchStoppedError,
    ConfigurationError,
    EverlyticClient,
    EverlyticError,
    Pacing,
    RetryPolicy,
    Timeouts,
)
from support.delivery import CUSTOMER_HASH, FAST_RETRY, STORE_HASH, order
from support.servers import Connection, RawServer, Script, answer, never_answer, until

TESTS = str(Path(__file__).parent)
CUSTOMER = "customer1@example.com"
PASSWORD = "p4ss-of-the-pr0xy"
ONCE = RetryPolicy(attempts=1, base_s=0.001)


def chained(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that hang on it, shown or not."""
    pending, seen = [error], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += [other for other in (one.__cause__, one.__context__) if other is not None]
        pending += getattr(one, "exceptions", ())


def frames(error: BaseException) -> Iterator[FrameType]:
    for one in chained(error):
        step = one.__traceback__
        while step is not None:
            yield step.tb_frame
            step = step.tb_next


def texts_in(value: object, depth: int = 0) -> Iterator[str]:
    """What is seen of a local variable when it is printed, or what it holds."""
    try:
        yield repr(value)
    except AttributeError:
        yield ""  # what is only half made has no repr yet, and no secret to show
    if depth < 5 and not isinstance(value, str | bytes):
        if isinstance(value, Mapping):
            for pair in value.items():
                yield from texts_in(pair, depth + 1)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                yield from texts_in(item, depth + 1)


def as_sentry_sends_it(error: BaseException) -> str:
    class Kept(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope: sentry_sdk.envelope.Envelope) -> None:
            texts.append(envelope.serialize().decode())

    texts: list[str] = []
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(
            sentry_sdk.Client(
                dsn="https://key@sentry.invalid/1",
                transport=Kept,
                default_integrations=False,
                auto_enabling_integrations=False,
            )
        )
        sentry_sdk.capture_exception(error)
    return texts[0]


def as_rich_prints_it(error: BaseException) -> str:
    console = rich.console.Console(file=io.StringIO(), width=400)
    printed = rich.traceback.Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_string=10_000
    )
    with console.capture() as capture:
        console.print(printed)
    return capture.get()


def find_leaks(error: BaseException, *secrets: str) -> list[str]:
    """Where a secret is found."""
    found = [
        f"{frame.f_code.co_qualname}: {name}"
        for frame in frames(error)
        for name, value in frame.f_locals.items()
        for text in texts_in(value)
        if any(secret in text for secret in secrets)
    ]
    found += [
        f"the {type(one).__name__} itself"
        for one in chained(error)
        if any(secret in f"{one} {one!r} {vars(one)}" for secret in secrets)
    ]
    return sorted(set(found))


def find_rendered_leaks(error: BaseException, *secrets: str) -> list[str]:
    """Which tool would show a secret; it takes long."""
    shown = {"sentry": as_sentry_sends_it(error), "rich": as_rich_prints_it(error)}
    return [tool for tool, text in shown.items() if any(secret in text for secret in secrets)]


def assert_no_secret(error: BaseException) -> None:
    assert find_leaks(error, STORE_HASH, CUSTOMER_HASH, PASSWORD) == []
    # What the caller's own frames hold is the caller's.
    ours = [
        f"{frame.f_code.co_qualname}: {name}"
        for frame in frames(error)
        if not frame.f_code.co_filename.startswith(TESTS)
        for name, value in frame.f_locals.items()
        for text in texts_in(value)
        if CUSTOMER in text
    ]
    assert ours == []


async def raised_in(work: Awaitable[object]) -> BaseException:
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - it is what is looked at
        return error
    raise AssertionError("nothing was raised")


def test_a_leak_is_found() -> None:
    def leak() -> None:
        headers = {"x-ev-store-hash": STORE_HASH}
        raise ValueError(len(headers))

    with pytest.raises(ValueError, match="1") as caught:
        leak()
    found = find_leaks(caught.value, STORE_HASH)
    assert any("leak" in where for where in found)
    assert find_rendered_leaks(caught.value, STORE_HASH) == ["sentry", "rich"]


# ------------------------------------------------------------------------------ the constructor


async def not_plain(event: object) -> None: ...


ENVIRONMENT = {
    "base_url": "https://shop.example",
    "store_hash": STORE_HASH,
    "customer_hash": CUSTOMER_HASH,
}


def set_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(f"EVERLYTIC_{name.upper()}", value)


WRONG: list[dict[str, Any]] = [
    {"base_url": None},
    {"base_url": ""},
    {"base_url": "http://shop.example"},
    {"base_url": "ftp://shop.example"},
    {"base_url": "https://shop.example:99999"},
    {"base_url": "https://[shop"},
    {"base_url": f"https://{'x' * 64}.example"},
    {"store_hash": None},
    {"store_hash": " "},
    {"store_hash": 7},
    {"customer_hash": ""},
    {"customer_hash": b"7URV2nrUrSHswsrE"},
    {"store_hash": f"{STORE_HASH} and more"},
    {"customer_hash": f"{CUSTOMER_HASH}\n{CUSTOMER_HASH}"},
    {"customer_hash": [CUSTOMER_HASH]},
    {"store_hash": f"{STORE_HASH}\u00e9"},
    {"delivery": "twice"},
    {"retry": 5},
    {"pacing": "fast"},
    {"timeouts": None},
    {"session": "mine"},
    {"on_event": 7},
    {"on_event": [7]},
    {"on_event": not_plain},
    {"allow_http": "yes"},
    {"proxy": f"ftp://shop:{PASSWORD}@proxy.example"},
    {"proxy": f"http://shop:{PASSWORD}@proxy.example/path"},
    {"proxy": f"http://shop:{PASSWORD}@[proxy"},
    {"proxy": f"http://shop:{PASSWORD}@proxy.example", "base_url": "http://shop.example"},
    {"proxy": f"http://shop:{PASSWORD}@proxy.example", "retry": 5},
    {"proxy": [f"http://shop:{PASSWORD}@proxy.example"]},
    {"ledger": "orders.ledger"},
]


@pytest.mark.parametrize("from_env", [False, True])
@pytest.mark.parametrize("wrong", range(len(WRONG)), ids=lambda index: str([*WRONG[index]]))
def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, wrong: int, *, from_env: bool) -> None:
    set_environment(monkeypatch)
    settings = {**WRONG[wrong]} if from_env else {**ENVIRONMENT, **WRONG[wrong]}
    make = EverlyticClient.from_env if from_env else EverlyticClient
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)
    del settings
    assert_no_secret(caught.value)


@pytest.mark.parametrize("name", ["BASE_URL", "STORE_HASH", "CUSTOMER_HASH"])
@pytest.mark.parametrize("value", [None, "", "two words"])
def test_a_wrong_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    set_environment(monkeypatch)
    if value is None:
        monkeypatch.delenv(f"EVERLYTIC_{name}")
    else:
        monkeypatch.setenv(f"EVERLYTIC_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        EverlyticClient.from_env()
    assert_no_secret(caught.value)


# ------------------------------------------------------- time-outs and cancellation around a call


@asynccontextmanager
async def a_client(url: str, *, own: bool, **settings: Any) -> AsyncIterator[EverlyticClient]:
    async with (
        nullcontext() if own else aiohttp.ClientSession() as session,
        EverlyticClient(
            url,
            store_hash=STORE_HASH,
            customer_hash=CUSTOMER_HASH,
            session=session,
            **{"retry": FAST_RETRY, **settings},
        ) as client,
    ):
        yield client


async def read_nothing(connection: Connection) -> None:
    await connection.head()
    await asyncio.Event().wait()


async def answer_half(connection: Connection) -> None:
    await connection.request()
    await connection.send(answer(200, b"{" * 100)[:-50])
    await connection.closed()


async def be_busy(connection: Connection) -> None:
    await connection.request()
    await connection.answer(429, b"", "Retry-After: 60")
    await connection.closed()


#: In which phase the order is when its caller gives up.
PHASES: dict[str, Script | None] = {
    "connecting": None,
    "uploading": read_nothing,
    "waiting for the answer": never_answer,
    "reading the answer": answer_half,
    "waiting for its turn": be_busy,
}


async def by_timeout(client: EverlyticClient, size: int) -> None:
    async with asyncio.timeout(0.15):
        await client.send_order(an_order(size))


async def by_wait_for(client: EverlyticClient, size: int) -> None:
    await asyncio.wait_for(client.send_order(an_order(size)), 0.15)


async def by_cancelling(client: EverlyticClient, size: int) -> None:
    task = asyncio.create_task(client.send_order(an_order(size)))
    await asyncio.sleep(0.15)
    task.cancel()
    await task


async def by_a_group(client: EverlyticClient, size: int) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.15)
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(client.send_order(an_order(size)))
        group.create_task(fail())


async def while_handling_another_error(client: EverlyticClient, size: int) -> None:
    try:
        {}["nothing"]
    except KeyError:
        await by_timeout(client, size)


async def in_a_batch(client: EverlyticClient, size: int) -> None:
    async with asyncio.timeout(0.15):
        await client.send_orders(an_order(size) for _ in range(2))


GIVING_UP = [
    by_timeout,
    *(pytest.param(how, marks=pytest.mark.slow) for how in (by_wait_for, by_cancelling)),
    by_a_group,
    pytest.param(while_handling_another_error, marks=pytest.mark.slow),
]


def an_order(size: int) -> dict[str, Any]:
    return order(1, products=[{"product_name": "x" * size}])


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A port at which connecting takes for ever: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.settimeout(0)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("give_up", GIVING_UP)
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_caller_who_gives_up(
    give_up: Callable[[EverlyticClient, int], Awaitable[None]],
    phase: str,
    *,
    own: bool,
    hanging_port: int,
) -> None:
    async with RawServer(PHASES[phase] or never_answer) as server:
        url = server.url if PHASES[phase] else f"http://127.0.0.1:{hanging_port}"
        async with a_client(url, own=own) as client:
            size = 20_000_000 if phase == "uploading" else 10
            error = await raised_in(give_up(client, size))
    assert isinstance(error, TimeoutError | asyncio.CancelledError | ExceptionGroup)
    assert_no_secret(error)


async def test_a_caller_who_gives_up_a_batch() -> None:
    async with RawServer(never_answer) as server, a_client(server.url, own=True) as client:
        assert_no_secret(await raised_in(in_a_batch(client, 10)))


async def test_what_the_caller_was_handling_stays_whole() -> None:
    async with RawServer(never_answer) as server, a_client(server.url, own=True) as client:
        error = await raised_in(while_handling_another_error(client, 10))
    (handled,) = (one for one in chained(error) if isinstance(one, KeyError))
    assert handled.__traceback__ is not None


# -------------------------------------------------------------------------- errors of the package


def replying(status: int, body: bytes, *headers: str) -> Script:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            sent = connection.server.heads[-1].decode().split("\r\n")[1:-2]
            echo = [f"X-Echo: {line.partition(': ')[2]}" for line in sent]
            await connection.answer(status, body, *headers, *echo)

    return script


async def lose(connection: Connection) -> None:
    await connection.request()


async def reset(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def refuse_the_upload(connection: Connection) -> None:
    await connection.head()
    connection.reset()


async def talk_nonsense(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"\x00\x01\x02 nonsense\r\n\r\n")


async def switch_protocols(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n\x00")


async def say_too_much(connection: Connection) -> None:
    await connection.request()
    await connection.answer(200, b"", f"X-Echo: {STORE_HASH}{'x' * 66_000}")


async def break_off(connection: Connection) -> None:
    await connection.request()
    sent = connection.server.heads[-1].decode().split("\r\n")[1:-2]
    echo = [f"X-Echo: {line.partition(': ')[2]}" for line in sent]
    await connection.send(answer(200, b"{" * 100, *echo)[:-50])


ENDS: dict[str, Script] = {
    "lost": lose,
    "reset": reset,
    "refused upload": refuse_the_upload,
    "nonsense": talk_nonsense,
    "another protocol": switch_protocols,
    "a long header": say_too_much,
    "broken off": break_off,
    "silent": never_answer,
    "never read": read_nothing,
    "half": answer_half,
    "401": replying(401, b'"Invalid credentials."'),
    "422": replying(422, b'{"message":"no"}'),
    "429": replying(429, b"", "Retry-After: 0"),
    "302": replying(302, b"", "Location: https://elsewhere.example/"),
    "500": replying(500, b"no"),
    "HTML": replying(200, b"<html></html>"),
    "error": replying(200, b'{"status":"error"}'),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("end", [*ENDS, "refused", "unknown host", "no TLS"])
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_every_error_of_an_order(end: str, closed_port: int, *, own: bool) -> None:
    timeouts = Timeouts(connect_s=1, read_s=0.1, total_s=0.5)
    async with RawServer(ENDS.get(end, lose)) as server:
        url = {
            "refused": f"http://127.0.0.1:{closed_port}",
            "unknown host": "https://shop.invalid",
            "no TLS": server.url.replace("http:", "https:"),
        }.get(end, server.url)
        async with a_client(url, own=own, timeouts=timeouts, retry=ONCE) as client:
            size = 20_000_000 if end in ("never read", "refused upload") else 10
            error = await raised_in(client.send_order(an_order(size)))
            assert isinstance(error, EverlyticError)
            assert_no_secret(error)
            if own:
                assert find_rendered_leaks(error, STORE_HASH, CUSTOMER_HASH) == []


async def test_the_errors_of_a_batch() -> None:
    async with (
        RawServer(replying(401, b'"no"')) as server,
        a_client(server.url, own=True) as client,
    ):
        error = await raised_in(client.send_orders([an_order(10), {"contact_email": CUSTOMER}]))
    assert_no_secret(error)
    assert isinstance(error, BatchStoppedError)
    assert error.report is not None
    assert len(error.report.failures) == 2
    for result in error.report.failures:
        assert result.error is not None
        assert_no_secret(result.error)


async def test_an_invalid_order() -> None:
    async with a_client("https://shop.example", own=True) as client:
        error = await raised_in(client.send_order({"contact_email": CUSTOMER, "products": 5}))
    assert_no_secret(error)


async def test_a_client_that_is_closed_while_an_order_is_in_flight() -> None:
    async with (
        RawServer(never_answer) as server,
        a_client(server.url, own=True, pacing=Pacing(adaptive=False)) as client,
    ):
        sending = asyncio.create_task(client.send_order(an_order(10)))
        await until(lambda: server.bodies)
        await client.aclose()
        assert_no_secret(await raised_in(sending))


@pytest.mark.parametrize("broken", ["ClientSession", "TCPConnector"])
async def test_a_start_that_fails_inside_aiohttp(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def instrumented(**_settings: Any) -> None:
        raise RuntimeError("it is broken")

    monkeypatch.setattr(aiohttp, broken, instrumented)
    client = EverlyticClient(
        "https://shop.example", store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH
    )
    error = await raised_in(client.start())
    assert isinstance(error, RuntimeError)
    assert_no_secret(error)
    assert not client.is_open


async def test_a_start_that_is_cancelled() -> None:
    for steps in range(8):
        client = EverlyticClient(
            "https://shop.example", store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH
        )
        start = asyncio.create_task(client.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        start.cancel()
        error = await raised_in(start) if not start.done() else None
        if error is not None:
            assert_no_secret(error)
        await client.aclose()

"""No frame of an exception that leaves the package holds a hash or an order.

Error trackers send the local variables of every frame away, and rich prints them. The hashes are
globals here, and no local variable of a test holds them: what is found comes from the package.
"""

from __future__ import annotations

import asyncio
import io
import logging
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
from support.delivery import CUSTOMER_HASH, STORE_HASH, make_client, order
from support.servers import (
    Connection,
    RawServer,
    Script,
    answer,
    answer_all,
    lose,
    never_answer,
    once,
    until,
)

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


def find_leaks(error: BaseException, *secrets: str, outside: str = "nowhere") -> list[str]:
    """Where a secret is found: in the exceptions, or in a frame that is not of these files."""
    found = [
        f"{frame.f_code.co_qualname}: {name}"
        for frame in frames(error)
        if not frame.f_code.co_filename.startswith(outside)
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
    assert find_leaks(error, CUSTOMER, outside=TESTS) == []


async def raised_in(work: Awaitable[object]) -> BaseException:
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - it is what is looked at
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nor does any library's log hold a hash, at any level."""
    with caplog.at_level(logging.DEBUG):
        yield
    shown = [f"{record.getMessage()} {record.args!r}" for record in caplog.get_records("call")]
    assert not any(secret in text for text in shown for secret in (STORE_HASH, CUSTOMER_HASH))


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


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(f"EVERLYTIC_{name.upper()}", value)
    return monkeypatch


def _proxy(rest: str) -> str:
    return f"http://shop:{PASSWORD}@{rest}"


#: Wrong settings, and what the message says.
WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"base_url": url}, "base_url") for url in (None, "", "ftp://shop.example", "https://[shop")),
    ({"base_url": "http://shop.example"}, "allow_http"),
    *(
        ({f"{name}_hash": value}, f"{name}_hash")
        for name, one in (("store", STORE_HASH), ("customer", CUSTOMER_HASH))
        for value in (
            *(None, "", "  ", 7, one.encode(), [one]),
            *(f"{one} and more", f"{one}\r\nX: 1", f"{one}\0", f"{one}\u00e9"),
        )
    ),
    ({"delivery": "twice"}, "delivery"),
    *(({"retry": value}, "retry") for value in (5, None)),
    ({"pacing": "fast"}, "pacing"),
    ({"timeouts": None}, "timeouts"),
    ({"session": "mine"}, "session"),
    *(({"on_event": value}, "on_event") for value in (7, [print, 7], not_plain)),
    ({"allow_http": "yes"}, "allow_http"),
    ({"ledger": "orders.ledger"}, "ledger"),
    ({"proxy": f"proxy:{PASSWORD}@host"}, r"proxy.*http://proxy\.example:3128"),
    *(
        ({"proxy": f"{scheme}://shop:{PASSWORD}@proxy.example"}, "proxy.*session")
        for scheme in ("https", "socks5")
    ),
    ({"proxy": _proxy("proxy.example/path")}, "proxy.*without a path"),
    *(
        ({"proxy": value}, "proxy.*must be a URL")
        for value in (_proxy("[proxy"), _proxy("host:99999"), "", 8080, [_proxy("proxy.example")])
    ),
    ({"proxy": _proxy("proxy.example"), "base_url": "http://localhost:1"}, "proxy.*allow_http"),
    ({"proxy": _proxy("proxy.example"), "retry": 5}, "retry"),
]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("from_env", [False, True])
@pytest.mark.parametrize("wrong", range(len(WRONG)), ids=lambda index: str([*WRONG[index][0]]))
def test_a_wrong_setting_is_named(wrong: int, *, from_env: bool) -> None:
    settings = {**WRONG[wrong][0]} if from_env else {**ENVIRONMENT, **WRONG[wrong][0]}
    make = EverlyticClient.from_env if from_env else EverlyticClient
    with pytest.raises(ConfigurationError, match=WRONG[wrong][1]) as caught:
        make(**settings)
    del settings
    assert_no_secret(caught.value)


@pytest.mark.parametrize("name", ["BASE_URL", "STORE_HASH", "CUSTOMER_HASH"])
@pytest.mark.parametrize("value", [None, "", "two words"])
def test_a_wrong_environment_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        environment.delenv(f"EVERLYTIC_{name}")
    else:
        environment.setenv(f"EVERLYTIC_{name}", value)
    with pytest.raises(ConfigurationError, match=f"EVERLYTIC_{name}") as caught:
        EverlyticClient.from_env()
    assert_no_secret(caught.value)


# ------------------------------------------------------- time-outs and cancellation around a call


@asynccontextmanager
async def a_client(url: str, *, own: bool, **settings: Any) -> AsyncIterator[EverlyticClient]:
    async with (
        nullcontext() if own else aiohttp.ClientSession() as session,
        make_client(url, session=session, **settings) as client,
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
    *(by_timeout, by_a_group, while_handling_another_error),
    *(pytest.param(how, marks=pytest.mark.slow) for how in (by_cancelling, in_a_batch)),
]


def an_order(size: int) -> dict[str, Any]:
    return order(1, products=[{"product_name": "x" * size}])


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
    handled = [one.__traceback__ for one in chained(error) if isinstance(one, KeyError)]
    assert len(handled) == (give_up is while_handling_another_error)
    assert None not in handled  # what the caller was handling stays whole


# -------------------------------------------------------------------------- errors of the package


async def refuse_the_upload(connection: Connection) -> None:
    await connection.head()
    connection.reset()


ECHO = (f"X-Echo: {STORE_HASH}", f"X-Echo: {CUSTOMER_HASH}")
ENDS: dict[str, Script] = {
    "lost": lose,
    "reset": once(b"", Connection.reset),
    "refused upload": refuse_the_upload,
    "nonsense": once(b"\x00\x01\x02 nonsense\r\n\r\n"),
    "another protocol": once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n\x00"),
    "a long header": once(answer(200, b"", f"{ECHO[0]}{'x' * 66_000}")),
    "broken off": once(answer(200, b"{" * 100, *ECHO)[:-50]),
    "silent": never_answer,
    "never read": read_nothing,
    "half": answer_half,
    "401": answer_all(401, b'"Invalid credentials."', *ECHO),
    "422": answer_all(422, b'{"message":"no"}', *ECHO),
    "429": answer_all(429, b"", "Retry-After: 0", *ECHO),
    "302": answer_all(302, b"", "Location: https://elsewhere.example/", *ECHO),
    "500": answer_all(500, b"no", *ECHO),
    "HTML": answer_all(200, b"<html></html>", *ECHO),
    "error": answer_all(200, b'{"status":"error"}', *ECHO),
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
            if own and end in ("lost", "401", "silent"):  # it takes long
                assert find_rendered_leaks(error, STORE_HASH, CUSTOMER_HASH) == []


async def test_the_errors_of_a_batch() -> None:
    async with RawServer(ENDS["401"]) as server, a_client(server.url, own=True) as client:
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
    client = make_client()
    error = await raised_in(client.start())
    assert isinstance(error, RuntimeError)
    assert_no_secret(error)
    assert not client.is_open


async def test_a_start_that_is_cancelled() -> None:
    for steps in range(8):
        client = make_client()
        start = asyncio.create_task(client.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        start.cancel()
        error = await raised_in(start) if not start.done() else None
        if error is not None:
            assert_no_secret(error)
        await client.aclose()

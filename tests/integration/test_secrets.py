"""Neither hash is shown, logged, kept or sent on, even if the server repeats both."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest

from everlytic_async import (
    BatchStoppedError,
    EverlyticClient,
    EverlyticError,
    Pacing,
    SourceError,
)
from everlytic_async._response import MAX_BODY_BYTES
from everlytic_async._secrets import Secrets
from everlytic_async.events import Event
from support.delivery import FAST_RETRY, order
from support.servers import Connection, RawServer, Script
from support.transports import make_transport
from support.visible import visible_texts

#: As the vendor's are, and with what a server would escape.
HASHES = {
    "usual": ("6361437b-7adf-402c-b4b0-9e4a3a1e5d85", "7URV2nrUrSHswsrE"),
    "odd": ('St0re/h+sh"<x>&=', "Cust0mer/h\\sh%20"),
}


@pytest.fixture(params=sorted(HASHES))
def hashes(request: pytest.FixtureRequest) -> tuple[str, str]:
    return HASHES[request.param]


class Traces:
    """Everything that can be seen, as text, to be searched for the hashes."""

    def __init__(self, hashes: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
        self._hashes = hashes
        self._caplog = caplog
        self.texts: list[str] = []

    def add(self, *objects: object) -> None:
        """Keep what can be seen of some objects."""
        self.texts += visible_texts(*objects)

    def add_parts(self, *objects: object) -> None:
        """Keep the reprs of all parts of the package that hang on some objects."""
        pending, seen = [*objects], set[int]()
        while pending:
            part = pending.pop()
            if id(part) not in seen and type(part).__module__.startswith("everlytic_async"):
                seen.add(id(part))
                self.texts.append(repr(part))
                pending += getattr(part, "__dict__", {}).values()
        assert len(seen) > 5

    def assert_no_hash(self) -> None:
        """Search, the log of every library included."""
        formatter = logging.Formatter("%(name)s %(message)s")
        texts = [*self.texts, *map(formatter.format, self._caplog.records)]
        texts += [repr(record.args) for record in self._caplog.records]
        assert len(texts) > 10
        for text in texts:
            for secret in self._hashes:
                assert secret not in text
                assert repr(secret)[1:-1] not in text
                assert json.dumps(secret)[1:-1] not in text


@pytest.fixture
def traces(hashes: tuple[str, str], caplog: pytest.LogCaptureFixture) -> Iterator[Traces]:
    with caplog.at_level(logging.DEBUG):
        yield Traces(hashes, caplog)


def watched_client(
    url: str, hashes: tuple[str, str], traces: Traces, **settings: Any
) -> EverlyticClient:
    """A client that a listener and asyncio's debug mode watch."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # every step of every task is logged

    def listen(event: Event) -> None:
        traces.add(event, *attrs.asdict(event, recurse=False).values())

    store_hash, customer_hash = hashes
    return EverlyticClient(
        url,
        store_hash=store_hash,
        customer_hash=customer_hash,
        retry=FAST_RETRY,
        pacing=Pacing(adaptive=False),
        on_event=listen,
        **settings,
    )


def repeating(status: int, write: Callable[[str, str], str], *headers: str) -> Script:
    """A server that repeats both hashes in its body and headers, as `write` puts them."""

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            lines = connection.server.heads[-1].decode().split("\r\n")
            received = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in lines[1:])
            }
            hashes = (received["x-ev-store-hash"], received["x-ev-customer-hash"])
            filled = [
                line.replace("STORE", hashes[0]).replace("CUSTOMER", hashes[1])
                for line in (*headers, "X-Both: STORE CUSTOMER", "Set-Cookie: a=CUSTOMER")
            ]
            await connection.answer(status, write(*hashes).encode(), *filled)

    return script


def as_json(store_hash: str, customer_hash: str) -> str:
    return json.dumps({"status": "error", "message": f"bad {store_hash} or {customer_hash}"})


def as_success(store_hash: str, customer_hash: str) -> str:
    return json.dumps({"status": "success", "data": {store_hash: [customer_hash]}})


#: How a server may repeat both.
WRITES: dict[str, Callable[[str, str], str]] = {
    "json": as_json,
    "PHP's json": lambda *hashes: as_json(*hashes).replace("/", "\\/"),
    "success": as_success,
    "text": lambda *hashes: "".join(hashes),
    "HTML": lambda *hashes: f"<html>{' '.join(hashes)}</html>",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    "status",
    [200, 302, *(pytest.param(status, marks=pytest.mark.slow) for status in (401, 403, 429, 500))],
)
async def test_hashes_that_a_server_repeats_are_not_shown(
    traces: Traces,
    hashes: tuple[str, str],
    status: int,
    write: Callable[[str, str], str],
) -> None:
    script = repeating(
        status, write, "Retry-After: 0", "Location: https://x.example/STORE/CUSTOMER"
    )
    async with (
        RawServer(script) as server,
        watched_client(server.url, hashes, traces) as client,
        client.stream_orders([order(1)]) as stream,
    ):
        traces.add(client, stream)
        traces.add_parts(client, stream)
        try:
            traces.add(*[result async for result in stream])
        except BatchStoppedError as error:
            traces.add(error)
        try:
            traces.add(await client.send_order(order(2)))
        except EverlyticError as error:
            traces.add(error)

    assert len(server.bodies) >= 2
    traces.assert_no_hash()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kept", [4, 15])
async def test_of_a_hash_that_the_limit_of_a_body_cuts_no_part_is_kept(
    hashes: tuple[str, str], which: int, kept: int
) -> None:
    def cut_within(*both: str) -> str:
        return "x" * (MAX_BODY_BYTES - kept) + both[which]

    async with (
        RawServer(repeating(401, cut_within)) as server,
        make_transport(server.url, hashes=hashes) as transport,
    ):
        response = await transport.post(b"{}")
    assert set(response.body) == set(b"x")
    assert len(response.body) == MAX_BODY_BYTES - kept


async def test_a_redirect_to_the_hashes_themselves(traces: Traces, hashes: tuple[str, str]) -> None:
    if quote(hashes[0], safe="") != hashes[0]:
        pytest.skip("no host can be called that")
    script = repeating(307, WRITES["text"], "Location: https://CUSTOMER.STORE.example/")
    async with RawServer(script) as server, watched_client(server.url, hashes, traces) as client:
        with pytest.raises(EverlyticError) as caught:
            await client.send_order(order(1))
    traces.add(caught.value)

    traces.assert_no_hash()
    assert hashes[1].lower() not in caught.value.message  # hosts are shown in lower case


async def test_no_failure_of_the_callers_code_shows_a_hash(
    traces: Traces, hashes: tuple[str, str]
) -> None:
    def source() -> Iterator[Any]:
        yield order(1)
        raise ValueError("broken")

    async with (
        RawServer(repeating(200, as_success)) as server,
        watched_client(server.url, hashes, traces) as client,
    ):
        with pytest.raises(SourceError) as caught:
            await client.send_orders(source())
        report = await client.send_orders([order(2)], key=lambda raw: raw["no such"])
    traces.add(caught.value, caught.value.report, report, *report.results)

    traces.assert_no_hash()


async def test_only_the_hashes_of_a_response_are_redacted(
    hashes: tuple[str, str], traces: Traces
) -> None:
    async with (
        RawServer(repeating(200, as_success)) as server,
        watched_client(server.url, hashes, traces) as client,
    ):
        receipt = await client.send_order(order(1))

    for each in (receipt, pickle.loads(pickle.dumps(receipt))):
        assert each.body == {"status": "success", "data": {"[hash]": ["[hash]"]}}
        assert each.headers["x-both"] == "[hash] [hash]"


async def test_what_holds_the_hashes_cannot_be_pickled(hashes: tuple[str, str]) -> None:
    client = EverlyticClient("https://x.example", store_hash=hashes[0], customer_hash=hashes[1])
    for holder in (client, Secrets(*hashes)):
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pickle"):
                duplicate(holder)

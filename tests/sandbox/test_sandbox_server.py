"""The sandbox as a server: its address, its memory, its counters, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import socket

import aiohttp
import pytest

from everlytic_async.sandbox import Faults, Sandbox
from support.servers import until

# ---------------------------------------------------------------------- address and arguments


async def test_it_listens_on_loopback_at_a_free_port(shop, sample):
    async with Sandbox() as one, Sandbox() as other:
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", one.base_url)
        assert one.base_url != other.base_url
        assert (await shop.post(one, sample)).status == 200
        assert (one.processed, other.processed) == (1, 0)


@pytest.mark.parametrize("prefix", ["/mailer", "mailer/", "/a b/{c}"])
async def test_it_serves_below_a_path_prefix_only(shop, sample, prefix):
    async with Sandbox(path_prefix=prefix) as sandbox:
        assert not sandbox.base_url.endswith("/")
        assert (await shop.post(sandbox, sample)).status == 200
        host, port = re.match(r"(http://127\.0\.0\.1):([0-9]+)/", sandbox.base_url).groups()
        async with shop.session.post(f"{host}:{port}/servlet/e-commerce/orders") as response:
            assert response.status == 404


async def test_it_starts_once_and_again_at_the_same_address_with_its_counters(
    shop, sample, closed_port
):
    sandbox = Sandbox(port=closed_port)
    await sandbox.close()  # it does nothing
    with pytest.raises(RuntimeError, match="async with Sandbox"):
        _ = sandbox.base_url
    async with sandbox:
        before = sandbox.base_url
        await shop.post(sandbox, sample)
        with pytest.raises(RuntimeError, match="started already"):
            await sandbox.start()
        port = int(before.rsplit(":", 1)[1])
        second = Sandbox(port=port)
        with pytest.raises(OSError, match=str(port)):
            await second.start()
    with pytest.raises(aiohttp.ClientConnectorError):
        await shop.post(sandbox, sample)
    async with sandbox:
        assert sandbox.base_url == before
        assert (await shop.post(sandbox, sample)).status == 200
        await sandbox.close()
    await sandbox.close()
    assert (sandbox.requests, sandbox.processed) == (2, 2)
    async with second:  # the port that it was refused
        assert second.base_url == before


async def test_the_hashes_are_those_asked_for_and_have_the_shapes_of_real_ones(shop, sample):
    default = Sandbox()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", default.store_hash)
    assert re.fullmatch(r"[0-9A-Za-z]{16}", default.customer_hash)
    async with Sandbox(store_hash="mine", customer_hash="ours") as sandbox:
        assert (await shop.post(sandbox, sample)).status == 200
        theirs = {"x-ev-store-hash": default.store_hash}
        assert (await shop.post(sandbox, sample, headers=theirs)).status == 401


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"host": 5}, TypeError, "host must be text, not a int"),
        ({"host": None}, TypeError, "host must be text, not a NoneType"),
        ({"host": " "}, ValueError, "host must not be blank"),
        ({"port": "x"}, TypeError, "port must be an integer, not a str"),
        ({"port": 80.0}, TypeError, "port must be an integer, not a float"),
        ({"port": True}, TypeError, "port must be an integer, not a bool"),
        ({"port": -1}, ValueError, "port must be from 0 to 65535, not -1"),
        ({"port": 65536}, ValueError, "port must be from 0 to 65535, not 65536"),
        ({"path_prefix": None}, TypeError, "path_prefix must be text, not a NoneType"),
        ({"store_hash": None}, TypeError, "store_hash must be text, not a NoneType"),
        ({"store_hash": " "}, ValueError, "store_hash must not be blank"),
        ({"customer_hash": b"x"}, TypeError, "customer_hash must be text, not a bytes"),
        ({"customer_hash": ""}, ValueError, "customer_hash must not be blank"),
        ({"faults": {}}, TypeError, "faults must be a Faults, not a dict"),
        ({"keep": "x"}, TypeError, "keep must be None or an integer, not a str"),
        ({"keep": True}, TypeError, "keep must be None or an integer, not a bool"),
        ({"keep": -1}, ValueError, "keep must be None or at least 0, not -1"),
    ],
    ids=repr,
)
def test_a_wrong_argument_is_named(wrong, kind, message):
    with pytest.raises(kind, match=f"^{message}$"):
        Sandbox(**wrong)


async def test_neither_hash_nor_the_customer_shows_in_repr_or_log(shop, sample, caplog):
    caplog.set_level(logging.DEBUG)
    async with Sandbox() as sandbox:
        await shop.post(sandbox, sample)
        await shop.post(sandbox, data=b"{user@example.com")
        await shop.post(sandbox, sample, headers={"x-ev-store-hash": "wrong"})
        shown = f"{sandbox!r} {sandbox} {caplog.text}"

        assert sandbox.base_url in shown
        for secret in (sandbox.store_hash, sandbox.customer_hash, "user@example.com"):
            assert secret not in shown


# ---------------------------------------------------------------------- memory and counters


async def test_duplicates_are_counted_by_order_id_beyond_the_first(shop, sample):
    async with Sandbox() as sandbox:
        for order_id in ["a", "b", "a", 34, "34", "a", "c"]:
            await shop.post(sandbox, sample | {"order_id": order_id})
        del sample["order_id"]
        await shop.post(sandbox, sample)
        await shop.post(sandbox, sample)

        assert sandbox.duplicates == {"a": 2, "34": 1}
        assert sandbox.processed == 9


@pytest.mark.parametrize(("keep", "kept"), [(None, "abcde"), (2, "de"), (0, "")])
async def test_it_remembers_the_last_orders_and_counts_them_all(shop, sample, keep, kept):
    async with Sandbox(keep=keep) as sandbox:
        for order_id in "abcde":
            await shop.post(sandbox, sample | {"order_id": order_id})
        # A refused order is neither remembered nor a duplicate.
        await shop.post(sandbox, sample | {"order_id": "a", "products": []})

        assert [order["order_id"] for order in sandbox.received] == list(kept)
        sandbox.received.clear()  # a copy
        assert len(sandbox.received) == len(kept)
        assert (sandbox.requests, sandbox.processed) == (6, 5)
        assert (sandbox.duplicates, sandbox.statuses) == ({}, {200: 5, 400: 1})


async def test_an_upload_cut_short_is_neither_processed_nor_logged_as_an_error(caplog):
    async with Sandbox() as sandbox:
        port = int(sandbox.base_url.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /servlet/e-commerce/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
        )
        await until(lambda: sandbox.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: sandbox.in_flight == 0)

        assert (sandbox.requests, sandbox.processed) == (1, 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -------------------------------------------------------------------------------------- end


async def test_closing_breaks_off_what_is_under_way_and_leaves_no_task(shop, sample):
    before = asyncio.all_tasks()
    sandbox = Sandbox(faults=Faults(latency_s=3_600))
    await sandbox.start()
    posts = [asyncio.create_task(shop.post(sandbox, sample)) for _ in range(20)]
    await until(lambda: sandbox.in_flight == 20)
    async with asyncio.timeout(60):
        await sandbox.close()
        ends = await asyncio.gather(*posts, return_exceptions=True)

    assert {type(end) for end in ends} == {aiohttp.ServerDisconnectedError}
    assert (sandbox.in_flight, sandbox.processed) == (0, 0)
    assert asyncio.all_tasks() == before


async def test_closing_ends_the_handler_of_a_client_that_has_left(sample):
    before = asyncio.all_tasks()
    sandbox = Sandbox(faults=Faults(latency_s=3_600))
    await sandbox.start()
    async with aiohttp.ClientSession() as session:
        post = asyncio.create_task(
            session.post(f"{sandbox.base_url}/servlet/e-commerce/orders", json=sample)
        )
        await until(lambda: sandbox.in_flight == 1)
        post.cancel()
        await asyncio.wait([post])
    for _ in range(10):  # the server notices it, and goes on all the same
        await asyncio.sleep(0)
    assert sandbox.in_flight == 1
    async with asyncio.timeout(60):
        await sandbox.close()

    assert sandbox.in_flight == 0
    assert asyncio.all_tasks() == before


async def test_idle_connections_are_closed_at_the_end(sample, shop):
    async with Sandbox() as sandbox:
        port = int(sandbox.base_url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"404" in await reader.readline()
    async with asyncio.timeout(60):
        assert (await reader.read()).endswith(b"}")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("ticks", range(4))
async def test_closing_leaves_no_connection_open_however_young(ticks):
    """No client may be led to believe that its order arrived: what closing leaves is an end."""
    sandbox = Sandbox()
    await sandbox.start()
    port = int(sandbox.base_url.rsplit(":", 1)[1])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for _ in range(ticks):  # waiting in the backlog, accepted, with a handler
        await asyncio.sleep(0)
    await sandbox.close()
    for client in clients:
        client.settimeout(0)
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""  # nothing to read yet would be a BlockingIOError
    gc.collect()  # what the loop left behind complains now, and a warning is an error

    assert sandbox.requests == 0


async def test_cancellation_travels_through_the_context_and_closes_it(shop, sample, closed_port):
    entered = asyncio.Event()
    sandbox = Sandbox(port=closed_port)

    async def run():
        async with sandbox:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(aiohttp.ClientConnectorError):
        await shop.post(sandbox, sample)

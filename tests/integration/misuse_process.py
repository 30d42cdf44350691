"""One process that uses a started client where it must not be used; prints what each use raised.

Arguments: how (`fork`, `fork, same loop`), the address, the store hash, the customer hash.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from everlytic_async import EverlyticClient, OrderStream
from support.delivery import order

HOW, URL, STORE, CUSTOMER = sys.argv[1:]


async def start(client: EverlyticClient) -> tuple[OrderStream, OrderStream]:
    """Start the client, leave a connection to reuse, and make two streams, one of them entered."""
    await client.start()
    await client.send_order(order(1))
    entered = client.stream_orders([])
    await entered.__aenter__()
    return client.stream_orders([order(2)]), entered


def calls(
    client: EverlyticClient, made: OrderStream, entered: OrderStream
) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    async def stream() -> None:
        client.stream_orders([order(3)])

    return {
        "send_order": lambda: client.send_order(order(3)),
        "send_orders": lambda: client.send_orders([order(3)]),
        "stream_orders": stream,
        "enter": made.__aenter__,
        "iterate": entered.__anext__,
        "start": client.start,
    }


async def try_one(call: Callable[[], Coroutine[Any, Any, Any]]) -> str:
    try:
        async with asyncio.timeout(60):
            return f"returned {await call()!r}"
    except BaseException as error:  # noqa: BLE001 - it is what is printed
        return f"{type(error).__name__}: {error}"


async def try_all(*parts: Any) -> dict[str, str]:
    return {name: await try_one(call) for name, call in calls(*parts).items()}


def report(found: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


def in_a_child(work: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    client = EverlyticClient(URL, store_hash=STORE, customer_hash=CUSTOMER)
    home = asyncio.new_event_loop()
    made, entered = home.run_until_complete(start(client))
    parts = (client, made, entered)

    def elsewhere() -> None:
        if HOW == "fork":
            report(asyncio.run(try_all(*parts)))
            asyncio.run(client.aclose())  # leaves the parent's connections alone
        else:  # the child goes on with the loop that it inherited
            report(home.run_until_complete(try_all(*parts)))

    in_a_child(elsewhere)

    # Here everything still works, over the same connection.
    async def end() -> None:
        await client.send_order(order(4))
        await entered.__aexit__(None, None, None)
        await client.aclose()

    home.run_until_complete(end())
    home.close()


main()

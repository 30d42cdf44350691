"""What clients and servers share: the orders, the response to each, the loop, lines of figures.

Only the standard library is imported here: a measured process holds nothing that its contestant
does not need.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

#: Where the orders go, below a server's address.
PATH = "/servlet/e-commerce/orders"
#: Made-up hashes, of the shape of real ones.
STORE_HASH = "5a4db0c5-0000-4000-8000-000000000000"
CUSTOMER_HASH = "SandboxCustomer1"
HEADERS = {"x-ev-store-hash": STORE_HASH, "x-ev-customer-hash": CUSTOMER_HASH}
#: What the endpoint responds; every contestant checks it, for every order.
SUCCESS = {"status": "success"}

_Result = TypeVar("_Result")


class WrongAnswerError(Exception):
    """An order was not accepted by a server that accepts all: the figures would mean nothing."""


def order(number: int, products: int = 1) -> dict[str, Any]:
    """The documentation's own example, with a number of its own and the totals set."""
    return {
        "contact_email": f"user{number}@example.com",
        "order_id": str(number),
        "order_link_url": f"https://store.example.com/order_url/{number}",
        "sub_total": "100.10",
        "shipping_fee": "12.50",
        "taxes": "15.00",
        "total": "127.60",
        "products": [
            {
                "product_name": "Mop Head - Cotton, 24 Oz",
                "product_description": "Mandatory coherent internet solution",
                "product_price": 21,
                "product_quantity": 4,
                "product_sku": 412,
                "product_line_total": 100043.22,
                "product_special_price": 71,
                "product_url": "https://bbb.example.org/risus.xml",
                "product_gallery": [
                    "https://images.example.com/400x1300/?rap",
                    "https://images.example.com/400x300/?rap",
                ],
            }
            for _ in range(products)
        ],
    }


def orders(count: int, products: int = 1, first: int = 0) -> Iterator[dict[str, Any]]:
    """Different orders, made as they are asked for."""
    return (order(number, products) for number in range(first, first + count))


def check(status: int, body: object) -> None:
    """Make sure that an order was accepted."""
    if status != 200 or body != SUCCESS:
        raise WrongAnswerError(f"expected 200 and {SUCCESS}, got {status} and {body!r:.200}")


def run(main: Coroutine[Any, Any, _Result], *, uvloop: bool = False) -> _Result:
    """Run a coroutine in asyncio's own loop, or in uvloop's."""
    factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def emit(**figures: Any) -> None:
    """Print a line of figures for the process that started this one."""
    print(json.dumps(figures), flush=True)


async def wait_for_stdin_end() -> None:
    """Wait until the process that started this one closes the pipe to it, or is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


class Meter:
    """CPU of the whole process, all its threads, and time, from its creation on."""

    def __init__(self) -> None:
        gc.collect()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Seconds of CPU and of time since."""
        wall_s = time.perf_counter() - self._wall
        return {"cpu_s": time.process_time() - self._cpu, "wall_s": wall_s}


def resident_bytes() -> int:
    """The resident memory of this process; without /proc, its peak so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return peak_bytes()


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""The worker that the page on brokers shows does what the page says, with a broker in memory."""

from __future__ import annotations

import sys

import pytest
from documentation import DOCS, Reader

_PROGRAM = """
import asyncio
import os

from faststream import TestApp
from faststream.rabbit import TestRabbitBroker

from everlytic_async.sandbox import Faults, Sandbox

ORDER = {"order_id": "1", "contact_unique_id": "7", "products": [{"product_name": "Mop"}]}
INVALID = {**ORDER, "products": []}


async def main():
    for faults in (Faults(), Faults(dropped_after=1), Faults(throttled=1, retry_after_s=3600)):
        async with Sandbox(faults=faults) as sandbox:
            os.environ["EVERLYTIC_BASE_URL"] = sandbox.base_url
            os.environ["EVERLYTIC_STORE_HASH"] = sandbox.store_hash
            os.environ["EVERLYTIC_CUSTOMER_HASH"] = sandbox.customer_hash
            import faststream_worker as worker

            async with TestRabbitBroker(worker.broker), TestApp(worker.app):
                for order in (ORDER, ORDER, INVALID):
                    await worker.broker.publish(order, worker.ORDERS)
                published = [each.mock.call_count for each in (worker.dead, *worker.later)]
                print(sandbox.processed, published)


asyncio.run(main())
"""


@pytest.mark.slow
def test_each_order_is_sent_once_or_put_where_the_page_says(reader: Reader) -> None:
    reader.follow(DOCS / "how-to/brokers.md")
    # A file: FastStream reads the source of its caller.
    program = reader.directory / "try_faststream.py"
    program.write_text(_PROGRAM, encoding="utf-8")

    ran = reader.run(sys.executable, "-W", "error", program)

    printed = [line for line in ran.stdout.splitlines() if line[:1].isdigit()]
    # Processed; dead letters; and put back for 10 s, 60 s and 600 s.
    assert printed == ["1 [1, 0, 0, 0]", "1 [3, 0, 0, 0]", "0 [1, 2, 0, 0]"], ran.stdout

"""The services that the pages show do, beyond the pages' own tests, what their tables say."""

from __future__ import annotations

import sys

import pytest
from documentation import DOCS, Reader

_WEBHOOKS = """
from aiohttp.test_utils import TestClient, TestServer

from everlytic_async.sandbox import Faults, Sandbox
from service import make_app
from test_service import ORDER, deliver, settings


async def test_what_was_not_sent_is_sent_by_the_next_delivery(monkeypatch):
    async with Sandbox(faults=Faults(throttled=1, retry_after_s=3600)) as sandbox:
        assert await deliver(sandbox, monkeypatch, ORDER) == [503]
    async with Sandbox() as sandbox:
        assert await deliver(sandbox, monkeypatch, ORDER) == [200]
        assert sandbox.processed == 1


async def test_only_the_shop_may_deliver(monkeypatch):
    async with Sandbox() as sandbox:
        await deliver(sandbox, monkeypatch)
        async with TestClient(TestServer(make_app())) as service:
            assert (await service.post("/orders", json=ORDER)).status == 401
        assert sandbox.requests == 0
"""
_FASTAPI = """
import pytest
from httpx import ASGITransport, AsyncClient

from everlytic_async.sandbox import Faults, Sandbox
from service import app
from test_service import ORDER


@pytest.mark.parametrize(
    ("faults", "status"),
    [(Faults(throttled=1, retry_after_s=3600), 503), (Faults(dropped_after=1), 500)],
)
async def test_the_status_says_whether_to_try_again(monkeypatch, faults, status):
    async with Sandbox(faults=faults) as sandbox:
        monkeypatch.setenv("EVERLYTIC_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("EVERLYTIC_STORE_HASH", sandbox.store_hash)
        monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", sandbox.customer_hash)
        async with app.router.lifespan_context(app) as state:

            async def with_state(scope, receive, send):
                await app({**scope, "state": dict(state)}, receive, send)

            transport = ASGITransport(with_state)
            async with AsyncClient(transport=transport, base_url="http://shop") as shop:
                assert (await shop.post("/orders", json=ORDER)).status_code == status
                assert (await shop.post("/orders", content=b"{")).status_code == 400
        assert sandbox.requests == 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "tests"), [("webhooks", _WEBHOOKS), ("fastapi", _FASTAPI)])
def test_a_service_answers_as_the_page_says(page: str, tests: str, reader: Reader) -> None:
    reader.follow(DOCS / f"how-to/{page}.md", only_files=True)
    (reader.directory / "test_more.py").write_text(tests, encoding="utf-8")

    ran = reader.run(sys.executable, "-m", "pytest", "-q", "test_more.py")

    assert "\n2 passed in " in ran.stdout, ran.stdout

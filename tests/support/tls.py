"""TLS between a server on ``localhost`` and a session that trusts its authority.

A test module that imports `authority` has it as a fixture.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority that nothing trusts by itself."""
    return trustme.CA()


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """For a server with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def trusting_context(authority: trustme.CA) -> ssl.SSLContext:
    """For a client that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def trusting_session(authority: trustme.CA) -> AsyncIterator[aiohttp.ClientSession]:
    """A caller's session that trusts the authority."""
    connector = aiohttp.TCPConnector(ssl=trusting_context(authority))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session

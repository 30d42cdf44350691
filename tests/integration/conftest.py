"""What every test here is held to: it leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """After each test no task is pending."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left

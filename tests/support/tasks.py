"""What a folder's tests leave behind: a ``conftest.py`` imports the fixture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """After each test no task is pending."""
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}

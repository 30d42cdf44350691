"""What a folder's tests leave behind: a ``conftest.py`` imports the fixtures."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """After each test no task is pending."""
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()

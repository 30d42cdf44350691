"""What every test here is held to: it leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Run what is marked as slow only where ``-m`` speaks of it."""
    if "slow" in config.getoption("markexpr", ""):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="takes long: run it with -m slow"))


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """After each test no task is pending."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left

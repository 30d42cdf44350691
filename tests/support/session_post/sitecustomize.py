"""Replace a method of aiohttp's session by one that does the same, as instruments of aiohttp do.

A Python that starts with this directory in PYTHONPATH imports it, and the tests' own process does
with ``--session-post``. Orders then go by `ClientSession.post`.
"""

from __future__ import annotations

import functools
from typing import Any

import aiohttp


def pass_through(method: Any) -> Any:
    """The method in a wrapper that hides, as far as a wrapper can."""

    @functools.wraps(method)
    async def wrapper(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> Any:
        return await method(self, *args, **kwargs)

    return wrapper


if __name__ == "sitecustomize":
    aiohttp.ClientSession._request = pass_through(aiohttp.ClientSession._request)

"""The headers of every request."""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict

from everlytic_async._secrets import Secrets

_JSON = "application/json"


def request_headers(secrets: Secrets, user_agent: str) -> Mapping[str, str]:
    """The hashes, and what is sent and accepted."""
    return CIMultiDict(
        {
            **secrets.headers(),
            "Content-Type": _JSON,
            "Accept": _JSON,
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
    )

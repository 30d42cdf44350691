"""What a response means, from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everlytic_async import EverlyticError
from everlytic_async._response import Response
from everlytic_async._response import parse_response as parse
from everlytic_async.outcomes import Receipt


def parse_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    undecodable: str | None = None,
    waited_s: float = 0.0,
    stalled_s: float = 0.0,
    **options: Any,
) -> Receipt | EverlyticError:
    """The verdict on a response."""
    response = Response(status, headers, body, None, waited_s, stalled_s, undecodable)
    return parse(response, **options)

"""JSON Lines: one order on each line. See https://jsonlines.org."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import InvalidOrderError
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES, NOT_UTF_8, skip_line
from everlytic_async.sources._records import InvalidRow, Item

_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"
# Whose the lines of a Shopify bulk operation are, and what: also of one that can't be read.
_PARENT = re.compile(rb'"__parentId"\s*:\s*"([^"\\]{1,100})"')
_ID = re.compile(rb'\{\s*"id"\s*:\s*"(gid:[^"\\]{1,100})"')


def read_json_lines(file: IO[bytes], decoder: StrictDecoder) -> Iterator[tuple[int, Item]]:
    """Yield each line's number, from 1, and its object, or its fault; skip blank lines."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):  # room for the end of the line
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            skip_line(file)
        elif not (line := (line.removeprefix(BOM) if number == 1 else line).strip()):
            continue
        try:
            yield number, _parse(line, decoder)
        except JsonFaultError as error:
            found = (_PARENT.search(line), _ID.match(line))
            ids = [each and each[1].decode(errors="replace") for each in found]
            row = ids if any(ids) else None
            yield number, InvalidRow(InvalidOrderError([str(error)], number), row)


def _parse(line: bytes, decoder: StrictDecoder) -> Item:
    if len(line) > MAX_LINE_BYTES:
        raise JsonFaultError(_TOO_LONG)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise JsonFaultError(NOT_UTF_8) from None
    value = decoder.decode(text)
    if not isinstance(value, dict):
        raise JsonFaultError("is not an order: expected one JSON object on each line")
    return value

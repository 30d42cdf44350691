"""JSON: lines of one order each (https://jsonlines.org), and documents.

A document is a list of orders, an object that wraps the list, or objects one after another. It is
split into its orders, and each is parsed by the decoder of JSON Lines, so that the same rules hold:
exact numbers, no key twice, no NaN. An order with such a fault has it, and reading goes on after
it, also when it is too long or nested too deeply to be parsed; only broken syntax ends it. That is
why no streaming parser is used: ijson 3.6 makes a lone surrogate a question mark, takes the last of
two equal keys, ends the file at NaN or at a huge exponent, fills the memory with a file of
brackets, and is no faster.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import IO, Any, NoReturn

from everlytic_async._strict_json import JsonFaultError, StrictDecoder, non_finite_faults
from everlytic_async.errors import (
    MAX_FAULTS,
    ConfigurationError,
    InvalidOrderError,
    SourceError,
)
from everlytic_async.sources._columns import no_such_name
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES, NOT_UTF_8, skip_line
from everlytic_async.sources._records import InvalidRow, Item

#: A longer order is a fault, so that a file whose quotes or brackets don't match does not fill the
#: memory. Decoded, JSON takes up to 30 times its length: `{},{},{}` does.
MAX_ORDER_CHARS = 2 * 1024 * 1024

# Whose the line of a bulk operation of Shopify is, and what: also of one that can't be read.
_LINE_IDS = ("__parentId", "id")
_PARENT = re.compile(rb'"__parentId"\s*:\s*"([^"\\]{1,100})"')
_ID = re.compile(rb'\{\s*"id"\s*:\s*"(gid:[^"\\]{1,100})"')
_CHUNK = 96 * 1024
_FEW_CHARS = 8 * 1024
# What an object that wraps orders, or a single one, has them under: what the APIs of Shopify,
# Magento and WordPress.com answer with, and what others use.
_WRAPPERS = frozenset(
    {"orders", "draft_orders", "draftOrders", "checkouts", "abandonedCheckouts", "order"}
    | {"draft_order", "items", "data", "results", "records", "rows", "edges", "nodes", "node"}
)
# What may stand beside a single order: in the edge of a connection of GraphQL.
_BESIDE = frozenset({"cursor", "extensions"})
# What tells whether orders follow on another page: GraphQL's, and Magento's.
_PAGE_KEYS = ("pageInfo", "total_count")
# Objects that wrap orders are no deeper: data, orders, edges.
_MAX_DEPTH = 8
# An object with one of these is an order itself: Magento's have their products under "items".
_ORDER_KEYS = frozenset(
    {"contact_email", "contact_unique_id", "order_id", "id", "entity_id", "increment_id"}
    | {"customer_email", "customer_id", "email", "number", "products", "line_items"}
)
_BLANKS = " \t\n\r"
_BLANK = re.compile(f"[{_BLANKS}]*")
# A syntax error this close to the end of what was read may be a value that goes on after it.
_TAIL_CHARS = 16
# Finds the end of a value with a fault.
_LENIENT = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=len)

# What follows in a value that is skipped, up to the next character that matters: in a string, in
# brackets (strings, and what has no brackets in it, at once), and outside both.
_STRING_CHARS = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_FLAT = rf'(?:[^"\[\]{{}}]++|"{_STRING_CHARS}")*+'
_IN_STRING = re.compile(_STRING_CHARS, re.DOTALL)
_IN_BRACKETS = re.compile(
    rf'(?:[^"\[\]{{}}]++|"{_STRING_CHARS}"|\[{_FLAT}\]|{{{_FLAT}}})*+', re.DOTALL
)
_IN_SCALAR = re.compile(r'[^"\[\]{}, \t\n\r]*+')

_TOO_LONG = f"is longer than {MAX_ORDER_CHARS:,} characters"
_TOO_LONG_LINE = f"is longer than {MAX_LINE_BYTES:,} bytes"
_MAY_WRAP = f"{_TOO_LONG}: if it is a list of orders, say where, as with --map each=PATH"


class _UnparsableError(Exception):
    """Why a value can't be parsed, however its syntax is."""


def _is_order(value: dict[str, Any]) -> bool:
    """Whether an object has a key that only orders have."""
    return any(key in value for key in _ORDER_KEYS)


def is_list_of_orders(value: dict[str, Any]) -> bool:
    """Whether an object is not an order but wraps a list of them."""
    return not _is_order(value) and any(
        isinstance(inner, list) or (isinstance(inner, dict) and is_list_of_orders(inner))
        for key, inner in value.items()
        if key in _WRAPPERS
    )


def unwrap_all(
    items: Iterator[tuple[int, Item]], kept: Collection[str]
) -> Iterator[tuple[int, Item]]:
    """The items, with orders out of the objects that wrap just one of them."""
    for item in items:
        order: Any = item[1]
        if order.__class__ is dict and len(order) > 1 + len(_BESIDE):
            yield item  # nearly always
        else:
            yield item[0], unwrap(order, kept)


def unwrap(order: Item, kept: Collection[str]) -> Item:
    """The order in an object that wraps just that order; anything else as it is.

    A key in `kept` is no wrapper: a mapping has paths that start there.
    """
    inner: Any = order
    for _ in range(_MAX_DEPTH):
        if not isinstance(inner, dict) or len(inner) > 1 + len(_BESIDE):
            return order
        if _is_order(inner):
            return inner
        wrapped = [key for key in inner if key in _WRAPPERS and key not in kept]
        if len(wrapped) != 1 or not inner.keys() <= {*wrapped, *_BESIDE}:
            return order
        inner = inner[wrapped[0]]
        if isinstance(inner, dict) and _is_order(inner):
            return inner
    return order


def check_finite(
    items: Iterable[tuple[int, Item]], decoder: StrictDecoder
) -> Iterator[tuple[int, Item]]:
    """The items; one with NaN or an infinity is a fault: a mapping could make a text of it."""
    for numbered in items:
        # Right after it was decoded: the next one may be read ahead.
        if not decoder.found_non_finite:
            yield numbered
            continue
        decoder.found_non_finite = False
        number, item = numbered
        faults = non_finite_faults(item) if isinstance(item, dict) else []
        if not isinstance(item, dict) or not faults:
            yield numbered
            continue
        # As of a line that can't be read: a part of an order of Shopify's says whose it is.
        ids = [id_ if isinstance(id_ := item.get(key), str) else None for key in _LINE_IDS]
        yield number, InvalidRow(InvalidOrderError(faults, number), ids if ids[0] else None)


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
            yield number, _parse_line(line, decoder)
        except JsonFaultError as error:
            found = (_PARENT.search(line), _ID.match(line))
            ids = [each and each[1].decode(errors="replace") for each in found]
            row = ids if any(ids) else None
            yield number, InvalidRow(InvalidOrderError([str(error)], number), row)


def _parse_line(line: bytes, decoder: StrictDecoder) -> Item:
    if len(line) > MAX_LINE_BYTES:
        raise JsonFaultError(_TOO_LONG_LINE)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise JsonFaultError(NOT_UTF_8) from None
    value = decoder.decode(text)
    if not isinstance(value, dict):
        raise JsonFaultError("is not an order: expected one JSON object on each line")
    return value


class JsonReader:
    """The orders of a document, each with its place, from 1; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open.
        decoder: Decodes each order.
        each: The keys that lead to the list of orders, if it can't be found by `_WRAPPERS`.
        kept: Keys that are no wrapper: a mapping has paths that start there.

    Attributes:
        has_next_page: Whether there is a page of orders after the last one that was read.
    """

    def __init__(
        self,
        file: IO[bytes],
        decoder: StrictDecoder,
        each: Sequence[str] = (),
        kept: Collection[str] = (),
    ) -> None:
        self._decoder = decoder
        self._each = each
        self._kept = kept
        self.has_next_page = False
        self._found_list = False
        # The key that was looked for last, and is not there, and the keys beside it.
        self._dead_end: tuple[str, list[str]] = ("", [])
        # read1 waits for no more than there is: the orders of a pipe are read as they come.
        self._read = getattr(file, "read1", file.read)
        # Bytes that are not UTF-8 are a fault of the order that has them.
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters before `_text`
        self._ended = False
        self._count = 0  # of orders

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Yield each order, or its fault.

        Raises:
            SourceError: where the syntax is broken: nothing after that can be told apart.
            ConfigurationError: there is no list where `each` leads.
        """
        each = tuple(self._each)
        while (char := self._peek()) is not None:
            if char == "[" and not each:
                yield from self._iter_array()
            elif char == "{":
                yield from self._iter_object(each)
            else:
                yield self._read_order()
        if each and not self._found_list:
            key, keys = self._dead_end
            if not keys or key in keys:
                raise ConfigurationError(f"each: there is no list of orders at '{'.'.join(each)}'")
            raise ConfigurationError(no_such_name("each", key, keys, what="key"))

    # --------------------------------------------------------------------------------- grammar

    def _iter_array(self) -> Iterator[tuple[int, Item]]:
        """Every order of the list that starts here."""
        self._expect("[")
        more = self._peek() != "]"
        while more:
            yield self._read_order()
            more = self._skip_comma()
        self._expect("]")

    def _iter_object(
        self, each: tuple[str, ...], depth: int = 0
    ) -> Generator[tuple[int, Item], None, dict[str, Any] | None]:
        """The orders that the object which starts here wraps, or the object itself as an order.

        Args:
            each: The keys that lead to the list; empty to look for one of `_WRAPPERS`.
            depth: In how many objects it is; in one, it is an order only if it looks like one.

        Returns:
            Its keys and values, if it is in another object and neither wraps nor is an order.
        """
        start = self._dropped + self._at
        fields: dict[str, Any] = {}
        faults: list[str] = []
        is_wrapper = False
        page: Any = None
        self._expect("{")
        more = self._peek() != "}"
        while more:
            key, _fault = self._read_value()
            if not isinstance(key, str):
                self._fail("expected a key in quotes")
            self._expect(":")
            char = self._peek()
            leads = self._leads(key, char, each, fields, depth)
            value, fault = None, None
            if leads and char == "[":
                is_wrapper = self._found_list = True
                yield from self._iter_array()
            elif leads and char == "{":
                value = yield from self._iter_object(each[1:], depth + 1)
                is_wrapper = is_wrapper or value is None
            else:
                value, fault = self._read_value()
                fault = _MAY_WRAP if fault == _TOO_LONG else fault
                if key in _PAGE_KEYS:
                    page = value
            if not is_wrapper:
                _add(fields, faults, key, value, fault)
                if self._dropped + self._at - start > MAX_ORDER_CHARS:
                    faults = [_MAY_WRAP]
                    fields = {name: None for name in fields if name in _ORDER_KEYS}
            more = self._skip_comma()
        self._expect("}")
        if each and not is_wrapper:
            self._dead_end = each[0], list(fields)
        if is_wrapper and page is not None:
            self.has_next_page = _is_before_others(page, self._count)
        if is_wrapper or each:
            return None
        if depth and not _is_order(fields) and not faults:
            return fields
        yield self._numbered(fields, faults)
        return None

    def _leads(
        self, key: str, char: str | None, each: tuple[str, ...], fields: dict[str, Any], depth: int
    ) -> bool:
        """Whether what is under a key, and begins so, leads to orders."""
        if each:
            return key == each[0] and char == ("{" if len(each) > 1 else "[")
        is_wrapper = key in _WRAPPERS and key not in self._kept and depth < _MAX_DEPTH
        return is_wrapper and not _is_order(fields)

    def _read_order(self) -> tuple[int, Item]:
        """The value that starts here, as an order."""
        value, fault = self._read_value()
        if fault is None and isinstance(value, dict):
            self._count += 1
            return self._count, value
        if fault is None:
            fault = "is not an order: expected a JSON object"
        return self._numbered(value, [fault])

    def _numbered(self, order: Item, faults: list[str]) -> tuple[int, Item]:
        number = self._count = self._count + 1
        return number, InvalidRow(InvalidOrderError(faults, number)) if faults else order

    def _read_value(self) -> tuple[Any, str | None]:
        """The value that starts here; its fault, if it has one."""
        try:
            return self._parse_value()
        except _UnparsableError as error:
            self._skip_value()
            return None, str(error)

    def _skip_value(self) -> None:
        """Go to the end of the value that starts here, by its quotes and brackets alone."""
        depth = 0
        in_string = False
        while True:
            chars = _IN_STRING if in_string else _IN_BRACKETS if depth else _IN_SCALAR
            found = chars.match(self._text, self._at)
            assert found is not None  # noqa: S101 - it matches the empty text
            self._at = found.end()
            char = self._text[self._at : self._at + 1]
            if not char or char == "\\":
                if self._ended:
                    return  # what comes next says that it was cut off
                self._fill()
                continue
            if not depth and not in_string and char not in '"[{':
                return
            self._at += 1
            if char == '"':
                in_string = not in_string
            elif not in_string:
                depth += 1 if char in "[{" else -1
            if not depth and not in_string:
                return

    def _parse_value(self) -> tuple[Any, str | None]:
        while True:
            self._peek()
            if self._at > _CHUNK // 2 and len(self._text) - self._at < _FEW_CHARS:
                self._drop()
            start = self._at
            fault = None
            try:
                try:
                    value, end = self._decoder.decode_start(self._text, start)
                except JsonFaultError as error:
                    fault = str(error)
                    value, end = _LENIENT.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                if self._ended or not self._may_be_incomplete(error, len(self._text) - _TAIL_CHARS):
                    cut_off = self._may_be_incomplete(error, len(self._text.rstrip()))
                    self._fail(error.msg, cut_off=cut_off)
                self._fill()
                continue
            except RecursionError:
                raise _UnparsableError("is nested too deeply") from None
            if end == len(self._text) and not self._ended and self._text[start] not in '"{[':
                self._fill()  # a number may go on
                continue
            self._at = end
            if not (fault or self._text.isascii() or _is_utf_8(self._text[start:end])):
                fault = NOT_UTF_8
            return value, fault

    @staticmethod
    def _may_be_incomplete(error: json.JSONDecodeError, tail: int) -> bool:
        return error.pos >= tail or error.msg.startswith("Unterminated string")

    # ------------------------------------------------------------------------------- the text

    def _peek(self) -> str | None:
        """The next character that is not blank; None at the end."""
        try:
            if (char := self._text[self._at]) not in _BLANKS:
                return char  # nearly always
        except IndexError:
            pass
        while True:
            found = _BLANK.match(self._text, self._at)
            assert found is not None  # noqa: S101 - it matches the empty text
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return None
            self._fill()

    def _expect(self, char: str) -> None:
        found = self._peek()
        if found != char:
            self._fail(f"expected {char}", cut_off=found is None)
        self._at += 1

    def _skip_comma(self) -> bool:
        if self._peek() != ",":
            return False
        self._at += 1
        return True

    def _fill(self) -> None:
        self._drop()
        kept = self._text
        if len(kept) > MAX_ORDER_CHARS:
            raise _UnparsableError(_TOO_LONG)
        # Before a long value is tried again, as much again is read: else its time is quadratic.
        wanted = 1
        if len(kept) > _CHUNK:
            wanted = max(1, min(len(kept), MAX_ORDER_CHARS + 1 - len(kept)))
        pieces = [kept]
        while wanted > 0 and not self._ended:
            data: bytes = self._read(_CHUNK)
            self._ended = not data
            piece = self._decode(data, self._ended)
            wanted -= len(piece)
            pieces.append(piece)
        self._text = "".join(pieces)

    def _drop(self) -> None:
        """Forget what was read. A syntax error, as at the end of a chunk, counts lines up to it."""
        self._dropped += self._at
        self._text, self._at = self._text[self._at :], 0

    def _fail(self, what: str, *, cut_off: bool = False) -> NoReturn:
        where = f"after order {self._count:,}" if self._count else "at its beginning"
        if cut_off:
            raise SourceError(
                f"the JSON ends too early, {where}: it was cut off. Export or copy it again"
            )
        raise SourceError(
            f"what comes {where} is not JSON: {what}. Nothing from there on can be read: "
            "correct it, or export it again"
        )


def _is_before_others(page: Any, count: int) -> bool:
    """Whether orders follow on another page, by what stands beside those of this one."""
    if isinstance(page, dict):
        return page.get("hasNextPage") is True
    return type(page) is int and page > count


def _add(
    fields: dict[str, Any], faults: list[str], key: str, value: Any, fault: str | None
) -> None:
    """Add a key of an order, or what is wrong with it."""
    if fault is None and key in fields:
        fault = "a key: given more than once in one object"
    if fault is not None and len(faults) <= MAX_FAULTS and fault not in faults:
        faults.append(fault)
    fields[key] = value


def _is_utf_8(text: str) -> bool:
    """Whether no byte was decoded to a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

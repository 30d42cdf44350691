"""JSON documents: a list of orders, an object that wraps the list, or objects one after another.

The document is split into its orders, and each is parsed by the decoder of JSON Lines, so that the
same rules hold: exact numbers, no key twice, no NaN. An order with such a fault has it, and reading
goes on after it; only broken syntax ends it. That, and speed, is why no streaming parser is used:
ijson ends the file at a text that holds half an emoji, and takes the last of two equal keys.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import MAX_FAULTS, InvalidOrderError, SourceError

__all__ = ["MAX_ORDER_CHARS", "is_list_of_orders", "is_order", "read_json"]

#: A longer order is none, so that a file whose quotes or brackets don't match fills no memory.
#: Decoded, JSON takes up to 30 times its length: `{},{},{}` does.
MAX_ORDER_CHARS = 2 * 1024 * 1024

_PIECE = 64 * 1024
# Where the orders are in an object that wraps them: Shopify's, Magento's, and what others use.
_WRAPPERS = frozenset({"orders", "draft_orders", "items", "data", "results", "records", "rows"})
# An object with one of these is an order itself: Magento's have their products under "items".
_OF_AN_ORDER = frozenset(
    {"contact_email", "contact_unique_id", "order_id", "id", "entity_id", "increment_id"}
    | {"customer_email", "customer_id", "email", "number", "products", "line_items"}
)
_BLANK = re.compile(r"[ \t\n\r]*")
# Where a value may still go on behind the end of what was read: in a text, or so near to the end.
_NEAR = 16
_LENIENT = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=len)

_TOO_LONG = f"an order of over {MAX_ORDER_CHARS:,} characters"

_Item = dict[str, Any] | InvalidOrderError


def is_order(value: dict[str, Any]) -> bool:
    """Whether an object has a key that only orders have."""
    return any(key in value for key in _OF_AN_ORDER)


def is_list_of_orders(value: dict[str, Any]) -> bool:
    """Whether an object is no order but wraps a list of them."""
    return any(key in _WRAPPERS and isinstance(value[key], list) for key in value) and not is_order(
        value
    )


def read_json(
    file: IO[bytes], decoder: StrictDecoder, each: Sequence[str] = ()
) -> Iterator[tuple[int, _Item]]:
    """Yield each order's place in the document, from 1, and the order as it stands, or its fault.

    Args:
        file: Open for reading, in binary. It stays open.
        decoder: Decodes each order.
        each: The keys that lead to the list of the orders, where it is not found by itself.

    Raises:
        SourceError: where the syntax is broken, for nothing after it can be told apart.
    """
    scan = _Scan(file, decoder)
    while (char := scan.peek()) is not None:
        if char == "[" and not each:
            yield from scan.elements()
        elif char == "{":
            yield from scan.members(tuple(each), wanted=bool(each))
        else:
            yield scan.order()


class _Scan:
    """A place in a document that is read piece by piece."""

    def __init__(self, file: IO[bytes], decoder: StrictDecoder) -> None:
        self._decoder = decoder
        # Not more than there is: the orders of a pipe are read as they come.
        self._read = getattr(file, "read1", file.read)
        # Bytes that are no UTF-8 are a fault of the order that has them.
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._text = ""
        self._at = 0
        self._passed = 0  # characters before `_text`
        self._ended = False
        self._count = 0

    # --------------------------------------------------------------------------------- grammar

    def elements(self) -> Iterator[tuple[int, _Item]]:
        """Every order of the list that begins here."""
        self._take("[")
        if self.peek() != "]":
            yield self.order()
            while self.peek() == ",":
                self._take(",")
                yield self.order()
        self._take("]")

    def members(self, each: tuple[str, ...], *, wanted: bool) -> Iterator[tuple[int, _Item]]:
        """The orders that the object which begins here wraps, or the object itself as one.

        Args:
            each: The keys that lead to the list.
            wanted: Whether there are any such keys.
        """
        begin = self._passed + self._at
        self._take("{")
        fields: dict[str, Any] = {}
        faults: list[str] = []
        wraps = False
        more = self.peek() != "}"
        while more:
            key, _fault = self._value()
            if not isinstance(key, str):
                self._fail("expected a key in quotes")
            self._take(":")
            char = self.peek()
            leads = key == each[0] if wanted else key in _WRAPPERS and not is_order(fields)
            if leads and char == "[" and len(each) <= 1:
                wraps = True
                yield from self.elements()
            elif leads and char == "{" and len(each) > 1:
                wraps = True
                yield from self.members(each[1:], wanted=True)
            else:
                value, fault = self._value()
                if fault is None and key in fields:
                    fault = "a key: given more than once in one object"
                if fault is not None and len(faults) <= MAX_FAULTS and fault not in faults:
                    faults.append(fault)
                if not wraps:
                    fields[key] = value
                    if self._passed + self._at - begin > MAX_ORDER_CHARS:
                        self._fail(_TOO_LONG)
            more = self.peek() == ","
            if more:
                self._take(",")
        self._take("}")
        if not wraps and not wanted:
            self._count += 1
            yield self._count, InvalidOrderError(faults, self._count) if faults else fields

    def order(self) -> tuple[int, _Item]:
        """The value that begins here, as an order."""
        value, fault = self._value()
        self._count += 1
        if fault is None and not isinstance(value, dict):
            fault = "is no order: expected a JSON object"
        if fault is not None:
            return self._count, InvalidOrderError([fault], self._count)
        return self._count, value

    def _value(self) -> tuple[Any, str | None]:
        """The value that begins here; its fault, where it has one."""
        while True:
            self.peek()
            begin = self._at
            fault = None
            try:
                try:
                    value, end = self._decoder.decode_start(self._text, begin)
                except JsonFaultError as error:
                    fault = str(error)
                    # Where it ends.
                    value, end = _LENIENT.raw_decode(self._text, begin)
            except json.JSONDecodeError as error:
                if self._ended or not self._may_go_on(error):
                    rest = self._text.rstrip()
                    self._fail(error.msg, cut_off=self._may_go_on(error, len(rest)))
                self._read_more()
                continue
            except RecursionError:
                self._fail("is nested too deeply")
            if end == len(self._text) and not self._ended and self._text[begin] not in '"{[':
                self._read_more()  # a number may go on
                continue
            self._at = end
            if fault is None and not self._is_utf_8(begin, end):
                fault = "is not UTF-8: save the file as UTF-8"
            return value, fault

    def _is_utf_8(self, begin: int, end: int) -> bool:
        piece = self._text[begin:end]
        if piece.isascii():
            return True
        try:
            piece.encode()
        except UnicodeEncodeError:
            return False
        return True

    def _may_go_on(self, error: json.JSONDecodeError, near: int | None = None) -> bool:
        if near is None:
            near = len(self._text) - _NEAR
        return error.pos >= near or error.msg.startswith("Unterminated string")

    # ------------------------------------------------------------------------------- the text

    def peek(self) -> str | None:
        """The next character that is not blank; None at the end."""
        while True:
            found = _BLANK.match(self._text, self._at)
            assert found is not None  # noqa: S101 - it matches the empty text
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return None
            self._read_more()

    def _take(self, char: str) -> None:
        found = self.peek()
        if found != char:
            self._fail(f"expected {char}", cut_off=found is None)
        self._at += 1

    def _read_more(self) -> None:
        kept = self._text[self._at :]
        if len(kept) > MAX_ORDER_CHARS:
            self._fail(_TOO_LONG)
        # What is long is read twice as far before it is tried again: else its time is quadratic.
        wanted = 1
        if len(kept) > _PIECE:
            wanted = max(1, min(len(kept), MAX_ORDER_CHARS + 1 - len(kept)))
        pieces: list[str] = []
        while wanted > 0 and not self._ended:
            data: bytes = self._read(_PIECE)
            self._ended = not data
            piece = self._decode(data, self._ended)
            wanted -= len(piece)
            pieces.append(piece)
        self._passed += self._at
        self._text, self._at = kept + "".join(pieces), 0

    def _fail(self, what: str, *, cut_off: bool = False) -> NoReturn:
        where = f"after order {self._count:,}" if self._count else "at its beginning"
        if cut_off:
            raise SourceError(
                f"the JSON ends too early, {where}: it was cut off. Export or copy it again"
            )
        raise SourceError(
            f"what comes {where} is not JSON: {what}. Nothing from there on can be read: "
            "mend it, or export it again"
        )

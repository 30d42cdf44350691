"""Proposes a mapping for an input, for a person to look at: it is never applied by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import attrs

from everlytic_async._strict_json import StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._detect import CONTAINERS, check_header, detect_container, open_table
from everlytic_async.sources._json import JsonReader, read_json_lines, unwrap
from everlytic_async.sources._mapping import ORDER_FIELDS, PRODUCT_FIELDS, descend, is_blank
from everlytic_async.sources._notation import guess_date_formats, guess_notation
from everlytic_async.sources._open import Source, check_text, open_source
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._records import InvalidRow, Item
from everlytic_async.sources._shops import find_preset, is_lost
from everlytic_async.sources._synonyms import is_status, match_email, match_fields

# How many records are looked at, and how deep the keys of JSON.
_RECORDS = 200
_MAX_DEPTH = 4
_MAX_PATHS = 500
_MAX_CHARS = 200
_MAX_LIST, _MAX_LISTS = 3, 20
_MAX_STATUS, _MAX_STATUSES = 40, 10
# Without one of these an order is useless, or its e-mail is.
_WANTED = (
    "contact_email",
    "order_id",
    "total",
    "product_name",
    "product_price",
    "product_quantity",
)
_AMOUNTS = ("total", "sub_total", "shipping_fee", "taxes", "discount", "product_price")
_JSON = ("json", "jsonl")
_FALLBACK_ENCODING = "cp1252"
_PATH = re.compile(r"[\w-]{1,40}(?:\.[\w-]{1,40})*").fullmatch


@attrs.frozen(kw_only=True)
class Suggestion:
    """What may be meant by the columns, or the keys, of an input.

    Attributes:
        format: The format that it was found to have.
        is_known: Whether it is a known shop's export, which needs no mapping.
        mapping: As `everlytic_async.sources.read_orders` takes it.
        options: More arguments of `read_orders` that it needs, such as ``encoding`` or ``decimal``.
        other_dates: What ``date_format`` may be as well, so that a person has to choose.
        other_contacts: Columns or paths with e-mail addresses, which seem not to be customers'.
        status: The column or path that looks like the status of an order; None if there is none.
        statuses: The values that it has in the first orders.
        missing: Fields that most orders have and nothing was found for.
        unused: Columns or keys that are used for no field.
    """

    format: str
    is_known: bool
    mapping: Mapping[str, Any]
    options: Mapping[str, str]
    other_dates: Sequence[str] = ()
    other_contacts: Sequence[str] = ()
    status: str | None = None
    statuses: Sequence[str] = ()
    missing: Sequence[str] = ()
    unused: Sequence[str] = ()

    def to_toml(self) -> str:
        """A table ``[mapping]``, ready to paste into the settings, with what was not found."""
        lines = ["[mapping]"]
        products = self.mapping.get("products", {})
        lines += [
            f"{field} = {_toml(spec)}"
            for field, spec in self.mapping.items()
            if field != "products"
        ]
        if self.other_contacts:
            others = ", ".join(map(_toml, self.other_contacts))
            lines.append(
                f"# E-mail addresses, too; contact_email has to be the customers': {others}"
            )
        lines += [f"# {field}: not found" for field in self.missing]
        if products:
            lines += ["", "[mapping.products]"]
            lines += [f"{field} = {_toml(spec)}" for field, spec in products.items()]
        return "\n".join(lines) + "\n"


def _toml(spec: Any) -> str:
    # A basic string of TOML is written as one of JSON is.
    text = json.dumps(spec if isinstance(spec, str) else spec["path"], ensure_ascii=False)
    return text if isinstance(spec, str) else f"{{ path = {text} }}"


def suggest_mapping(
    path_or_file: Source,
    format: str | None = None,  # noqa: A002 - the public name
    *,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Suggestion:
    """Propose a mapping from the names, and the first values, that an input has.

    Args:
        path_or_file: As `everlytic_async.sources.read_orders` takes it.
        format: The same.
        encoding: The same. Where it is None, and a text is not UTF-8, Windows' is proposed.
        sheet: The same.

    Raises:
        ConfigurationError: when the input can't be read, or is empty.
        SourceError: when it is damaged.
        OSError: when it can't be opened or read.
    """
    ReadOptions(format=format, encoding=encoding, sheet=sheet)  # raises
    more: dict[str, str] = {}
    where: str | None = None  # in an object around the orders
    with ExitStack() as stack:
        source = stack.enter_context(open_source(path_or_file, encoding))
        if not source.first_line.strip():
            raise ConfigurationError("it is empty")
        requested = format if format in CONTAINERS else None
        container = detect_container(source, requested)
        is_table = container not in _JSON
        is_text = container not in ("xlsx", "parquet")
        is_utf_8 = encoding is None and source.encoding == "utf-8"
        if is_text and is_utf_8 and source.line_not_text() is not None:
            encoding = more["encoding"] = _FALLBACK_ENCODING
            source = stack.enter_context(open_source(path_or_file, encoding))
        if is_table:
            table = open_table(container, source, stack, encoding, sheet)
            if find_preset(dict.fromkeys(table.columns), is_table=True) is None:
                check_header(table, {})
            names = [name for name in table.columns if name][:_MAX_PATHS]
            records = [
                _prune(dict(zip(table.columns, row, strict=True)))
                for _number, row in islice(table, _RECORDS)
                if not isinstance(row, InvalidRow)
            ]
        else:
            check_text(source)
            records, where = _read_json(container, source.file)
            names = list(dict.fromkeys(name for record in records for name in record))
    preset = find_preset(dict.fromkeys(names) | (records[0] if records else {}), is_table=is_table)
    if preset is None:
        found = _suggest(container, names, records, more)
    else:
        found = Suggestion(format=preset.name, is_known=where is None, mapping={}, options=more)
    return found if where is None else attrs.evolve(found, mapping={"each": where, **found.mapping})


def _read_json(container: str, file: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The first orders; and the path to their list, where it has to be named."""
    decoder = StrictDecoder()
    items: Iterator[tuple[int, Item]]
    items = (
        iter(JsonReader(file, decoder)) if container == "json" else read_json_lines(file, decoder)
    )
    records: list[dict[str, Any]] = []
    for _number, item in islice(items, _RECORDS):
        order: Any = unwrap(item, ())
        if not records and (path := find_orders(order)) is not None:
            return [_prune(each) for each in _at(order, path)[:_RECORDS] if _is_dict(each)], path
        if isinstance(order, dict):
            records.append(_prune(order))
    return records, None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def find_orders(record: Any) -> str | None:
    """The path to what looks like a list of orders in an object which itself is none; or None."""
    if not isinstance(record, dict) or _looks_like_order(record):
        return None
    lists = (
        (path, value)
        for path, value in _walk(record)
        if isinstance(value, list) and value and _PATH(path) and _at(record, path) is value
    )
    found = islice(lists, _MAX_LISTS)
    return next((path for path, value in found if _looks_like_order(value[0])), None)


def _looks_like_order(value: Any) -> bool:
    return isinstance(value, dict) and (
        find_preset(value, is_table=False) is not None
        or bool(match_fields(_flatten([_prune(value)]), ("contact_email",)))
    )


def _prune(value: Any, depth: int = 0) -> Any:
    """A value without most of what is long in it."""
    if isinstance(value, str):
        return value[:_MAX_CHARS]
    if isinstance(value, dict):
        inner = islice(value.items(), _MAX_PATHS if depth <= _MAX_DEPTH else 0)
        return {key: _prune(item, depth + 1) for key, item in inner if len(key) <= _MAX_CHARS}
    if isinstance(value, list):
        return [_prune(item, depth + 1) for item in value[:_MAX_LIST]]
    return value


def _suggest(
    container: str,
    names: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    options: dict[str, str],
) -> Suggestion:
    is_table = container not in _JSON
    products: dict[str, str] = {}
    amounts: list[Any] = []
    each = None if is_table else _find_list(records)
    if is_table:
        values = {name: [record.get(name) for record in records] for name in names}
    else:
        values = _flatten(records)
    if each is None:
        order = match_fields(values)
    else:
        inner = _flatten([item for record in records for item in _at(record, each)][:_RECORDS])
        products = match_fields(inner, PRODUCT_FIELDS)
        amounts += _values_of(_AMOUNTS, products, inner)
        values = {name: of for name, of in values.items() if not name.startswith(f"{each}.")}
        order = match_fields(values, (*ORDER_FIELDS, "date"))
    contact, others = _find_contacts(values)
    order = ({} if contact is None else {"contact_email": contact}) | {
        field: name
        for field, name in order.items()
        if field != "contact_email" and name not in {contact, *others}
    }
    amounts += _values_of(_AMOUNTS, order, values)
    if is_table and _differs_within_order(values, order) and "product_line_total" not in order:
        order["product_line_total"] = order.pop("total")
    options |= guess_notation([str(value) for value in amounts if value])
    dates = [str(value) for value in _values_of(("date",), order, values) if value]
    formats = list(guess_date_formats(dates))
    if formats:
        options["date_format"] = formats[0]
    mapping: dict[str, Any] = {field: _spec(name) for field, name in order.items()}
    if each is not None:
        fields = {field: _spec(name) for field, name in products.items()}
        mapping["products"] = {"each": _spec(each), **fields}
    taken = {*order.values()}
    free = [name for name in values if name not in taken]
    status = next(filter(is_status, free), None)
    if status is None:
        status = next((name for name in free if any(map(is_lost, values[name]))), None)
    words: Sequence[Any] = values.get(status or "", ())
    if is_table and "order_id" in order:  # a further row of an order has none
        ids = values[order["order_id"]]
        words = [word for word, id_ in zip(words, ids, strict=False) if not is_blank(id_)]
    shown = [word for word in words if isinstance(word, str) and len(word) <= _MAX_STATUS]
    return Suggestion(
        format=container,
        is_known=False,
        mapping=mapping,
        options=options,
        other_dates=formats[1:],
        other_contacts=others,
        status=status,
        statuses=[*dict.fromkeys(shown)][:_MAX_STATUSES],
        missing=[field for field in _WANTED if field not in order and field not in products],
        unused=[name for name in free if name not in {status, *others}],
    )


def _values_of(
    fields: Sequence[str], names: Mapping[str, str], values: Mapping[str, list[Any]]
) -> list[Any]:
    return [value for field, name in names.items() if field in fields for value in values[name]]


def _differs_within_order(values: Mapping[str, Sequence[Any]], order: Mapping[str, str]) -> bool:
    """Whether rows with the same id have other totals, which are those of the line then."""
    ids, totals = (values.get(order.get(field, ""), ()) for field in ("order_id", "total"))
    first: dict[str, str] = {}
    return any(
        first.setdefault(str(name), str(total)) != str(total)
        for name, total in zip(ids, totals, strict=False)
        if name and total
    )


def _spec(name: str) -> Any:
    return {"path": name} if "{" in name else name


def _find_contacts(values: Mapping[str, Sequence[Any]]) -> tuple[str | None, list[str]]:
    """The column of the customers' e-mail addresses, and those with others.

    In that of a shop all are the same, whatever it is called.
    """
    ranks: dict[str, tuple[Any, ...]] = {}
    for place, (name, all_values) in enumerate(values.items()):
        found = [str(value) for value in all_values if not is_blank(value)]
        emails = sum("@" in value for value in found)
        whose, score = match_email(name)
        # Without a name that says so, a remark may have one.
        among = found if whose or score else all_values
        if emails * 2 > len(among):
            is_one = len(found) > 1 and len({*found}) == 1
            ranks[name] = (whose >= 0, not is_one, whose, score, -place)
    ranked = sorted(ranks, key=ranks.__getitem__, reverse=True)
    if ranked and ranks[ranked[0]][0]:
        return ranked[0], ranked[1:]
    return None, ranked


def _walk(record: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Each value in a record, with its path, which does not go through a list."""
    for key, value in record.items():
        if not isinstance(value, dict):
            yield f"{prefix}{key}", value
        elif depth < _MAX_DEPTH:
            yield from _walk(value, f"{prefix}{key}.", depth + 1)


def _flatten(records: Sequence[Any]) -> dict[str, list[Any]]:
    """The values at each path that are no lists."""
    found: dict[str, list[Any]] = {}
    for record in filter(_is_dict, records):
        for path, value in _walk(record):
            if not isinstance(value, list) and len(found) < _MAX_PATHS:
                found.setdefault(path, []).append(value)
    return found


def _find_list(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The path of the list whose objects look most like products."""
    lists: dict[str, list[Any]] = {}
    for record in records:
        for path, value in _walk(record):
            if isinstance(value, list) and value and _is_dict(value[0]):
                lists.setdefault(path, []).append(value[0])
    scores = {
        path: len(match_fields(_flatten(items), PRODUCT_FIELDS)) for path, items in lists.items()
    }
    best = max(scores, key=lambda path: scores[path], default=None)
    return best if best is not None and scores[best] else None


def _at(record: Mapping[str, Any], path: str) -> Sequence[Any]:
    value = descend(record, path.split("."))
    return value if isinstance(value, list) else ()

"""Makes records of an input into mappings of orders, as a mapping says."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._mapping import (
    ORDER_FIELDS,
    PRODUCT_FIELDS,
    Compiler,
    Getter,
    is_blank,
    is_template,
    mapping_paths,
    nearest,
)
from everlytic_async.sources._numbers import parse_number
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import Record

__all__ = ["RecordMapper"]

_CONTACTS = ("contact_email", "contact_unique_id")
_IDS = ("contact_unique_id", "order_id")
# What spreadsheets write instead of 1234567890123.
_SHORTENED = re.compile(r"\s*[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}\s*").fullmatch
_SHORTENED_FAULT = (
    "is a number that a spreadsheet shortened, such as 1.23457E+12, and its digits are lost: "
    "export it again, and don't save it from a spreadsheet, or format that column as text first"
)
_WORKFLOW = re.compile(r"\s*[0-9]{1,19}\s*", re.ASCII).fullmatch


def _parse_workflow(text: str) -> int | str:
    return int(text) if _WORKFLOW(text) else text


def _parse_gallery(value: str | list[Any]) -> list[Any] | None:
    if isinstance(value, str):
        return value.split()
    return [url for url in value if url is not None and url != ""] or None


#: What becomes of a text in a field that is not a text; in all the others it stays as it is.
_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "product_price": parse_number,
    "product_quantity": parse_number,
    "product_line_total": parse_number,
    "product_special_price": parse_number,
    "workflow_id": _parse_workflow,
    "product_gallery": _parse_gallery,
}

_Field = tuple[str, Getter, Callable[[Any], Any] | None]


def _read(fields: Sequence[_Field], record: Any) -> dict[str, Any]:
    """The fields that are set in a record."""
    found: dict[str, Any] = {}
    for name, get, convert in fields:
        value = get(record)
        if value is None:
            continue
        if isinstance(value, str):
            if not value or value.isspace():
                continue
            if convert is not None:
                value = convert(value)
        elif convert is _parse_gallery and isinstance(value, list):
            value = convert(value)
            if value is None:
                continue
        found[name] = value
    return found


class RecordMapper:
    """Makes records into mappings of orders.

    Args:
        mapping: The caller's mapping, as `normalize_mapping` returns it.
        preset: Where the fields that it does not name come from, and which orders to skip; None for
            the keys or columns that have the names of the fields, and all orders.
        include: The reasons for which no order is skipped; ``all`` for all of them.
        names: The columns of a table; of JSON, the keys of the first order.
        is_table: Whether the records are rows, and a path to another column is a mistake.

    Raises:
        ConfigurationError: when the mapping can't be applied.

    Attributes:
        is_grouping: Whether consecutive records with the same key are one order.
        has_date: Whether the time of an order is known.
        unmatched: The fields of the caller's mapping that no order has had so far.
        used_columns: The columns that are used.
    """

    def __init__(
        self,
        mapping: Mapping[str, Any],
        preset: Preset | None,
        include: Collection[str],
        names: Sequence[str],
        *,
        is_table: bool,
    ) -> None:
        base = None if preset is None else preset.mapping
        own_products = mapping.get("products", {})
        order = {**(base or dict(zip(ORDER_FIELDS, ORDER_FIELDS, strict=True))), **mapping}
        products = {
            **(
                base["products"] if base else dict(zip(PRODUCT_FIELDS, PRODUCT_FIELDS, strict=True))
            ),
            **own_products,
        }
        if base is None and "products" in names:
            products.setdefault("each", "products")
        each, date = products.pop("each", None), order.pop("date", None)
        group_by = order.pop("group_by", order.get("order_id"))
        for key in ("products", "each"):
            order.pop(key, None)
        if all(order.get(field) is None for field in _CONTACTS):
            raise ConfigurationError("the mapping leaves an order without a contact")
        if is_table:
            _check_columns(mapping, names, has_list=each is not None)
            if base is None:
                _check_contact(order, names)

        compiler = Compiler(names if is_table else None)
        self._fields = _compile(compiler, order)
        self._contacts = [field for field in self._fields if field[0] in _CONTACTS]
        # The products of a list are dicts, even in a table.
        self._product_fields = _compile(compiler if each is None else Compiler(None), products)
        self._each = None if each is None else compiler.getter("products", each)
        self._date = None if date is None else compiler.getter("date", date)
        self.is_grouping = each is None and group_by is not None
        self._key = compiler.getter("group_by", group_by) if self.is_grouping else None
        self._skip: list[tuple[Getter, str | Mapping[str, str]]] = []
        if preset is not None and "all" not in include:
            for reason, spec in preset.skip.items():
                if reason not in include:
                    self._skip.append((compiler.getter(reason, spec), reason))
            for path, words in preset.statuses.items():
                skipped = {word: words[word] for word in words if words[word] not in include}
                self._skip.append((compiler.path(path), skipped))
        self.has_date = date is not None
        self.used_columns = compiler.used
        self.unmatched = {
            field
            for field, spec in (*mapping.items(), *own_products.items())
            if spec is not None and field in (*ORDER_FIELDS, *PRODUCT_FIELDS)
        } - {"products"}

    def key(self, record: Record) -> Any:
        """What the rows of one order share; None if a row has none."""
        key = None if self._key is None else self._key(record)
        return None if isinstance(key, str) and not key.strip() else key

    def has_contact(self, record: Record) -> bool:
        """Whether a row says whose it is."""
        return bool(_read(self._contacts, record))

    def date(self, record: Record) -> Any:
        """The time of an order, as the input has it."""
        return None if self._date is None else self._date(record)

    def skip_reason(self, record: Record) -> str | None:
        """Why an order is skipped; None if it isn't."""
        for get, reasons in self._skip:
            value = get(record)
            if value is None or value is False or value == "":
                continue
            if isinstance(reasons, str):
                if not is_blank(value):
                    return reasons
            elif isinstance(value, str) and (reason := reasons.get(value.strip().lower())):
                return reason
        return None

    def order(self, rows: Sequence[Record]) -> tuple[dict[str, Any], list[str]]:
        """The mapping of an order, and the faults that can be seen only here.

        Args:
            rows: The record of an order; or all its rows: for each field the first that sets it
                counts.
        """
        order = _read(self._fields, rows[0])
        faults = self._join_rows(order, rows) if len(rows) > 1 else []
        for field in _IDS:
            value = order.get(field)
            if isinstance(value, str) and "E+" in value and _SHORTENED(value):
                faults.append(f"{field}: {_SHORTENED_FAULT}")
        email = order.get("contact_email")
        # It is allowed in an address, and at its start nearly always something else.
        if isinstance(email, str) and "'" in email and email.lstrip().startswith("'"):
            faults.append("contact_email: begins with ', as spreadsheets mark a text: remove it")
        if self._each is None:
            products: Any = [
                product for row in rows if (product := _read(self._product_fields, row))
            ]
        else:
            products = self._each(rows[0])
            if isinstance(products, list | tuple):
                products = [
                    _read(self._product_fields, item) if isinstance(item, dict) else item
                    for item in products
                ]
        order["products"] = products
        if self.unmatched:
            self.unmatched.difference_update(order)
            for product in products if isinstance(products, list) else ():
                if isinstance(product, dict):
                    self.unmatched.difference_update(product)
        return order, faults

    def _join_rows(self, order: dict[str, Any], rows: Sequence[Record]) -> list[str]:
        """Add what only the later rows set; the faults of contacts that differ."""
        faults: dict[str, None] = {}
        for row in rows[1:]:
            if len(order) < len(self._fields):
                missing = [field for field in self._fields if field[0] not in order]
                order.update(_read(missing, row))
            for field, value in _read(self._contacts, row).items():
                if str(value).casefold() != str(order[field]).casefold():
                    faults[f"{field}: the rows of the order do not agree on it"] = None
        return list(faults)


def _compile(compiler: Compiler, specs: Mapping[str, Any]) -> list[_Field]:
    compiled: list[_Field] = []
    getters: dict[str, Getter] = {}
    # Templates last: they may use the other fields.
    for field in sorted(
        specs, key=lambda field: specs[field] is not None and is_template(specs[field])
    ):
        if specs[field] is not None:
            getters[field] = compiler.getter(field, specs[field], getters)
            compiled.append((field, getters[field], _CONVERTERS.get(field)))
    return compiled


def _check_columns(mapping: Mapping[str, Any], names: Sequence[str], *, has_list: bool) -> None:
    """Refuse a mapping to a column that does not exist, if it is the only source of a field."""
    if has_list:  # the paths of products start at a product
        mapping = {field: spec for field, spec in mapping.items() if field != "products"}
    for field, path, is_only in mapping_paths(mapping):
        if is_only and field != "each" and not {path, path.partition(".")[0]} & {*names}:
            # A file without a header has values in its place.
            near = nearest(path, (name for name in names if "@" not in name))
            hint = f": did you mean {near!r}?" if near else ""
            raise ConfigurationError(f"{field}: there is no column {path!r}{hint}")


def _check_contact(order: Mapping[str, Any], names: Sequence[str]) -> None:
    specs = [order[field] for field in _CONTACTS if order.get(field) is not None]
    paths = [spec for spec in specs if isinstance(spec, str) and "{" not in spec]
    if len(paths) == len(specs) and not any(
        path in names or path.partition(".")[0] in names for path in paths
    ):
        raise ConfigurationError(
            f"none of its {len(names)} columns is contact_email or contact_unique_id: say which "
            "one is, such as with --map contact_email=Email"
        )

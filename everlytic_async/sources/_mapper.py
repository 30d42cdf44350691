"""Makes records of an input into mappings of orders, as a mapping says."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from everlytic_async._checks import MAX_ITEMS
from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Product
from everlytic_async.sources._columns import CONTACTS, check_columns, check_contact
from everlytic_async.sources._mapping import (
    ORDER_FIELDS,
    PRODUCT_FIELDS,
    Compiler,
    Computed,
    Getter,
    Unreadable,
    describe_spec,
    is_blank,
    is_template,
)
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import Layout, Record
from everlytic_async.sources._rows import AMOUNTS, DifferingAmounts
from everlytic_async.sources._synonyms import is_totals

_NUMBERS = ("product_price", "product_quantity", "product_line_total", "product_special_price")
_WORKFLOW = re.compile(r"\s*[0-9]{1,19}\s*", re.ASCII).fullmatch
# A shop sells the same products again and again: how many are kept, and of how many characters.
_MAX_CACHED, _MAX_CACHED_CHARS = 4_096, 400
_IDS = ("contact_unique_id", "order_id")
_NAMING = frozenset({"product_name", "product_sku"})
# What spreadsheets write instead of 1234567890123.
_SHORTENED = re.compile(r"\s*[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}\s*").fullmatch
_SHORTENED_FAULT = (
    "is a number that a spreadsheet shortened, such as 1.23457E+12, and its digits are lost: "
    "export it again, and don't save it from a spreadsheet, or format that column as text first"
)

_LISTS = (list, tuple)  # in a check, faster than list | tuple
_Convert = Callable[[Any], Any]


def _parse_workflow(text: str) -> int | str:
    return int(text) if _WORKFLOW(text) else text


def _parse_gallery(value: str | list[Any]) -> list[Any] | None:
    if isinstance(value, str):
        return value.split()
    return [url for url in value if url is not None and url != ""] or None


def _converters(notation: Notation) -> Mapping[str, _Convert]:
    """What becomes of a text in a field that is not a text; in all the others it stays as it is."""
    numbers = _NUMBERS if notation.is_plain else (*_NUMBERS, *AMOUNTS)
    return {
        "workflow_id": _parse_workflow,
        "product_gallery": _parse_gallery,
        **dict.fromkeys(numbers, notation.number_parser()),
    }


class _FieldReader:
    """Reads the fields that a mapping names: the inner loop of a backfill."""

    def __init__(
        self, compiler: Compiler, specs: Mapping[str, Any], converters: Mapping[str, _Convert]
    ) -> None:
        self.getters: dict[str, Getter] = {}
        # Templates last: they may use the other fields.
        for field in sorted(specs, key=lambda field: is_template(specs[field])):
            self.getters[field] = compiler.getter(field, specs[field], self.getters)
        # Most fields are cells or keys by themselves: they are read together.
        paths = {field: spec for field, spec in specs.items() if compiler.is_direct(spec)}
        paths.pop("product_gallery", None)  # may be a list
        self._names = tuple(paths)
        self._values = compiler.values(tuple(paths.values()))
        self._converters = [(name, converters[name]) for name in paths if name in converters]
        self._others = [
            (field, get, converters.get(field))
            for field, get in self.getters.items()
            if field not in paths
        ]

    def read(self, record: Any) -> dict[str, Any]:
        """The fields that are set in a record."""
        found = {
            name: value
            for name, value in zip(self._names, self._values(record))  # noqa: B905 - fast
            if value is not None and (value.__class__ is not str or (value and not value.isspace()))
        }
        for name, parse in self._converters:
            if (value := found.get(name)).__class__ is str:
                found[name] = parse(value)
        for name, get, convert in self._others:
            value = get(record)
            if value is None:
                continue
            if value.__class__ is str:
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

    A field that the caller's mapping does not name comes from where the shop has it; of another
    input from the key or column with the name of the field.

    Raises:
        ConfigurationError: when the mapping can't be applied.

    Attributes:
        date: Where the time of an order is, as in a mapping; None if that is not known.
        is_grouping: Whether consecutive records with the same key are one order.
    """

    def __init__(self, options: ReadOptions, preset: Preset | None, layout: Layout) -> None:
        mapping, notation, columns = options.mapping, options.notation, layout.columns
        base: Mapping[str, Any] = _OWN_NAMES if preset is None else preset.mapping
        own_products = mapping.get("products", {})
        order = {**base, **mapping}
        products = {**base["products"], **own_products}
        if preset is None and "products" in layout.names:
            products.setdefault("each", "products")
        each, self.date = products.pop("each", None), order.pop("date", None)
        group_by = order.pop("group_by", order.get("order_id"))
        for key in ("products", "each"):
            order.pop(key, None)
        if all(order.get(field) is None for field in CONTACTS):
            raise ConfigurationError("the mapping leaves an order without a contact")
        has_list = each is not None
        check_columns(mapping, layout, has_list=has_list)
        if layout.is_table and preset is None:
            check_contact((order.get(field) for field in CONTACTS), layout.names)

        self._notation = notation
        compiler = self.compiler = Compiler(columns, notation)
        # The products of a list are dicts, even in a table.
        inner = Compiler(columns if each is None else None, notation)
        self._specs = {field: spec for field, spec in order.items() if spec is not None}
        self._product_specs = {field: spec for field, spec in products.items() if spec is not None}
        converters = {**_converters(notation), "product_sku": self._note_shortened}
        self._fields = _FieldReader(compiler, self._specs, converters)
        getters = self._fields.getters
        self._contacts = {field: getters[field] for field in CONTACTS if field in getters}
        self._product_fields = _FieldReader(inner, self._product_specs, converters)
        self._read_product: Callable[[Any], Any] = self._product_fields.read
        key_of = inner.values_used(
            holds_text=layout.holds_text and not has_list, is_json=not layout.is_table
        )
        if key_of is not None:
            self._read_product = self._cached(key_of)
        if each is None:
            compiler.used |= inner.used
        # Those of a shop's own columns are the same in all rows of an order; and a column that is
        # called as the field may not be there.
        compared = {
            field: getters[field]
            for field in AMOUNTS
            if field in (mapping if preset else getters)
            and field in getters
            and (self._specs[field] != field or compiler.is_direct(field))
        }
        self.differing = DifferingAmounts(compared, notation)
        self._unreadable = Unreadable if notation.is_plain else str
        self._ids = [field for field in _IDS if field in self._specs]
        self._checked_amounts = [
            field
            for field in AMOUNTS
            if field in self._specs
            and (not notation.is_plain or not isinstance(self._specs[field], str))
        ]
        # Where the fields have their own names, a product without any may be meant.
        self._names_products = preset is not None or bool(own_products)
        self._each_spec = each
        self._each = None if each is None else compiler.getter("products", each)
        self.is_grouping = each is None and group_by is not None
        self._key = compiler.getter("group_by", group_by) if self.is_grouping else None
        faults = {} if preset is None else preset.faults
        self._faults = [(compiler.getter("fault", spec), text) for text, spec in faults.items()]
        self._shortened_skus = 0
        self._has_orders = self._has_products = self._has_names = False
        self._unmatched = {
            field
            for field, spec in (*mapping.items(), *own_products.items())
            if spec is not None and field in (*ORDER_FIELDS, *PRODUCT_FIELDS)
        } - {"products"}

    def key(self, record: Record) -> Any:
        """What the rows of one order share; None if a row has none."""
        key = None if self._key is None else self._key(record)
        return None if isinstance(key, str) and (not key or key.isspace()) else key

    def may_continue(self, record: Record, rows: Sequence[Record]) -> bool:
        """Whether a row without an id has no contact, or that of the first of these rows."""
        return all(
            is_blank(value := get(record)) or (rows and _same(value, get(rows[0])))
            for get in self._contacts.values()
        )

    def is_totals(self, record: Record) -> bool:
        """Whether a record without a contact holds the sums of others."""
        cells = record.values() if isinstance(record, dict) else record
        return any(map(is_totals, cells)) and all(
            is_blank(get(record)) for get in self._contacts.values()
        )

    def is_nameless(self, record: Record) -> bool:
        """Whether a row without an id is no product, although it has fields of one."""
        fields = _set_fields(self._read_product(record))
        is_named = _NAMING.isdisjoint(self._product_specs) or not _NAMING.isdisjoint(fields)
        return bool(fields) and not is_named

    def order(self, rows: Sequence[Record]) -> tuple[dict[str, Any], list[str]]:
        """The mapping of an order, and the faults that can be seen only here.

        Args:
            rows: The record of an order; or all its rows: for each field the first that sets it
                counts.
        """
        order = self._fields.read(rows[0])
        faults = self._join_rows(order, rows) if len(rows) > 1 else []
        self._check_texts(order, faults)
        if self._faults:
            faults += [fault for get, fault in self._faults if get(rows[0])]
        if self._each is None:
            read = self._read_product
            products: Any = [product for row in rows if (product := read(row))]
        else:
            products = self._read_list(self._each(rows[0]), faults)
        order["products"] = products
        if self._unmatched or not self._has_names:
            self._note_fields(order)
        return order, faults

    def _read_list(self, items: Any, faults: list[str]) -> Any:
        """The products of a list; anything else as it is, for that is a fault of the order."""
        if not isinstance(items, _LISTS):
            return items
        read = self._read_product
        products = [read(item) if item.__class__ is dict else item for item in items]
        # With more there is another fault.
        is_set = not self._names_products or all(products)  # fast
        if not is_set and {} in products and len(products) <= MAX_ITEMS:
            faults.append(f"products[{products.index({})}]: none of its fields is set")
        return products

    def _note_fields(self, order: Mapping[str, Any]) -> None:
        """Note which fields there are, until all that are wanted were there."""
        self._has_orders = True
        self._unmatched.difference_update(order)
        products = order["products"]
        for product in products if isinstance(products, list) else ():
            fields = _set_fields(product)
            self._has_products = True
            self._has_names = self._has_names or "product_name" in fields
            self._unmatched.difference_update(fields)

    def _note_shortened(self, sku: str) -> str:
        if "E+" in sku and _SHORTENED(sku):
            self._shortened_skus += 1
        return sku

    def _cached(self, key_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Reads a product; one with the same key was there before, and is not made again."""
        read = self._product_fields.read
        cache: dict[Any, Product | dict[str, Any]] = {}

        def read_product(record: Any) -> Product | dict[str, Any]:
            key = key_of(record)
            found = cache.get(key)
            if found is None:
                shortened = self._shortened_skus
                found = _make_product(read(record))
                is_counted = self._shortened_skus > shortened  # and has to be again
                size = sum(map(len, key)) if isinstance(key, tuple) else len(key)
                if not is_counted and size <= _MAX_CACHED_CHARS:
                    if len(cache) >= _MAX_CACHED:
                        cache.clear()
                    cache[key] = found
            return found

        return read_product

    def _check_texts(self, order: dict[str, Any], faults: list[str]) -> None:
        """Add the faults of texts that are valid as texts, and are not what they should be."""
        for field in self._ids:
            value = order.get(field)
            if value.__class__ is str and "E+" in value and _SHORTENED(value):
                faults.append(f"{field}: {_SHORTENED_FAULT}")
        email = order.get("contact_email")
        # It is allowed in an address, and at its start nearly always something else.
        if email.__class__ is str and "'" in email and email.lstrip().startswith("'"):
            faults.append("contact_email: begins with ', as spreadsheets mark a text: remove it")
        # Plain amounts go out as they are; what is computed of one has to be able to read it.
        for field in self._checked_amounts:
            text = order.get(field)
            if isinstance(text, self._unreadable):
                faults.append(f"{field}: {self._notation.explain_number(text)}")

    def _join_rows(self, order: dict[str, Any], rows: Sequence[Record]) -> list[str]:
        """Add what only the later rows set; the faults of contacts that differ."""
        faults: dict[str, None] = {}
        for row in rows[1:]:
            if len(order) < len(self._fields.getters):
                order |= self._fields.read(row) | order
            for field, get in self._contacts.items():
                value, known = get(row), order.get(field)
                if value != known and not is_blank(value) and not _same(value, known):
                    faults[f"{field}: the rows of the order do not agree on it"] = None
        return list(faults)

    # ------------------------------------------------------------------------ for people to read

    @property
    def unmatched_fields(self) -> frozenset[str]:
        """The fields that the caller's mapping names, and no order had so far."""
        return frozenset(self._unmatched if self._has_orders else ())

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._shortened_skus:
            yield (
                f"product_sku that a spreadsheet shortened: {self._shortened_skus:,}. They are "
                "numbers such as 1.23457E+12: export the orders again, and don't save them from "
                "a spreadsheet"
            )
        yield from self.differing.warnings()
        if self._has_products and not self._has_names:
            yield "no product has a name: map product_name if the e-mail shows it"

    def explain(self, faults: Sequence[str], order: Mapping[str, Any]) -> list[str]:
        """The faults of an order, with the numbers that can't be read, and what to do."""
        return [self._explain(fault, order) for fault in faults]

    def _explain(self, fault: str, order: Mapping[str, Any]) -> str:
        if fault.startswith("products: at least one") and not self._product_specs:
            return (
                f"{fault}, and nothing says what was bought: map a field of a product, such as "
                "with --map 'product_name:=\"Your order\"'"
            )
        found = _TEXT_NUMBER(fault)
        if found is None:
            return fault
        value = order["products"][int(found["place"])][found["field"]]
        return f"{found['path']}: {self._notation.explain_number(value)}"

    def origins(self, rows: Sequence[Record], order: Mapping[str, Any]) -> dict[str, str]:
        """Where each field of an order came from: its column or path."""
        found = {}
        getters = self._fields.getters
        for field, spec in self._specs.items():
            if field in order:
                row = next((row for row in rows if not is_blank(getters[field](row))), rows[0])
                found[field] = describe_spec(spec, self.compiler, row)
        if self._each is None:
            found_by = self._product_fields.getters.values()  # without what the reader counts
            items: Any = [row for row in rows if not all(is_blank(get(row)) for get in found_by)]
            compiler = self.compiler
        else:
            items, compiler = self._each(rows[0]), Compiler(None)
        each = self._each_spec
        list_path = each.paths[0] if isinstance(each, Computed) else each
        products = order["products"]
        for place, product in enumerate(products if isinstance(products, list) else ()):
            prefix = "" if self._each is None else f"{list_path}[{place}]."
            for field in _set_fields(product):
                spec = self._product_specs[field]
                name = f"products[{place}].{field}"
                found[name] = describe_spec(spec, compiler, items[place], prefix)
        return found


def _make_product(fields: dict[str, Any]) -> Product | dict[str, Any]:
    """The product that some fields are; the fields, if there are none, or one has a fault."""
    try:
        return Product.from_mapping(fields) if fields else fields
    except InvalidOrderError:
        return fields  # which the order will name


def _set_fields(product: Any) -> Collection[str]:
    """The fields that a product has."""
    if isinstance(product, Product):
        return [name for name in PRODUCT_FIELDS if getattr(product, name) is not None]
    return product if isinstance(product, dict) else ()


def _same(contact: Any, other: Any) -> bool:
    return str(contact).strip().casefold() == str(other).strip().casefold()


_OWN_NAMES: Mapping[str, Any] = {
    **{name: name for name in ORDER_FIELDS},
    "products": {name: name for name in PRODUCT_FIELDS},
}
_TEXT_NUMBER = re.compile(
    rf"(?P<path>products\[(?P<place>[0-9]+)\]\.(?P<field>{'|'.join(_NUMBERS)}))"
    r": expected a number, got text"
).fullmatch

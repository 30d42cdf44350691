"""Own columns: which key or column of the input becomes which field of an order.

The language of mappings is described in `everlytic_async.sources`. Here a mapping is checked
(`normal`), read from the command's texts (`parse_mapping`) and applied (`Mapped`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from string import Formatter
from typing import Any
from urllib.parse import quote

import attrs

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.orders import Order, Product
from everlytic_async.sources._records import Record

__all__ = ["ORDER_FIELDS", "PRODUCT_FIELDS", "Mapped", "normal", "number_of", "parse_mapping"]

ORDER_FIELDS = tuple(field.name for field in attrs.fields(Order))
PRODUCT_FIELDS = tuple(field.name for field in attrs.fields(Product))

_OTHERS = ("group_by", "date", "each")
_NUMBERS = frozenset(
    {"product_price", "product_quantity", "product_line_total", "product_special_price"}
)
_CONVERTED = _NUMBERS | {"workflow_id", "product_gallery"}
_CONTACTS = ("contact_email", "contact_unique_id")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_NUMBER_CHARS = 1_000
_IDS = ("contact_email", "contact_unique_id", "order_id")
# What spreadsheets write in place of 1234567890123.
_SPOILT = re.compile(r"\s*[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}\s*")
_SPOILT_FAULT = (
    "is a number that a spreadsheet shortened, such as 1.23457E+12, and its digits are lost: "
    "export it again, and don't save it from a spreadsheet, or format that column as text first"
)
_WORKFLOW = re.compile(r"\s*[0-9]{1,19}\s*", re.ASCII)
_PLACE = re.compile(r"[0-9]{1,9}")
_URL = re.compile(r"https?://", re.IGNORECASE | re.ASCII)
_FORMS = ("constant", "path", "template", "first")

# Takes the order or product as it stands, and its fields as far as they are known.
_Getter = Callable[[Record, Mapping[str, Any]], Any]


# ------------------------------------------------------------------------------------ as given


def parse_mapping(pairs: Iterable[str]) -> dict[str, Any]:
    """Read a mapping from ``FIELD=WHERE`` texts, as the command's ``--map`` takes them.

    ``FIELD=PATH``, ``FIELD=PATH|PATH`` (the first that is set), ``FIELD=TEMPLATE``, ``FIELD:=JSON``
    (a constant), ``FIELD=`` (not set). ``products=PATH`` leads to the list of products.

    >>> parse_mapping(["contact_email=billing.email|email", "workflow_id:=17"])
    {'contact_email': ['billing.email', 'email'], 'workflow_id': 17}

    Raises:
        ConfigurationError: when one is none of these, or its field is none, or is given twice.
    """
    mapping: dict[str, Any] = {}
    for pair in pairs:
        field, equals, where = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"{pair!r}: expected FIELD=PATH, such as order_id=number")
        is_constant = field.endswith(":")
        field = field.removesuffix(":").strip()
        field = field.removeprefix("products.") if field != "products.each" else "products"
        if field in mapping:
            raise ConfigurationError(f"{field}: mapped more than once")
        mapping[field] = _constant(field, where) if is_constant else _where(where)
    normal(mapping)  # complains
    return mapping


def _constant(field: str, text: str) -> Any:
    decoder = StrictDecoder()
    try:
        value = decoder.decode(text)
        if decoder.found_non_finite:
            raise JsonFaultError("holds NaN or an infinity")  # noqa: TRY301 - as other faults
    except JsonFaultError:
        raise ConfigurationError(
            f'{field}: after := comes JSON, such as 17 or "text" in its quotes'
        ) from None
    return {"constant": value} if isinstance(value, str | list | dict) else value


def _where(text: str) -> Any:
    if not text.strip():
        return None
    if "{" in text:
        return text
    paths = [path.strip() for path in text.split("|")]
    return paths if len(paths) > 1 else paths[0]


def normal(mapping: Mapping[str, Any] | None) -> dict[str, Any]:
    """A mapping as given, with all that is a product's in the table ``products``.

    Raises:
        ConfigurationError: when a key is no field, or what it is mapped to has no meaning.
    """
    found: dict[str, Any] = {}
    products: dict[str, Any] = {}
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ConfigurationError("mapping: expected a table of fields")
    for field, spec in (mapping or {}).items():
        if field == "products":
            given = dict(spec) if isinstance(spec, Mapping) else {"each": spec}
            for inner in given:
                _check(inner, ("each", *PRODUCT_FIELDS), "products.")
            products = {**products, **given}
        elif field in PRODUCT_FIELDS:
            products[field] = spec
        else:
            _check(field, (*ORDER_FIELDS, *_OTHERS, *PRODUCT_FIELDS), "")
            found[field] = spec
    for field, spec in (*found.items(), *products.items()):
        if spec is not None and field != "each":
            _getter(field, spec)  # complains
    if products:
        found["products"] = products
    return found


def _check(field: object, known: Collection[str], where: str) -> None:
    if field in known:
        return
    close = difflib.get_close_matches(str(field), known, n=1)
    hint = f": did you mean {close[0]}?" if close else f": the known ones are {', '.join(known)}"
    raise ConfigurationError(f"mapping: {where}{field} is no field{hint}")


# ---------------------------------------------------------------------------------- as applied


class Mapped:
    """Makes what stands in an input into the mapping of an order.

    Args:
        given: The caller's mapping, as `normal` leaves it.
        base: What the fields that it does not name are taken from, in the same form; None for the
            keys or columns that are called as the fields are.
        columns: The columns of the input; of JSON, the keys of its first order.
        all_columns: Whether there are no others, so that a path to another is a mistake.

    Raises:
        ConfigurationError: when it can't be applied.

    Attributes:
        in_rows: Whether each row is one product, so that an order may have several rows.
        never_set: The fields of the caller's mapping that no order has had so far.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        base: Mapping[str, Any] | None,
        columns: Sequence[str],
        *,
        all_columns: bool,
    ) -> None:
        order = {**_base(base, ORDER_FIELDS), **given}
        products = {
            **_base(None if base is None else base["products"], PRODUCT_FIELDS),
            **given.get("products", {}),
        }
        if base is None and "products" in columns:
            products.setdefault("each", "products")
        each = products.pop("each", None)
        self.in_rows = each is None
        if all_columns:
            self._check_columns(given, given.get("products", {}), columns)
        self._each = None if each is None else _getter("products", each)
        order.pop("products", None)
        order.pop("each", None)
        date = order.pop("date", None)
        group_by = order.pop("group_by", order.get("order_id"))
        self._date = None if date is None else _getter("date", date)
        self._key = None if group_by is None or not self.in_rows else _getter("group_by", group_by)
        self._order = _getters(order)
        self._products = _getters(products)
        self.never_set = {
            field
            for field, spec in (*given.items(), *given.get("products", {}).items())
            if spec is not None
            and field in (*ORDER_FIELDS, *PRODUCT_FIELDS)
            and field != "products"
        }
        if all(field not in _CONTACTS for field, _get in self._order):
            raise ConfigurationError("the mapping leaves an order without a contact")
        if all_columns and base is None and not self._finds_a_contact(order, columns):
            raise ConfigurationError(
                f"none of its {len(columns)} columns is contact_email or contact_unique_id: say "
                "which one is, such as with --map contact_email=Email"
            )

    @staticmethod
    def _finds_a_contact(order: Mapping[str, Any], columns: Sequence[str]) -> bool:
        specs = [order[field] for field in _CONTACTS if order.get(field) is not None]
        return any(
            not isinstance(spec, str) or spec in columns or "{" in spec for spec in specs
        ) or (any(isinstance(spec, str) and spec.partition(".")[0] in columns for spec in specs))

    def _check_columns(
        self, given: Mapping[str, Any], products: Mapping[str, Any], columns: Sequence[str]
    ) -> None:
        inner = {} if not self.in_rows else products
        for field, spec in (*given.items(), *inner.items()):
            for path in _paths(spec) if field not in ("products", "each") else ():
                if path not in columns and path.partition(".")[0] not in columns:
                    # A file without a header has values in its place.
                    names = [name for name in columns if "@" not in name]
                    close = difflib.get_close_matches(path, names, n=1)
                    hint = f": did you mean {close[0]!r}?" if close else ""
                    raise ConfigurationError(f"{field}: there is no column {path!r}{hint}")

    def key(self, row: Record) -> Any:
        """What the rows of one order share; None where a row has none."""
        return None if self._key is None else _set("order_id", self._key(row, {}))

    @property
    def is_grouping(self) -> bool:
        """Whether rows share anything."""
        return self._key is not None

    def has_contact(self, row: Record) -> bool:
        """Whether a row says whose it is."""
        return any(
            _set(field, get(row, {})) is not None
            for field, get in self._order
            if field in _CONTACTS
        )

    def date(self, record: Record) -> Any:
        """The time of an order, as it stands there."""
        return None if self._date is None else self._date(record, {})

    @property
    def has_date(self) -> bool:
        """Whether it is known where the time stands."""
        return self._date is not None

    def order(self, rows: Sequence[Record]) -> tuple[dict[str, Any], list[str]]:
        """The mapping of an order, and the faults that are seen only before it is one.

        Args:
            rows: The one record of an order; or all its rows, of which the first that has a value
                for a field is the one that counts.
        """
        order: dict[str, Any] = {}
        faults: list[str] = []
        for field, get in self._order:
            for row in rows:
                value = _set(field, get(row, order))
                if value is None:
                    continue
                if field not in order:
                    order[field] = value
                elif field not in _CONTACTS:
                    break
                elif str(value).casefold() != str(order[field]).casefold():
                    faults.append(f"{field}: the rows of the order do not agree on it")
                    break
        for field in _IDS:
            value = order.get(field)
            if isinstance(value, str) and ("E+" in value or "'" in value):
                faults += _spreadsheet_faults(field, value)
        if self._each is None:
            products: Any = [product for row in rows if (product := self._product(row))]
        else:
            products = self._each(rows[0], {})
            if isinstance(products, list | tuple):
                products = [
                    self._product(item) if isinstance(item, dict) else item for item in products
                ]
        order["products"] = products
        if self.never_set:
            self.never_set.difference_update(order)
        return order, faults

    def _product(self, record: Record) -> dict[str, Any]:
        product: dict[str, Any] = {}
        for field, get in self._products:
            value = _set(field, get(record, product))
            if value is not None:
                product[field] = value
        if self.never_set:
            self.never_set.difference_update(product)
        return product


def _spreadsheet_faults(field: str, value: str) -> list[str]:
    """What a spreadsheet did to an identifier."""
    if field != "contact_email":
        return [f"{field}: {_SPOILT_FAULT}"] if _SPOILT.fullmatch(value) else []
    # It is allowed in an address, and at its beginning nearly always something else.
    is_marked = value.lstrip().startswith("'")
    return [f"{field}: begins with ', as spreadsheets mark a text: remove it"] if is_marked else []


def _base(base: Mapping[str, Any] | None, fields: Sequence[str]) -> Mapping[str, Any]:
    return base if base is not None else {name: name for name in fields if name != "products"}


def _set(field: str, value: Any) -> Any:
    """A value as its field needs it; None where it is not set."""
    if isinstance(value, str):
        if not value or value.isspace():
            return None
        if field not in _CONVERTED:
            return value
        if field in _NUMBERS:
            return number_of(value)
        if field == "workflow_id":
            return int(value) if _WORKFLOW.fullmatch(value) else value
        if field == "product_gallery":
            return value.split()
    elif field == "product_gallery" and isinstance(value, list):
        return [url for url in value if url is not None and url != ""] or None
    return value


def number_of(value: Any) -> Any:
    """A number that stands there as text, with all its digits; anything else as it is."""
    if isinstance(value, str) and len(value) <= _MAX_NUMBER_CHARS:
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    return value


# ------------------------------------------------------------------------------- where it is


def _getters(specs: Mapping[str, Any]) -> tuple[tuple[str, _Getter], ...]:
    # Templates last: they may use the others.
    fields = sorted(
        (field for field in specs if specs[field] is not None),
        key=lambda field: bool(_templates(specs[field])),
    )
    return tuple((field, _getter(field, specs[field])) for field in fields)


def _form(spec: Any) -> tuple[str, Any]:
    """Which form of `_FORMS` a specification has, and what it says."""
    match spec:
        case str():
            return ("template" if "{" in spec else "path"), spec
        case list() | tuple():
            return "first", spec
        case Mapping():
            found = [*spec.items()]
            if len(found) == 1 and found[0][0] in _FORMS:
                return found[0]
            raise ConfigurationError(f"a table in a mapping has one key of {', '.join(_FORMS)}")
        case _ if callable(spec):
            return "callable", spec
        case _:
            return "constant", spec


def _paths(spec: Any) -> list[str]:
    form, what = _form(spec)
    if form == "first":
        return [path for inner in what for path in _paths(inner)] if len(what) == 1 else []
    return [what] if form == "path" and isinstance(what, str) else []


def _templates(spec: Any) -> bool:
    form, what = _form(spec)
    return form == "template" or (form == "first" and any(map(_templates, what)))


def _getter(field: str, spec: Any) -> _Getter:
    form, what = _form(spec)
    if form == "constant":
        return lambda _record, _known: what
    if form == "callable":
        return lambda record, _known: what(record)
    if form == "first" and isinstance(what, list | tuple) and what:
        getters = [_getter(field, inner) for inner in what]
        return lambda record, known: next(
            (
                value
                for get in getters
                if (value := get(record, known)) is not None
                and not (isinstance(value, str) and not value.strip())
            ),
            None,
        )
    if not isinstance(what, str) or not what.strip():
        raise ConfigurationError(f"{field}: expected a path, such as billing.email")
    return _template(field, what) if form == "template" else _path(what)


def _path(path: str) -> _Getter:
    parts = path.split(".")
    if len(parts) == 1:
        return lambda record, _known: record.get(path)

    def get(record: Record, _known: Mapping[str, Any]) -> Any:
        if path in record:  # a column may have dots in its name
            return record[path]
        value: Any = record
        for part in parts:
            value = _step(value, part)
        return value

    return get


def _step(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if not isinstance(value, list):
        return None
    if _PLACE.fullmatch(part):
        place = int(part)
        return value[place] if place < len(value) else None
    return [found for item in value if (found := _step(item, part)) is not None] or None


def _template(field: str, template: str) -> _Getter:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"{field}: the template is broken: {error}") from None
    if any(name == "" or spec or convert for _text, name, spec, convert in parts):
        raise ConfigurationError(f"{field}: in braces of a template stands a path, such as {{id}}")
    places = [(text, name, None if name is None else _path(name)) for text, name, *_ in parts]
    is_url = _URL.match(template) is not None

    def get(record: Record, known: Mapping[str, Any]) -> Any:
        pieces = []
        for text, name, find in places:
            pieces.append(text)
            if name is None or find is None:
                continue
            value = known[name] if name in known else find(record, known)
            if value is None or isinstance(value, bool | dict | list) or not str(value).strip():
                return None
            pieces.append(quote(str(value), safe="") if is_url else str(value))
        return "".join(pieces)

    return get

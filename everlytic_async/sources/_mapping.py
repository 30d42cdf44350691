"""The language of mappings: which key or column of the input becomes which field of an order.

It is described in `everlytic_async.sources`. Here a mapping is checked (`normalize_mapping`), read
from the command's texts (`parse_mapping`), and each of its specifications is compiled to a function
of a record (`Compiler`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from string import Formatter
from typing import Any
from urllib.parse import quote

import attrs
import orjson

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.orders import Order, Product
from everlytic_async.sources._notation import Notation, to_decimal

ORDER_FIELDS = tuple(field.name for field in attrs.fields(Order))
PRODUCT_FIELDS = tuple(field.name for field in attrs.fields(Product))

#: Takes a record and returns a value of it; None if it has none.
Getter = Callable[[Any], Any]

_NOT_FIELDS = ("group_by", "date", "each")
_KINDS = ("constant", "path", "template", "first")
_PLACE = re.compile(r"[0-9]{1,9}")
_URL = re.compile(r"https?://", re.IGNORECASE | re.ASCII)


@attrs.frozen
class Computed:
    """A specification of presets: a function of the values at some paths.

    A path that ends with ``*`` stands for all columns that begin so; its value is a list.
    """

    function: Callable[..., Any]
    paths: tuple[str, ...]
    takes_numbers: bool = False


def computed(function: Callable[..., Any], *paths: str) -> Computed:
    """A value that a function computes of those at the paths, None for each that is missing."""
    return Computed(function, paths)


def numbers(function: Callable[..., Any], *paths: str) -> Computed:
    """The same of numbers; the value is None if one of them is set and is not a number."""
    return Computed(function, paths, takes_numbers=True)


# ------------------------------------------------------------------------------------- checking


def parse_mapping(pairs: Iterable[str]) -> dict[str, Any]:
    """Read a mapping from ``FIELD=WHERE`` texts, as the command's ``--map`` takes them.

    ``FIELD=PATH``, ``FIELD=PATH|PATH`` (the first that is set), ``FIELD=TEMPLATE``, ``FIELD:=JSON``
    (a constant), ``FIELD=`` (not set). ``products=PATH`` leads to the list of products.

    >>> parse_mapping(["contact_email=billing.email|email", "workflow_id:=17"])
    {'contact_email': ['billing.email', 'email'], 'workflow_id': 17}

    Raises:
        ConfigurationError: when one has another form, or its field is unknown or mapped twice.
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
        mapping[field] = _parse_constant(field, where) if is_constant else _parse_spec(where)
    normalize_mapping(mapping)  # raises
    return mapping


def _parse_constant(field: str, text: str) -> Any:
    decoder = StrictDecoder()
    try:
        value = decoder.decode(text)
    except JsonFaultError:
        value = None
    if decoder.found_non_finite or (value is None and text.strip() != "null"):
        raise ConfigurationError(
            f'{field}: after := comes JSON, such as 17 or "text" in its quotes'
        )
    return {"constant": value} if isinstance(value, str | list | dict) else value


def _parse_spec(text: str) -> Any:
    if not text.strip():
        return None
    if "{" in text:
        return text
    paths = [path.strip() for path in text.split("|")]
    return paths if len(paths) > 1 else paths[0]


def normalize_mapping(mapping: Mapping[str, Any] | None) -> dict[str, Any]:
    """The mapping with all that is a product's in the table ``products``.

    Raises:
        ConfigurationError: when a key is not a field, or a specification has no meaning.
    """
    order: dict[str, Any] = {}
    products: dict[str, Any] = {}
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ConfigurationError("mapping: expected a table of fields")
    for field, spec in (mapping or {}).items():
        if field == "products":
            table = dict(spec) if isinstance(spec, Mapping) else {"each": spec}
            for inner in table:
                _check_field(inner, ("each", *PRODUCT_FIELDS), "products.")
            products |= table
        elif field in PRODUCT_FIELDS:
            products[field] = spec
        else:
            _check_field(field, (*ORDER_FIELDS, *_NOT_FIELDS, *PRODUCT_FIELDS), "")
            order[field] = spec
    compiler = Compiler(None)
    for field, spec in (*order.items(), *products.items()):
        if spec is not None and field != "each":
            compiler.getter(field, spec)  # raises
    return order | {"products": products} if products else order


def _check_field(field: object, known: Collection[str], prefix: str) -> None:
    if field not in known:
        near = nearest(str(field), known)
        hint = f"did you mean {near}?" if near else f"the known ones are {', '.join(known)}"
        raise ConfigurationError(f"mapping: {prefix}{field} is not a field: {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearly the same; None if there is none."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def mapping_paths(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Each path in a mapping: its field, the path, and whether the field has no other source."""
    for field, spec in mapping.items():
        if field == "products":
            yield from mapping_paths(spec if isinstance(spec, Mapping) else {"each": spec})
        elif spec is not None:
            yield from ((field, path, alone) for path, alone in _paths(spec))


def mapping_heads(mapping: Mapping[str, Any]) -> frozenset[str]:
    """The keys that the paths of a mapping start with, within an order."""
    paths = mapping_paths(mapping)
    return frozenset(path.partition(".")[0] for field, path, _ in paths if field != "each")


def _paths(spec: Any) -> Iterator[tuple[str, bool]]:
    kind, what = _spec_kind(spec)
    if kind == "path":
        yield str(what), True
    elif kind == "template":
        yield from ((name, False) for _text, name, *_ in Formatter().parse(what) if name)
    elif kind == "first":
        for inner in what:
            yield from ((path, alone and len(what) == 1) for path, alone in _paths(inner))


# ------------------------------------------------------------------------------------ compiling


def _spec_kind(spec: Any) -> tuple[str, Any]:
    """Which of `_KINDS` a specification is, and what it says."""
    match spec:
        case str():
            return ("template" if "{" in spec else "path"), spec
        case list() | tuple():
            return "first", spec
        case Computed():
            return "computed", spec
        case Mapping():
            found = [*spec.items()]
            if len(found) == 1 and found[0][0] in _KINDS:
                return found[0]
            raise ConfigurationError(f"a table in a mapping has one key of {', '.join(_KINDS)}")
        case _ if callable(spec):
            return "callable", spec
        case _:
            return "constant", spec


def is_template(spec: Any) -> bool:
    """Whether a template is in a specification."""
    kind, what = _spec_kind(spec)
    return kind == "template" or (kind == "first" and any(map(is_template, what)))


def describe_spec(spec: Any, compiler: Compiler, record: Any, prefix: str = "") -> str:
    """Where a specification takes its value from in a record, in words for people."""
    kind, what = _spec_kind(spec)
    match kind:
        case "first":
            found = (spec for spec in what if not is_blank(compiler.getter("", spec)(record)))
            return describe_spec(next(found, what[0]), compiler, record, prefix)
        case "computed":
            values = zip(what.paths, compiler.values(what.paths)(record), strict=True)
            paths = [path for path, value in values if not is_blank(value)] or what.paths
            return f"computed from {', '.join(prefix + path for path in paths)}"
        case "callable":
            return "a function of the mapping"
        case "constant":
            return "a constant of the mapping"
        case "path":
            return f"{prefix}{what}"
        case _:
            return str(what)


def is_blank(value: Any) -> bool:
    """Whether a value counts as not set."""
    return value is None or (isinstance(value, str) and not value.strip())


def first_set(get: Getter, records: Iterable[Any]) -> Any:
    """The value that the first of some records has that sets it; None if none does."""
    for record in records:
        if not is_blank(value := get(record)):
            return value
    return None


class Unreadable(str):
    """A text that should be a number, in the place of what would be computed of it."""

    __slots__ = ()


class Compiler:
    """Compiles specifications to functions of records.

    Args:
        columns: The columns of a table, whose records are rows; None for JSON, whose records are
            dicts. A column that is named more than once has no value.
        notation: How numbers are written.

    Attributes:
        used: The columns, or keys of JSON, that were compiled so far. A function of the caller's
            may use any.
        calls_functions: Whether there is such a function.
    """

    def __init__(
        self,
        columns: Sequence[str] | None,
        notation: Notation | None = None,
    ) -> None:
        self._columns = columns
        self._notation = notation or Notation()
        names = columns or ()
        self._places = {name: place for place, name in enumerate(names) if name}
        self.used: set[str] = set()
        self.calls_functions = False

    def getter(self, field: str, spec: Any, fields: Mapping[str, Getter] | None = None) -> Getter:
        """The function that returns what a specification says of a record.

        A template may use fields, besides paths.

        Raises:
            ConfigurationError: when the specification has no meaning.
        """
        kind, what = _spec_kind(spec)
        if kind == "constant":
            return lambda _record: what
        if kind == "callable":
            return self._call_with_record(what)
        if kind == "computed":
            return self._computed(what)
        if kind == "first" and isinstance(what, list | tuple) and what:
            getters = [self.getter(field, inner, fields) for inner in what]
            return lambda record: next(
                (value for get in getters if not is_blank(value := get(record))), None
            )
        if not isinstance(what, str) or not what.strip():
            raise ConfigurationError(f"{field}: expected a path, such as billing.email")
        return self._template(field, what, fields or {}) if kind == "template" else self.path(what)

    def path(self, path: str) -> Getter:
        """The function that returns what is at a path; a column may have dots in its name."""
        head, *rest = path.split(".")
        if self._columns is not None:
            name, rest = (path, []) if path in self._places else (head, rest)
            self.used.add(name)
            if name not in self._places:
                return lambda _row: None
            cell = itemgetter(self._places[name])
            return (lambda row: descend(cell(row), rest)) if rest else cell
        self.used |= {head, path}
        if not rest:
            return lambda record: record.get(path)

        def get(record: Mapping[str, Any]) -> Any:
            if path in record:
                return record[path]
            value = record.get(head)
            for key in rest:
                value = value.get(key) if value.__class__ is dict else _step(value, key)
            return value

        return get

    def is_direct(self, spec: Any) -> bool:
        """Whether a specification is the name of a column, or a key, and no longer path."""
        if not isinstance(spec, str) or _spec_kind(spec)[0] != "path":
            return False
        return "." not in spec if self._columns is None else spec in self._places

    def values(self, paths: Sequence[str]) -> Callable[[Any], Iterable[Any]]:
        """The function that returns what is at each of the paths."""
        getters = [self._paths(path) for path in paths]
        if all(map(self.is_direct, paths)):  # fast
            if self._columns is None:
                return lambda record: map(record.get, paths)
            if len(paths) > 1:
                return itemgetter(*[self._places[path] for path in paths])
        return lambda record: [get(record) for get in getters]

    def values_used(
        self, *, holds_text: bool = False, is_json: bool = False
    ) -> Callable[[Any], Any] | None:
        """The function that returns all that is used of a record, in a form that can be compared.

        Args:
            holds_text: Whether all of it are texts; else it is written as one, for equal numbers
                may have other digits.
            is_json: Whether the records were read as JSON, without NaN.

        Returns:
            The function; None if a function of the caller's may use anything.
        """
        used = sorted(self.used if self._columns is None else self.used & self._places.keys())
        if self.calls_functions or not used:
            return None
        if self._columns is None:
            write = _write_json if is_json else repr
            return lambda record: write([*map(record.get, used)])
        places = [self._places[name] for name in used]
        cells = itemgetter(*places, *places[:1])  # two at least, so that it returns a tuple
        return cells if holds_text else lambda row: repr(cells(row))

    def _computed(self, spec: Computed) -> Getter:
        function, values = spec.function, self.values(spec.paths)
        if not spec.takes_numbers and len(spec.paths) == 1:  # fast
            get = self._paths(spec.paths[0])
            return lambda record: function(get(record))
        if not spec.takes_numbers:
            return lambda record: function(*values(record))
        parse = self._notation.number_parser()

        def compute(*found: Any) -> Any:
            numbers = []
            for value in found:
                number: Any = parse(value) if value.__class__ is str else to_decimal(value)
                if is_blank(value):
                    number = None
                elif number.__class__ is str:
                    return Unreadable(number)
                elif number is None:
                    return None
                numbers.append(number)
            return function(*numbers)

        return lambda record: compute(*values(record))

    def _paths(self, path: str) -> Getter:
        if not path.endswith("*"):
            return self.path(path)
        start = path.removesuffix("*")
        names = [name for name in self._columns or () if name.startswith(start)]
        getters = [self.path(name) for name in names]
        return lambda record: [get(record) for get in getters]

    def _call_with_record(self, function: Callable[[Any], Any]) -> Getter:
        columns = self._columns
        self.calls_functions = True
        if columns is None:
            return function
        self.used.update(columns)
        return lambda row: function(dict(zip(columns, row, strict=True)))

    def _template(self, field: str, template: str, fields: Mapping[str, Getter]) -> Getter:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigurationError(f"{field}: the template is broken: {error}") from None
        if any(name == "" or spec or convert for _text, name, spec, convert in parts):
            raise ConfigurationError(f"{field}: braces in a template hold a path, such as {{id}}")
        pieces: list[tuple[str, Getter | None]] = []
        for text, name, *_ in parts:
            if name is None:
                pieces.append((text, None))
            elif name in fields:
                pieces.append((text, _or_else(fields[name], self.path(name))))
            else:
                pieces.append((text, self.path(name)))
        is_url = _URL.match(template) is not None

        def fill(record: Any) -> str | None:
            filled = []
            for text, get in pieces:
                filled.append(text)
                if get is not None:
                    value = get(record)
                    if is_blank(value) or isinstance(value, bool | dict | list):
                        return None
                    filled.append(quote(str(value), safe="") if is_url else str(value))
            return "".join(filled)

        return fill


def _write_json(values: list[Any]) -> bytes | str:
    """What a JSON reader found, with all the digits of its numbers."""
    try:
        return orjson.dumps(values, _write_number)
    except orjson.JSONEncodeError:  # a huge integer, or a lone surrogate
        return repr(values)


def _write_number(number: Any) -> orjson.Fragment:
    return orjson.Fragment(str(number))


def _or_else(get: Getter, otherwise: Getter) -> Getter:
    return lambda record: otherwise(record) if (value := get(record)) is None else value


def descend(value: Any, keys: Sequence[str]) -> Any:
    """What is below a value of JSON, at keys one below another; None if there is nothing."""
    for key in keys:
        value = value.get(key) if value.__class__ is dict else _step(value, key)
    return value


def _step(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if not isinstance(value, list):
        return None
    if _PLACE.fullmatch(part):
        place = int(part)
        return value[place] if place < len(value) else None
    return [found for item in value if (found := _step(item, part)) is not None] or None

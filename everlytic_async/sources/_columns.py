"""What to say of columns and keys: which there are, which is meant, and which is missing."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._mapping import ORDER_FIELDS, PRODUCT_FIELDS, mapping_paths, nearest
from everlytic_async.sources._notation import to_decimal
from everlytic_async.sources._records import Layout
from everlytic_async.sources._synonyms import match_fields

_T = TypeVar("_T")
CONTACTS = ("contact_email", "contact_unique_id")
#: How many records are looked at to find a path, and rows to find the header below a title.
MAX_AHEAD = 20
_MAX_NAMES = 12
_MAX_CHARS = 40
_MAX_HEADER = 1_000  # columns, where a header is looked for
_NEXT_STEPS = (
    '`everlytic-async check --suggest` proposes a mapping for it, and the how-to "Send a file '
    'with your own columns" explains mappings'
)


def _is_name(name: str) -> bool:
    """Whether it looks like the name of a column; a file without a header has values there."""
    return (
        0 < len(name) <= _MAX_CHARS
        and "@" not in name
        and any(char.isalpha() for char in name)
        and not any(unicodedata.category(char).startswith("C") for char in name)
    )


def _is_header(names: Sequence[str]) -> bool:
    return not any("@" in name or to_decimal(name) is not None for name in names)


def show_names(names: Iterable[str]) -> str:
    """The names in quotes, of columns or keys; what looks like a value is not shown."""
    named = [name for name in names if name]
    if not _is_header(named):
        return "not shown, because they seem to be values"
    known = [name for name in dict.fromkeys(named) if _is_name(name)]
    shown = ", ".join(f"'{name}'" for name in known[:_MAX_NAMES])
    rest = len(named) - len(known[:_MAX_NAMES])
    return f"{shown} and {rest} more" if rest and shown else shown or "(none that can be shown)"


def no_such_name(field: str, path: str, names: Sequence[str], *, what: str) -> str:
    """That there is no such column, key or sheet, the nearest one, and those that there are."""
    message = f"{field}: there is no {what} '{path}'"
    usable = [name for name in names if _is_name(name)] if _is_header(names) else []
    if near := nearest(path, usable):
        message += f": did you mean '{near}'?"
    else:
        message += "."
    return f"{message} The {what}s are {show_names(names)}"


def check_paths(paths: Iterable[tuple[str, str]], layout: Layout) -> None:
    """Refuse paths that lead nowhere; each comes with what it is for.

    Raises:
        ConfigurationError: naming the first.
    """
    what = "column" if layout.is_table else "key"
    for field, path in paths:
        if not {path, path.partition(".")[0]} & {*layout.names}:
            raise ConfigurationError(no_such_name(field, path, layout.names, what=what))


def _leads_nowhere(path: str, records: Sequence[Any]) -> tuple[str, Sequence[str]] | None:
    """The key of a path of JSON that none of the records has, and those that there are.

    A null, and what is below a list, may be anything.
    """
    if any(isinstance(record, dict) and path in record for record in records):
        return None
    found = list(records)
    for key in path.split("."):
        if not any(isinstance(value, dict) for value in found) and None in found:
            return None
        if any(isinstance(value, list) for value in found):
            return None
        dicts = [value for value in found if isinstance(value, dict)]
        found = [value[key] for value in dicts if key in value]
        if not found:
            return key, list(dict.fromkeys(name for value in dicts for name in value))
    return None


def check_all_are_fields(layout: Layout) -> None:
    """Without a mapping, a column that is not a field is a mistake; and so are all keys.

    Raises:
        ConfigurationError: saying what to do.
    """
    names, is_table = layout.names, layout.is_table
    fields = (*ORDER_FIELDS, *PRODUCT_FIELDS)
    others = [name for name in names if name and name not in fields]
    if not others or (not is_table and len(others) < len(names)):
        return
    examples = [f"--map '{field}={name}'" for field, name in match_fields(names).items()]
    example = " ".join(examples[:3]) or "--map contact_email=Email"
    if is_table:
        which = f"{len(others)} of its {len(names)} columns are not fields of an order"
        say = "say which column is which field"
    else:
        which = "none of the keys of its first order is a field of an order"
        say = "say which key is which field"
    raise ConfigurationError(
        f"{which}, and it is no known shop's export: {say}, such as with {example}; the others are "
        f"then ignored. The {'columns' if is_table else 'keys'} are {show_names(names)}. The "
        f"fields are {', '.join(fields)}. {_NEXT_STEPS}"
    )


def split_header(
    rows: Iterator[_T], count_cells: Callable[[_T], int]
) -> tuple[_T | None, list[_T]]:
    """The header of a table, and the rows below it that were read to find it.

    It is the first row with several cells; if none of the first rows has, the first that has one.
    """
    ahead: list[_T] = []
    for row in islice(rows, MAX_AHEAD + 1):
        if (count := count_cells(row)) > 1:
            return row, []
        if count or ahead:
            ahead.append(row)
    return (ahead[0], ahead[1:]) if ahead else (None, [])


def find_header(
    rows: Iterable[tuple[int, Sequence[Any]]], columns: Sequence[str], mapping: Mapping[str, Any]
) -> int | None:
    """The number of the row that looks more like the header than what was taken for it."""
    paths = {path for _field, path, _alone in mapping_paths(mapping)}

    def known(names: Sequence[str]) -> int:
        return len({*match_fields(names).values()} | (paths & {*names}))

    for number, cells in rows:
        some = cells[:_MAX_HEADER]
        names = [str(cell).strip() for cell in some if cell is not None and str(cell).strip()]
        if _is_header(names) and known(names) > max(1, known(columns[:_MAX_HEADER])):
            return number
    return None


def check_repeated(columns: Sequence[str], used: set[str]) -> None:
    """Refuse columns that are there more than once, if one of them is used."""
    counts = Counter(columns)
    if names := sorted(name for name in counts if name and counts[name] > 1 and name in used):
        raise ConfigurationError(
            f"its header has more than one column {show_names(names)}, and the orders need it: "
            "rename or remove those that are not meant"
        )


def check_contact(specs: Iterable[Any], names: Sequence[str]) -> None:
    """Refuse a table none of whose columns is a contact, where nothing else could be.

    Raises:
        ConfigurationError: saying which columns there are.
    """
    found = [spec for spec in specs if spec is not None]
    paths = [spec for spec in found if isinstance(spec, str) and "{" not in spec]
    if len(paths) == len(found) and not any(
        {path, path.partition(".")[0]} & {*names} for path in paths
    ):
        example = match_fields(names).get("contact_email", "Email")
        raise ConfigurationError(
            f"none of its {len(names)} columns is contact_email or contact_unique_id: say which "
            f"one is, such as with --map 'contact_email={example}'. The columns are "
            f"{show_names(names)}. {_NEXT_STEPS}"
        )


def _only_sources(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each field that comes from one path, without an alternative, and that path."""
    return [
        ("products" if field == "each" else field, path)
        for field, path, alone in mapping_paths(mapping)
        if alone
    ]


def check_columns(mapping: Mapping[str, Any], layout: Layout, *, has_list: bool) -> None:
    """Refuse a column that is the only source of a field, and is not there.

    An order of JSON may lack any key; but the first one has that of ``group_by``: a wrong one would
    tear orders apart.
    """
    fields = mapping.keys() - {"each"} if layout.is_table else {"group_by"}
    own = {field: spec for field, spec in mapping.items() if field in fields}
    if has_list and "products" in own:  # the rest is looked for in the list
        own["products"] = own["products"].get("each")
    check_paths(_only_sources(own), layout)


def check_identity(
    items: Iterator[tuple[int, _T]], mapping: Mapping[str, Any]
) -> Iterator[tuple[int, _T]]:
    """Refuse a path to the id, the contact or the products that none of the first orders has.

    Where one is wrong, all the orders go out under other names, or to nobody. An order of JSON may
    lack any key; no more of them are read ahead than it takes to find it.
    """
    contacts = [field for field in CONTACTS if mapping.get(field) is not None]
    fields = ("group_by", "order_id", *(contacts if len(contacts) == 1 else ()))
    own = {field: mapping[field] for field in fields if field in mapping}
    own["products"] = mapping.get("products", {}).get("each")
    ahead: list[tuple[int, _T]] = []
    for field, path in _only_sources(own):
        while True:
            found = _leads_nowhere(path, [item for _number, item in ahead])
            if found is None:
                break
            more = next(items, None) if len(ahead) < MAX_AHEAD else None
            if more is None:
                break
            ahead.append(more)
        if found is not None:
            key, names = found
            raise ConfigurationError(no_such_name(field, key, names, what="key"))
    return chain(ahead, items)

"""Reads the fields of an order, or of a product, of a record: the inner loop of a backfill."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from everlytic_async.sources._mapping import Compiler, Getter, is_template
from everlytic_async.sources._notation import Notation

__all__ = ["AMOUNTS", "NUMBERS", "Convert", "FieldReader", "converters_for"]

NUMBERS = ("product_price", "product_quantity", "product_line_total", "product_special_price")
AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")

_WORKFLOW = re.compile(r"\s*[0-9]{1,19}\s*", re.ASCII).fullmatch
Convert = Callable[[Any], Any]


def _parse_workflow(text: str) -> int | str:
    return int(text) if _WORKFLOW(text) else text


def _parse_gallery(value: str | list[Any]) -> list[Any] | None:
    if isinstance(value, str):
        return value.split()
    return [url for url in value if url is not None and url != ""] or None


def converters_for(notation: Notation) -> Mapping[str, Convert]:
    """What becomes of a text in a field that is not a text; in all the others it stays as it is."""
    numbers = NUMBERS if notation.is_plain else (*NUMBERS, *AMOUNTS)
    return {
        "workflow_id": _parse_workflow,
        "product_gallery": _parse_gallery,
        **dict.fromkeys(numbers, notation.number_parser()),
    }


class FieldReader:
    """Reads the fields that a mapping names.

    Args:
        compiler: Compiles paths of the records.
        specs: The specification of each field.
        converters: What becomes of a text in these fields.

    Raises:
        ConfigurationError: when a specification has no meaning.

    Attributes:
        getters: For each field the function that takes its value from a record.
    """

    def __init__(
        self, compiler: Compiler, specs: Mapping[str, Any], converters: Mapping[str, Convert]
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
        self._converters = tuple(map(converters.get, paths))
        self._holds_text = compiler.holds_text
        self._others = [
            (field, get, converters.get(field))
            for field, get in self.getters.items()
            if field not in paths
        ]

    def read(self, record: Any) -> dict[str, Any]:
        """The fields that are set in a record."""
        direct = zip(self._names, self._values(record), self._converters)  # noqa: B905 - fast
        if self._holds_text:
            found = {
                name: value if convert is None else convert(value)
                for name, value, convert in direct
                if value and not value.isspace()
            }
        else:
            found = {
                name: value if convert is None or value.__class__ is not str else convert(value)
                for name, value, convert in direct
                if value is not None
                and (value.__class__ is not str or (value and not value.isspace()))
            }
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

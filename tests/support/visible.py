"""What can be seen of what a client gives to its caller."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator

import attrs

from everlytic_async import EverlyticError, OrderResult, Receipt


def visible_texts(*values: object) -> Iterator[str]:
    """All texts in which something of these values may show: printed, logged, pickled, raised."""
    for value in values:
        yield repr(value)
        yield str(value)
        if isinstance(value, EverlyticError):
            yield repr(vars(value))
            yield from traceback.format_exception(value)
        if isinstance(value, EverlyticError | OrderResult | Receipt):
            yield pickle.dumps(value).decode("latin-1")
        if isinstance(value, OrderResult | Receipt):
            yield repr(attrs.asdict(value, recurse=False))
        if isinstance(value, Receipt):
            yield repr(value.body)
        if isinstance(value, OrderResult):
            yield from visible_texts(value.error, value.receipt)

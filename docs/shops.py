"""Writes the part of ``how-to/shop-exports.md`` that is about each shop.

The text is that of the shop's module, the tables are its presets. The page runs it with cog.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

from everlytic_async.sources._preset import Preset
from everlytic_async.sources._shops import PRESETS
from everlytic_async.sources._woocommerce import TRANSLATED_STATUSES

SHOPS = ("WooCommerce", "Shopify", "Magento", "Squarespace", "BigCommerce")
_LINK = re.compile(r"`([^`<]+) <([^>]+)>`__")
_TERM = re.compile(r"^\[(.*?)\]")


def page() -> str:
    """The sections of all shops."""
    lines = [line for shop in SHOPS for line in _section(shop)]
    return "\n".join([*lines, ""])


def _section(shop: str) -> Iterator[str]:
    yield from ("", f"## {shop}", "")
    name = shop.lower()
    doc = inspect.getdoc(import_module(f"everlytic_async.sources._{name}")) or ""
    yield from _definitions(doc.partition("\n\n")[2])
    yield from ("", "| format | read, by status | left out, by reason |", "|---|---|---|")
    rows: dict[str, list[str]] = {}
    for preset in PRESETS.values():
        if preset.name.startswith(name):
            reasons = (f"{each}: {_words(preset, each)}" for each in preset.reasons)
            left_out = "; ".join(reason.removesuffix(": ") for reason in reasons)
            row = f"{_words(preset, '')} | {left_out}"
            rows.setdefault(row, []).append(f"`{preset.name}`")
    for row, names in rows.items():
        yield f"| {', '.join(names)} | {row} |"


def _definitions(text: str) -> Iterator[str]:
    """A docstring as Markdown: the terms that it defines are links."""
    markdown = _LINK.sub(r"[\1](\2)", text).replace("``", "`")
    mark = ""
    for line in markdown.splitlines():
        if line.startswith("["):
            yield _TERM.sub(r"[`\1`]", line)
            mark = ": "
        elif line.startswith("    "):
            yield mark + line.strip()
            mark = "  "
        else:
            yield line


def _words(preset: Preset, reason: str) -> str:
    """The statuses that are left out for this reason; with ``""``, those that are read."""
    found = (
        word for table in preset.statuses.values() for word, why in table.items() if why == reason
    )
    shown = [word for word in dict.fromkeys(found) if word not in TRANSLATED_STATUSES]
    return ", ".join(f"`{word}`" for word in shown if not word.startswith("wc_"))

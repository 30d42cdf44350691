"""The table of the shops: one `Preset` for each kind of export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everlytic_async.sources._bigcommerce import BIGCOMMERCE
from everlytic_async.sources._magento import MAGENTO, MAGENTO_CSV
from everlytic_async.sources._preset import KEPT, Preset, normalize_status
from everlytic_async.sources._shopify import SHOPIFY, SHOPIFY_CSV, SHOPIFY_GRAPHQL
from everlytic_async.sources._squarespace import SQUARESPACE
from everlytic_async.sources._woocommerce import (
    WOOCOMMERCE,
    WOOCOMMERCE_CSV,
    WOOCOMMERCE_ITEMS_CSV,
)

#: By name, in the order in which they are tried.
PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        WOOCOMMERCE,
        WOOCOMMERCE_CSV,
        WOOCOMMERCE_ITEMS_CSV,
        SHOPIFY,
        SHOPIFY_GRAPHQL,
        SHOPIFY_CSV,
        SQUARESPACE,
        MAGENTO,
        MAGENTO_CSV,
        BIGCOMMERCE,
    )
}
#: What ``include`` may hold: why a shop's order is skipped.
REASONS: tuple[str, ...] = tuple(
    dict.fromkeys(reason for preset in PRESETS.values() for reason in preset.reasons)
)
_WORDS = [
    item
    for preset in PRESETS.values()
    for table in preset.statuses.values()
    for item in table.items()
]
#: What shops call orders that came to nothing, as `normalize_status` writes it; without "closed",
#: which is refunded only in Magento.
_LOST_STATUSES = (
    frozenset(
        word
        for word, reason in _WORDS
        if reason in {"cancelled", "refunded", "failed", "voided", "fraud", "trash"}
    )
    - {word for word, reason in _WORDS if reason == KEPT}
    - {"closed"}
)


def find_preset(record: Mapping[str, Any], *, is_table: bool) -> Preset | None:
    """The shop whose export has such orders, or such columns; None if it is none's."""
    return next(
        (
            preset
            for preset in PRESETS.values()
            if preset.is_tabular == is_table
            and preset.keys <= record.keys()
            and preset.recognizes(record)
        ),
        None,
    )


def is_lost(status: object) -> bool:
    """Whether a cell or value says that an order came to nothing."""
    return isinstance(status, str) and normalize_status(status) in _LOST_STATUSES

"""WooCommerce, REST API v3: the response to ``GET /wp-json/wc/v3/orders``.

See https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties. An order has one
currency. It has no link; a mapping may give a template. ``customer_id`` is the shop's own number,
not a contact's unique id at Everlytic: it is sent only if a mapping says so. Orders on hold wait
for a bank transfer, and are orders.
"""

from __future__ import annotations

import html
from decimal import Decimal
from typing import Any

from everlytic_async.sources._mapping import computed
from everlytic_async.sources._numbers import EXACT, to_decimal
from everlytic_async.sources._preset import Preset

__all__ = ["WOOCOMMERCE"]


def _sub_total(items: Any) -> Decimal | None:
    if not isinstance(items, list):
        return None
    total = Decimal(0)
    for item in items:
        line_total = to_decimal(item.get("total")) if isinstance(item, dict) else None
        if line_total is None:
            return None  # rather none than a wrong one
        total = EXACT.add(total, line_total)
    return total


def _round_prices(items: Any, order_total: Any) -> Any:
    """The line items, their prices without the noise of floating point (14.309999999999999)."""
    if not isinstance(items, list):
        return items
    total = to_decimal(order_total)
    places = 0 if total is None else _places(total)
    if not places:
        return items
    return [_round_price(item, places) if isinstance(item, dict) else item for item in items]


def _round_price(item: dict[str, Any], places: int) -> dict[str, Any]:
    """The item; if its price has more decimals than the order's total, it is computed."""
    price = to_decimal(item.get("price"))
    if price is None or _places(price) <= places:
        return item
    total, quantity = to_decimal(item.get("total")), to_decimal(item.get("quantity"))
    if total is None or not quantity:
        return item
    exact = EXACT.divide(total, quantity)
    return {**item, "price": EXACT.quantize(exact, Decimal(1).scaleb(-places))}


def _places(number: Decimal) -> int:
    """How many digits are after the decimal point."""
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _unescape(name: Any) -> Any:
    return html.unescape(name) if isinstance(name, str) and "&" in name else name


def _gallery(source: Any) -> list[str] | None:
    return [source] if isinstance(source, str) and source else None


_SKIPPED = {
    "cancelled": "cancelled",
    "refunded": "refunded",
    "failed": "failed",
    "pending": "unpaid",
    "checkout-draft": "draft",
    "auto-draft": "draft",
    "draft": "draft",
    "trash": "trash",
}

WOOCOMMERCE = Preset(
    name="woocommerce",
    keys=frozenset({"number", "billing", "line_items"}),
    mapping={
        "contact_email": "billing.email",  # a guest may have none
        "order_id": "number",
        "sub_total": computed(_sub_total, "line_items"),  # after discounts
        "shipping_fee": "shipping_total",
        "taxes": "total_tax",
        "total": "total",
        "discount": "discount_total",
        "checkout_url": "payment_url",  # newer versions have it
        "date": "date_created_gmt",  # in UTC
        "products": {
            "each": computed(_round_prices, "line_items", "total"),
            "product_name": computed(_unescape, "name"),
            "product_price": "price",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": "total",
            "product_gallery": computed(_gallery, "image.src"),  # newer versions have it
        },
    },
    statuses={"status": _SKIPPED | {f"wc-{word}": reason for word, reason in _SKIPPED.items()}},
)

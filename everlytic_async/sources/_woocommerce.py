"""WooCommerce, REST API v3: what ``GET /wp-json/wc/v3/orders`` answers.

See https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties.

======================  ========================================================================
``contact_email``       ``billing.email``; a guest may have none
``order_id``            ``number``
``order_link_url``      none: give a template
``sub_total``           the sum of ``line_items[].total``, after discounts
``shipping_fee``        ``shipping_total``
``taxes``               ``total_tax``
``total``               ``total``
``discount``            ``discount_total``
``checkout_url``        ``payment_url``, which newer versions have
``product_name``        ``name``, with HTML entities resolved
``product_price``       ``price``; where it has more decimals than the order's ``total``, it is
                        computed: ``total`` / ``quantity``, rounded to as many
``product_quantity``    ``quantity``
``product_sku``         ``sku``
``product_line_total``  ``total``
``product_gallery``     ``image.src``, which newer versions have
date                    ``date_created_gmt``, in UTC
======================  ========================================================================

An order has one currency. ``customer_id`` is the shop's own number, not a contact's unique id at
Everlytic: it is sent only where a mapping says so. Left out by their status: cancelled, refunded,
failed, unpaid (pending), draft (checkout-draft, auto-draft), trash. Those on hold are waiting for a
bank, and are orders.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from everlytic_async.sources._preset import EXACT, Preset, decimal_of
from everlytic_async.sources._records import Record

__all__ = ["WOOCOMMERCE"]

_REASONS = {
    "cancelled": "cancelled",
    "refunded": "refunded",
    "failed": "failed",
    "pending": "unpaid",
    "checkout-draft": "draft",
    "auto-draft": "draft",
    "draft": "draft",
    "trash": "trash",
}


def _reasons(order: Record) -> Iterator[str]:
    status = order.get("status")
    if isinstance(status, str) and status.removeprefix("wc-") in _REASONS:
        yield _REASONS[status.removeprefix("wc-")]


def _sub_total(order: Record) -> Any:
    items = order.get("line_items")
    if not isinstance(items, list):
        return None
    total = Decimal(0)
    for item in items:
        line_total = decimal_of(item.get("total")) if isinstance(item, dict) else None
        if line_total is None:
            return None  # rather none than a wrong one
        total = EXACT.add(total, line_total)
    return total


def _items(order: Record) -> Any:
    """The line items, their prices without the noise of floating point (14.309999999999999)."""
    items = order.get("line_items")
    if not isinstance(items, list):
        return items
    total = decimal_of(order.get("total"))
    places = 0 if total is None else _places(total)
    return [_with_price(item, places) if isinstance(item, dict) else item for item in items]


def _with_price(item: Record, places: int) -> Record:
    price = decimal_of(item.get("price"))
    if not places or price is None or _places(price) <= places:
        return item
    total, quantity = decimal_of(item.get("total")), decimal_of(item.get("quantity"))
    if total is None or not quantity:
        return item
    exact = EXACT.divide(total, quantity)
    return {**item, "price": EXACT.quantize(exact, Decimal(1).scaleb(-places))}


def _places(number: Decimal) -> int:
    """How many digits stand after the decimal point."""
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _name(item: Record) -> Any:
    name = item.get("name")
    return html.unescape(name) if isinstance(name, str) else name


def _image(item: Record) -> Any:
    image = item.get("image")
    source = image.get("src") if isinstance(image, dict) else None
    return [source] if isinstance(source, str) and source else None


WOOCOMMERCE = Preset(
    name="woocommerce",
    mapping={
        "contact_email": "billing.email",
        "order_id": "number",
        "sub_total": _sub_total,
        "shipping_fee": "shipping_total",
        "taxes": "total_tax",
        "total": "total",
        "discount": "discount_total",
        "checkout_url": "payment_url",
        "date": "date_created_gmt",
        "products": {
            "each": _items,
            "product_name": _name,
            "product_price": "price",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": "total",
            "product_gallery": _image,
        },
    },
    keys=frozenset({"number", "billing", "line_items"}),
    in_rows=False,
    reasons=_reasons,
    known_reasons=tuple(dict.fromkeys(_REASONS.values())),
)

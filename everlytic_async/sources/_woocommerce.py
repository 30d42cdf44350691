"""WooCommerce, REST API v3: what ``GET /wp-json/wc/v3/orders`` answers.

See https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties.

======================  ========================================================================
``contact_email``       ``billing.email``; a guest may have none
``contact_unique_id``   ``customer_id``; 0 is a guest, and left out
``order_id``            ``number``
``order_link_url``      none: give a template
``sub_total``           the sum of ``line_items[].subtotal``, before discounts
``shipping_fee``        ``shipping_total``
``taxes``               ``total_tax``
``total``               ``total``
``discount``            ``discount_total``
``checkout_url``        ``payment_url``, which newer versions have
``product_name``        ``name``, with HTML entities resolved
``product_price``       ``price``, a number of its own kind: the others are texts
``product_quantity``    ``quantity``
``product_sku``         ``sku``
``product_line_total``  ``total``
``product_gallery``     ``image.src``, which newer versions have
date                    ``date_created_gmt``, in UTC
======================  ========================================================================

An order has one currency. Left out by their status: cancelled, refunded, failed, unpaid (pending),
draft (checkout-draft, auto-draft), trash. Those on hold are waiting for a bank, and are orders.
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


def _customer(order: Record) -> Any:
    customer = order.get("customer_id")
    return None if customer in (0, "0") else customer


def _sub_total(order: Record) -> Any:
    items = order.get("line_items")
    if not isinstance(items, list):
        return None
    total = Decimal(0)
    for item in items:
        subtotal = decimal_of(item.get("subtotal")) if isinstance(item, dict) else None
        if subtotal is None:
            return None  # rather none than a wrong one
        total = EXACT.add(total, subtotal)
    return total


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
        "contact_unique_id": _customer,
        "order_id": "number",
        "sub_total": _sub_total,
        "shipping_fee": "shipping_total",
        "taxes": "total_tax",
        "total": "total",
        "discount": "discount_total",
        "checkout_url": "payment_url",
        "date": "date_created_gmt",
        "products": {
            "each": "line_items",
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

"""Shopify, Admin REST API: what ``GET /admin/api/.../orders.json`` answers.

See https://shopify.dev/docs/api/admin-rest/latest/resources/order.

======================  ========================================================================
``contact_email``       ``email``, else ``contact_email``, else ``customer.email``
``order_id``            ``name``, such as ``#1001``
``order_link_url``      ``order_status_url``
``sub_total``           ``subtotal_price``, after discounts
``shipping_fee``        ``total_shipping_price_set.shop_money.amount``
``taxes``               ``total_tax``
``total``               ``total_price``
``discount``            ``total_discounts``
``product_name``        ``name``
``product_price``       ``price``
``product_quantity``    ``quantity``
``product_sku``         ``sku``
``product_line_total``  ``price`` times ``quantity``, less the amounts in
                        ``discount_allocations``, or without these less ``total_discount``
date                    ``created_at``
======================  ========================================================================

All amounts are in the shop's currency (``shop_money``), also where the customer paid in another
(``presentment_money``). ``customer.id`` is the shop's own number, not a contact's unique id at
Everlytic: it is sent only where a mapping says so. Left out: cancelled (``cancelled_at``), refunded
and voided (wholly, by ``financial_status``), test (``test``), and drafts that are not completed.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from everlytic_async.sources._preset import EXACT, Preset, decimal_of
from everlytic_async.sources._records import Record

__all__ = ["SHOPIFY", "line_total"]


def _reasons(order: Record) -> Iterator[str]:
    if order.get("cancelled_at"):
        yield "cancelled"
    if (status := order.get("financial_status")) in ("refunded", "voided"):
        yield str(status)
    if order.get("test") is True:
        yield "test"
    # Of a draft, which is another resource with the same fields.
    if order.get("status") in ("open", "invoice_sent") and "invoice_sent_at" in order:
        yield "draft"


# What nearly every line has; told without making a number of it.
_NO_DISCOUNT = ("0.00", "", None)


def line_total(price: Any, quantity: Any, discount: Any = None) -> Any:
    """What a line costs; None where a figure is missing."""
    each, count = decimal_of(price), decimal_of(quantity)
    if each is None or count is None:
        return None
    total = EXACT.multiply(each, count)
    if discount in _NO_DISCOUNT:
        return total
    less = decimal_of(discount)
    return EXACT.subtract(total, less) if less else total


def _line_total(item: Record) -> Any:
    return line_total(item.get("price"), item.get("quantity"), _discount(item))


def _discount(item: Record) -> Any:
    # `total_discount` leaves out what a discount of the whole order takes off the line.
    allocations = item.get("discount_allocations")
    if not isinstance(allocations, list) or not allocations:
        return item.get("total_discount")
    amounts = [decimal_of(part.get("amount")) for part in allocations if isinstance(part, dict)]
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return item.get("total_discount")
        total = EXACT.add(total, amount)
    return total


SHOPIFY = Preset(
    name="shopify",
    mapping={
        "contact_email": ["email", "contact_email", "customer.email"],
        "order_id": "name",
        "order_link_url": "order_status_url",
        "sub_total": "subtotal_price",
        "shipping_fee": "total_shipping_price_set.shop_money.amount",
        "taxes": "total_tax",
        "total": "total_price",
        "discount": "total_discounts",
        "date": "created_at",
        "products": {
            "each": "line_items",
            "product_name": "name",
            "product_price": "price",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": _line_total,
        },
    },
    keys=frozenset({"name", "line_items", "total_price"}),
    in_rows=False,
    reasons=_reasons,
    known_reasons=("cancelled", "refunded", "voided", "test", "draft"),
)

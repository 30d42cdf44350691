"""Shopify, Admin REST API: the response to ``GET /admin/api/.../orders.json``.

See https://shopify.dev/docs/api/admin-rest/latest/resources/order. All amounts are in the shop's
currency (``shop_money``), even if the customer paid in another (``presentment_money``).
``customer.id`` is the shop's own number, not a contact's unique id at Everlytic: it is sent only if
a mapping says so. Drafts are another resource with the same fields.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from everlytic_async.sources._mapping import computed
from everlytic_async.sources._numbers import EXACT, to_decimal
from everlytic_async.sources._preset import Preset

__all__ = ["SHOPIFY", "line_total"]

# What nearly every line has, recognised without making a number of it.
_NO_DISCOUNT = ("0.00", "", None)


def line_total(price: Any, quantity: Any, discount: Any = None) -> Decimal | None:
    """What a line costs after its discount; None if a figure is missing."""
    each, count = to_decimal(price), to_decimal(quantity)
    if each is None or count is None:
        return None
    total = EXACT.multiply(each, count)
    if discount in _NO_DISCOUNT:
        return total
    less = to_decimal(discount)
    return EXACT.subtract(total, less) if less else total


def _line_total(price: Any, quantity: Any, discount: Any, allocations: Any) -> Decimal | None:
    # `total_discount` leaves out what a discount of the whole order takes off the line.
    if isinstance(allocations, list) and allocations:
        amounts = [to_decimal(part.get("amount")) for part in allocations if isinstance(part, dict)]
        if None not in amounts:
            discount = Decimal(0)
            for amount in amounts:
                discount = EXACT.add(discount, amount)  # type: ignore[arg-type]
    return line_total(price, quantity, discount)


def _is_draft(order: dict[str, Any]) -> bool:
    return "invoice_sent_at" in order and order.get("status") in ("open", "invoice_sent")


SHOPIFY = Preset(
    name="shopify",
    keys=frozenset({"name", "line_items", "total_price"}),
    mapping={
        "contact_email": ["email", "contact_email", "customer.email"],
        "order_id": "name",  # such as #1001
        "order_link_url": "order_status_url",
        "sub_total": "subtotal_price",  # after discounts
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
            "product_line_total": computed(
                _line_total, "price", "quantity", "total_discount", "discount_allocations"
            ),
        },
    },
    statuses={"financial_status": {"refunded": "refunded", "voided": "voided"}},
    skip={
        "cancelled": "cancelled_at",
        "test": computed(lambda test: test is True, "test"),
        "draft": _is_draft,
    },
)

"""Magento 2 and Adobe Commerce, REST: what ``GET /rest/V1/orders?searchCriteria=...`` answers.

See https://developer.adobe.com/commerce/webapi/rest/quick-reference/.

======================  ========================================================================
``contact_email``       ``customer_email``; a guest may have none
``order_id``            ``increment_id``, such as ``000000003``
``order_link_url``      none: give a template
``sub_total``           ``subtotal`` plus ``discount_amount``, which is negative
``shipping_fee``        ``shipping_amount``
``taxes``               ``tax_amount``
``total``               ``grand_total``
``discount``            ``discount_amount`` without its sign: Magento's is negative
``product_name``        ``name``
``product_price``       ``price``
``product_quantity``    ``qty_ordered``
``product_sku``         ``sku``
``product_line_total``  ``row_total`` less ``discount_amount``
date                    ``created_at``, in UTC
======================  ========================================================================

All amounts are in the currency of the order (``order_currency_code``), which the customer saw;
those that begin with ``base_`` are not used. ``customer_id`` is the shop's own number, not a
contact's unique id at Everlytic: it is sent only where a mapping says so. Of a configurable product
or a bundle the product itself is taken, and not the items under it (``parent_item_id``), which
repeat it. Left out: cancelled (``canceled``), refunded (``closed``), unpaid (``pending_payment``),
fraud.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everlytic_async.sources._preset import EXACT, Preset, decimal_of
from everlytic_async.sources._records import Record

__all__ = ["MAGENTO"]

_REASONS = {
    "canceled": "cancelled",
    "closed": "refunded",
    "pending_payment": "unpaid",
    "fraud": "fraud",
}


def _reasons(order: Record) -> Iterator[str]:
    # The state is the machine's; the status is the shop's name for it.
    told = [order.get(key) for key in ("state", "status")]
    yield from dict.fromkeys(
        _REASONS[word] for word in told if isinstance(word, str) and word in _REASONS
    )


def _sub_total(order: Record) -> Any:
    return _sum(order.get("subtotal"), order.get("discount_amount"), 1)


def _line_total(item: Record) -> Any:
    return _sum(item.get("row_total"), item.get("discount_amount"), -1)


def _sum(amount: Any, discount: Any, sign: int) -> Any:
    total, less = decimal_of(amount), decimal_of(discount)
    if total is None or not less:
        return amount
    return EXACT.add(total, less if sign > 0 else less.copy_negate())


def _discount(order: Record) -> Any:
    discount = order.get("discount_amount")
    exact = decimal_of(discount)
    return discount if exact is None else exact.copy_abs()


def _items(order: Record) -> Any:
    items = order.get("items")
    if not isinstance(items, list):
        return items
    return [
        item
        for item in items
        if not isinstance(item, dict)
        or not (item.get("parent_item_id") or isinstance(item.get("parent_item"), dict))
    ]


MAGENTO = Preset(
    name="magento",
    mapping={
        "contact_email": "customer_email",
        "order_id": "increment_id",
        "sub_total": _sub_total,
        "shipping_fee": "shipping_amount",
        "taxes": "tax_amount",
        "total": "grand_total",
        "discount": _discount,
        "date": "created_at",
        "products": {
            "each": _items,
            "product_name": "name",
            "product_price": "price",
            "product_quantity": "qty_ordered",
            "product_sku": "sku",
            "product_line_total": _line_total,
        },
    },
    keys=frozenset({"increment_id", "items", "grand_total"}),
    in_rows=False,
    reasons=_reasons,
    known_reasons=tuple(dict.fromkeys(_REASONS.values())),
)

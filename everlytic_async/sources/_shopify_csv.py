"""Shopify, the CSV that *Export* on the page of the orders gives.

See https://help.shopify.com/en/manual/fulfillment/managing-orders/exporting-orders.

======================  ========================================================================
``contact_email``       ``Email``
``order_id``            ``Name``, such as ``#1001``
``sub_total``           ``Subtotal``, after discounts
``shipping_fee``        ``Shipping``
``taxes``               ``Taxes``
``total``               ``Total``
``discount``            ``Discount Amount``
``product_name``        ``Lineitem name``
``product_price``       ``Lineitem price``
``product_quantity``    ``Lineitem quantity``
``product_sku``         ``Lineitem sku``
``product_line_total``  ``Lineitem price`` times ``Lineitem quantity``, less ``Lineitem discount``
date                    ``Created at``
======================  ========================================================================

An order has a row for each product; what is the order's stands in the first. A row without a
``Name`` belongs to the order above it, and where there is none, it is invalid. Rows of an order
that are alike in every cell count once, and are counted as ``duplicate row``. The file has the
shop's currency only. Left out: cancelled (``Cancelled at``), refunded and voided (``Financial
Status``), test (paid by the bogus gateway).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import Record
from everlytic_async.sources._shopify import line_total

__all__ = ["SHOPIFY_CSV"]


def _reasons(order: Record) -> Iterator[str]:
    if _text(order, "Cancelled at"):
        yield "cancelled"
    if (status := _text(order, "Financial Status").lower()) in ("refunded", "voided"):
        yield status
    # https://help.shopify.com/en/manual/checkout-settings/test-orders
    if "bogus" in _text(order, "Payment Method").lower():
        yield "test"


def _text(order: Record, column: str) -> str:
    value = order.get(column)
    return value.strip() if isinstance(value, str) else ""


def _line_total(row: Record) -> Any:
    discount = row.get("Lineitem discount")
    return line_total(row.get("Lineitem price"), row.get("Lineitem quantity"), discount)


SHOPIFY_CSV = Preset(
    name="shopify-csv",
    mapping={
        "contact_email": "Email",
        "order_id": "Name",
        "sub_total": "Subtotal",
        "shipping_fee": "Shipping",
        "taxes": "Taxes",
        "total": "Total",
        "discount": "Discount Amount",
        "date": "Created at",
        "products": {
            "product_name": "Lineitem name",
            "product_price": "Lineitem price",
            "product_quantity": "Lineitem quantity",
            "product_sku": "Lineitem sku",
            "product_line_total": _line_total,
        },
    },
    keys=frozenset({"Name", "Email", "Lineitem name", "Lineitem quantity", "Lineitem price"}),
    in_rows=True,
    reasons=_reasons,
    known_reasons=("cancelled", "refunded", "voided", "test"),
    one_row_once=True,
)

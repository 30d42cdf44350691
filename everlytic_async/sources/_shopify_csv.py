"""Shopify, the CSV that *Export* on the page of the orders gives.

See https://help.shopify.com/en/manual/fulfillment/managing-orders/exporting-orders. An order has a
row for each product; the columns of the order are filled in the first. A row without a ``Name``
belongs to the order above it; without one above it, it is invalid. Rows of an order that are equal
in every cell count once, and are counted as ``duplicate row``. The file has the shop's currency
only.
"""

from __future__ import annotations

from typing import Any

from everlytic_async.sources._mapping import computed
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._shopify import line_total

__all__ = ["SHOPIFY_CSV"]


def _is_test(payment_method: Any) -> bool:
    # https://help.shopify.com/en/manual/checkout-settings/test-orders
    return isinstance(payment_method, str) and "bogus" in payment_method.lower()


SHOPIFY_CSV = Preset(
    name="shopify-csv",
    keys=frozenset({"Name", "Email", "Lineitem name", "Lineitem quantity", "Lineitem price"}),
    is_tabular=True,
    dedupe_rows=True,
    mapping={
        "contact_email": "Email",
        "order_id": "Name",  # such as #1001
        "sub_total": "Subtotal",  # after discounts
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
            "product_line_total": computed(
                line_total, "Lineitem price", "Lineitem quantity", "Lineitem discount"
            ),
        },
    },
    statuses={"Financial Status": {"refunded": "refunded", "voided": "voided"}},
    skip={
        "cancelled": "Cancelled at",
        "test": computed(_is_test, "Payment Method"),
    },
)

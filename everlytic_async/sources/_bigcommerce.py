"""BigCommerce, the API v2: ``GET /v2/orders``, with the products of each order joined in.

See https://developer.bigcommerce.com/docs/rest-management/orders. The API answers with a link to
the products of an order; put what that link answers in its place, under ``products``. Amounts are
without tax, but for ``total``; prices are before the discounts, line totals and the sub-total
after them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from everlytic_async.sources._mapping import computed, numbers
from everlytic_async.sources._notation import EXACT, add_up, to_decimal
from everlytic_async.sources._preset import Preset, statuses


def _line_total(amount: Any, discounts: Any) -> Decimal | None:
    total = to_decimal(amount)
    if total is None or not isinstance(discounts, list):
        return total
    less = add_up(each.get("amount") if isinstance(each, dict) else None for each in discounts)
    return None if less is None else EXACT.subtract(total, less)


def _sub_total(products: Any) -> Decimal | None:
    if not isinstance(products, list):
        return None
    return add_up(
        _line_total(product.get("total_ex_tax"), product.get("applied_discounts"))
        if isinstance(product, dict)
        else None
        for product in products
    )


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return EXACT.add(one, other) if one is not None and other is not None else one or other


BIGCOMMERCE = Preset(
    name="bigcommerce",
    keys=frozenset({"id", "billing_address", "total_inc_tax", "products"}),
    mapping={
        "contact_email": "billing_address.email",
        "order_id": "id",
        "sub_total": computed(_sub_total, "products"),  # after discounts
        "shipping_fee": "shipping_cost_ex_tax",
        "taxes": "total_tax",
        "total": "total_inc_tax",
        "discount": numbers(_sum, "discount_amount", "coupon_discount"),
        "date": "date_created",
        "products": {
            "each": "products",
            "product_name": "name",
            "product_price": "price_ex_tax",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": computed(_line_total, "total_ex_tax", "applied_discounts"),
        },
    },
    date_format="%a, %d %b %Y %H:%M:%S %z",
    statuses={
        "status": statuses(
            "shipped partially_shipped awaiting_payment awaiting_pickup awaiting_shipment "
            "completed awaiting_fulfillment manual_verification_required disputed "
            "partially_refunded",
            abandoned_checkout="incomplete",
            unpaid="pending",
            cancelled="cancelled",
            failed="declined",
            refunded="refunded",
        )
    },
    skip={"trash": computed(lambda deleted: deleted is True, "is_deleted")},
    faults={
        "products: it has only a link to them: join in what GET /v2/orders/{id}/products "
        "answers": computed(lambda products: isinstance(products, dict), "products")
    },
)

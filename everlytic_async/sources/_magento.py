"""Magento 2 and Adobe Commerce: the REST API, and the CSV of the grid of orders.

An order has no link; a mapping may give a template.

`magento <https://developer.adobe.com/commerce/webapi/rest/quick-reference/>`__
    The response to ``GET /rest/V1/orders?searchCriteria=...``. All amounts are in the currency of
    the order (``order_currency_code``), which the customer saw; those that start with ``base_`` are
    not used. An order's ``discount_amount`` is negative, an item's is positive.

`magento-csv <https://experienceleague.adobe.com/en/docs/commerce-admin/stores-sales/order-management/orders/orders>`__
    *Export* on the page of the orders. It does not say what was bought, so the mapping has to give
    a field of a product, such as ``product_name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from everlytic_async.sources._mapping import computed
from everlytic_async.sources._notation import EXACT, to_decimal
from everlytic_async.sources._preset import Preset, statuses


def _sum(*amounts: Any) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, to_decimal(amount) or Decimal(0))
    return total


def _sub_total(amount: Any, discount: Any, of_shipping: Any, of_tax: Any) -> Any:
    # The discount is negative, and holds that of the shipping and the tax that it saved.
    less = _sum(discount, of_shipping, of_tax)
    return amount if to_decimal(amount) is None or not less else _sum(amount, less)


def _discount(item: Mapping[str, Any]) -> Decimal:
    """What is taken off a line, without the tax that it saved."""
    of_tax = to_decimal(item.get("discount_tax_compensation_amount")) or Decimal(0)
    return EXACT.subtract(_sum(item.get("discount_amount")), of_tax)


def _line_total(amount: Any, less: Any) -> Any:
    total = to_decimal(amount)
    return amount if total is None or not less else EXACT.subtract(total, less)


def _without_sign(discount: Any) -> Any:
    exact = to_decimal(discount)
    return discount if exact is None else exact.copy_abs()


def _top_items(items: Any) -> Any:
    """Of a configurable product or a bundle the product itself: the items below it repeat it.

    Its discount, which of a bundle may be on the items below it, is without the tax that it saved.
    """
    if not isinstance(items, list):
        return items
    below: dict[str, Decimal] = {}
    tops: list[Any] = []
    for item in items:
        if not isinstance(item, dict):
            tops.append(item)
            continue
        parent = item.get("parent_item")
        above = item.get("parent_item_id")
        if isinstance(parent, dict):
            above = above or parent.get("item_id")
        elif not above:
            tops.append(item)
            continue
        below[str(above)] = EXACT.add(below.get(str(above), Decimal(0)), _discount(item))
    return [_with_discount(item, below) if isinstance(item, dict) else item for item in tops]


def _with_discount(item: dict[str, Any], below: Mapping[str, Decimal]) -> dict[str, Any]:
    less = _discount(item)
    if not less and item.get("item_id") is not None:
        less = below.get(str(item["item_id"]), less)
    return {**item, "discount_amount": less}


_STATES = statuses(
    "new processing complete holded payment_review",
    cancelled="canceled",
    refunded="closed",
    unpaid="pending_payment",
    fraud="fraud",
)
_SKIPPED = {state: reason for state, reason in _STATES.items() if reason}

MAGENTO = Preset(
    name="magento",
    keys=frozenset({"increment_id", "items", "grand_total"}),
    mapping={
        "contact_email": "customer_email",  # a guest may have none
        "order_id": "increment_id",  # such as 000000003
        "sub_total": computed(  # after discounts
            _sub_total,
            "subtotal",
            "discount_amount",
            "shipping_discount_amount",
            "discount_tax_compensation_amount",
        ),
        "shipping_fee": "shipping_amount",
        "taxes": "tax_amount",
        "total": "grand_total",
        "discount": computed(_without_sign, "discount_amount"),
        "date": "created_at",  # in UTC
        "products": {
            "each": computed(_top_items, "items"),
            "product_name": "name",
            "product_price": "price",
            "product_quantity": "qty_ordered",
            "product_sku": "sku",
            "product_line_total": computed(_line_total, "row_total", "discount_amount"),
        },
    },
    # The state is Magento's; the status is the shop's name for it, and may be any.
    statuses={"state": _STATES, "status": _SKIPPED},
)

MAGENTO_CSV = Preset(
    name="magento-csv",
    keys=frozenset({"ID", "Purchase Date", "Grand Total (Purchased)", "Status", "Customer Email"}),
    is_tabular=True,
    mapping={
        "contact_email": "Customer Email",
        "order_id": "ID",
        # No sub_total: that of the grid is before discounts, and the grid does not have these.
        "shipping_fee": "Shipping and Handling",
        "total": "Grand Total (Purchased)",
        "date": "Purchase Date",
        "products": {},
    },
    date_format="%b %d, %Y %I:%M:%S %p",
    statuses={
        "Status": statuses(
            "pending processing complete on_hold holded payment_review",
            cancelled="canceled",
            refunded="closed",
            unpaid="pending_payment pending_paypal",
            fraud="fraud suspected_fraud",
        )
    },
)

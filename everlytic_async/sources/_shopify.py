"""Shopify: the Admin REST API, the Admin GraphQL API, and the CSV of the page of the orders.

All amounts are in the shop's currency (``shop_money``), even if the customer paid in another
(``presentment_money``), which is used only if a GraphQL query fetched no other. Abandoned checkouts
and drafts have the same fields as orders, and are left out; a completed draft also exists as a
normal order.

`shopify <https://shopify.dev/docs/api/admin-rest/latest/resources/order>`__
    The response to ``GET /admin/api/.../orders.json``.

`shopify-graphql <https://shopify.dev/docs/api/admin-graphql/latest/objects/Order>`__
    The response to a query of ``orders``, with ``edges`` or ``nodes``; or the file of a `bulk
    operation <https://shopify.dev/docs/api/usage/bulk-operations/queries>`__, whose line items may
    follow their order or be anywhere in the file. A query should have ``id``, ``name``, ``email``,
    ``createdAt``, ``cancelledAt``, ``test``, ``displayFinancialStatus``, and of ``lineItems``
    ``name``, ``quantity``, ``sku``, ``originalUnitPriceSet`` and ``discountAllocations``. A bulk
    operation should ask for ``id`` in every nested object, or ``__typename`` where there is none.

`shopify-csv <https://help.shopify.com/en/manual/fulfillment/managing-orders/exporting-orders>`__
    An order has a row for each product; the columns of the order are filled in the first. A row
    without a ``Name`` belongs to the order above it; without one above it, it is invalid. Rows of
    an order that are equal in every cell count once, and are counted as ``duplicate row``; an
    order that starts twice, and differs, is invalid. An
    abandoned checkout has totals and no ``Financial Status``; a row without both is apart from its
    order, and is invalid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from everlytic_async.sources._mapping import computed, descend, numbers
from everlytic_async.sources._notation import EXACT, add_up, to_decimal
from everlytic_async.sources._preset import FirstRow, Preset, statuses

#: What the ids of GraphQL begin with.
GID = "gid://shopify/"

_STATUSES = statuses(
    "pending authorized expired partially_paid paid partially_refunded unpaid",
    refunded="refunded",
    voided="voided",
)
_DRAFT_NAME = re.compile(r"\s*#D[0-9]+\s*").fullmatch


def line_total(
    price: Decimal | None, quantity: Decimal | None, discount: Decimal | None = None
) -> Decimal | None:
    """What a line costs after its discount; None if a figure is missing."""
    if price is None or quantity is None:
        return None
    total = EXACT.multiply(price, quantity)
    return EXACT.subtract(total, discount) if discount else total


def _after_allocations(
    price: Any,
    quantity: Any,
    discount: Any,
    allocations: Any,
    keys: Sequence[str] = ("amount",),
) -> Decimal | None:
    # `total_discount` leaves out what a discount of the whole order takes off the line.
    less = None
    if isinstance(allocations, list) and allocations:
        less = add_up(descend(part, keys) for part in allocations)
    less = to_decimal(discount) if less is None else less
    return line_total(to_decimal(price), to_decimal(quantity), less)


# ------------------------------------------------------------------------------------------ REST


def _draft_with(*states: str) -> Any:
    return lambda order: "invoice_sent_at" in order and order.get("status") in states


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
                _after_allocations, "price", "quantity", "total_discount", "discount_allocations"
            ),
        },
    },
    statuses={"financial_status": _STATUSES},
    skip={
        "abandoned checkout": "abandoned_checkout_url",
        "cancelled": "cancelled_at",
        "test": computed(lambda test: test is True, "test"),
        "draft": _draft_with("open", "invoice_sent"),
        "completed draft": _draft_with("completed"),
    },
)

# --------------------------------------------------------------------------------------- GraphQL


_SHOP, _CUSTOMER = "shopMoney", "presentmentMoney"


def _nodes(connection: Any) -> Any:
    """The items of a connection, which a query has as edges or as nodes."""
    if isinstance(connection, dict):
        if isinstance(edges := connection.get("edges"), list):
            return [edge.get("node") if isinstance(edge, dict) else edge for edge in edges]
        return connection.get("nodes")
    return connection


def _graphql_total(price: Any, scalar: Any, quantity: Any, after: Any, parts: Any) -> Any:
    each, currency = scalar, _SHOP
    for name in (_CUSTOMER, _SHOP):
        if (amount := descend(price, (name, "amount"))) is not None:
            each, currency = amount, name
    discounted = descend(after, (currency, "amount"))
    if not isinstance(parts, list) and discounted is not None:
        return to_decimal(discounted)
    keys = ("allocatedAmountSet", currency, "amount")
    return _after_allocations(each, quantity, None, parts, keys)


def _has_gid(*kinds: str) -> Any:
    starts = tuple(f"{GID}{kind}/" for kind in kinds)
    return computed(lambda gid: isinstance(gid, str) and gid.startswith(starts), "id")


def _amount(name: str) -> list[str]:
    return [f"{name}Set.{_SHOP}.amount", name, f"{name}Set.{_CUSTOMER}.amount"]


def _is_graphql(order: Mapping[str, Any]) -> bool:
    gid = order.get("id")
    return (isinstance(gid, str) and gid.startswith(GID)) or "__parentId" in order


SHOPIFY_GRAPHQL = Preset(
    name="shopify-graphql",
    keys=frozenset(),
    recognizes=_is_graphql,
    joins_lines=True,
    mapping={
        "contact_email": [
            "email",
            "customer.email",
            "customer.defaultEmailAddress.emailAddress",
        ],
        "order_id": "name",  # such as #1001
        "order_link_url": "statusPageUrl",
        "sub_total": _amount("subtotalPrice"),  # after discounts
        "shipping_fee": _amount("totalShippingPrice"),
        "taxes": _amount("totalTax"),
        "total": _amount("totalPrice"),
        "discount": _amount("totalDiscounts"),
        "date": "createdAt",
        "products": {
            "each": computed(_nodes, "lineItems"),
            "product_name": ["name", "title"],
            "product_price": _amount("originalUnitPrice"),
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": computed(
                _graphql_total,
                "originalUnitPriceSet",
                "originalUnitPrice",
                "quantity",
                "discountedTotalSet",
                "discountAllocations",
            ),
        },
    },
    statuses={"displayFinancialStatus": _STATUSES},
    skip={
        "abandoned checkout": _has_gid("AbandonedCheckout"),
        "draft": _has_gid("DraftOrder"),
        "cancelled": "cancelledAt",
        "test": computed(lambda test: test is True, "test"),
    },
    faults={
        "lineItems: more of them are on a further page: ask for as many as an order has": computed(
            lambda more: more is True, "lineItems.pageInfo.hasNextPage"
        )
    },
)

# ------------------------------------------------------------------------------------------- CSV


def _is_test(payment_method: Any) -> bool:
    # https://help.shopify.com/en/manual/checkout-settings/test-orders
    return isinstance(payment_method, str) and "bogus" in payment_method.lower()


def _is_draft(name: Any) -> bool:
    return isinstance(name, str) and _DRAFT_NAME(name) is not None


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
            "product_line_total": numbers(
                line_total, "Lineitem price", "Lineitem quantity", "Lineitem discount"
            ),
        },
    },
    statuses={"Financial Status": _STATUSES},
    skip={"cancelled": "Cancelled at", "test": computed(_is_test, "Payment Method")},
    skip_without_status={
        "draft": computed(_is_draft, "Name"),
        # A further row that is apart from its order has no status either.
        "abandoned checkout": FirstRow("Name", ("Subtotal", "Total")),
    },
)

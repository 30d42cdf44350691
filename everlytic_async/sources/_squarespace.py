"""Squarespace, the CSV that *Download CSV* on the page of the orders gives.

See https://support.squarespace.com/hc/en-us/articles/205811338. It has the columns of Shopify's,
with an ``Order ID`` in place of the ``Name``; the columns of the order are filled in its first row.
"""

from __future__ import annotations

import attrs

from everlytic_async.sources._preset import statuses
from everlytic_async.sources._shopify import SHOPIFY_CSV

SQUARESPACE = attrs.evolve(
    SHOPIFY_CSV,
    name="squarespace",
    keys=(SHOPIFY_CSV.keys - {"Name"}) | {"Order ID"},
    mapping=SHOPIFY_CSV.mapping | {"order_id": "Order ID"},  # type: ignore[operator]
    statuses={
        "Financial Status": statuses(
            "paid pending partially_refunded authorized",
            refunded="refunded",
            voided="voided",
            cancelled="canceled cancelled",
        )
    },
    skip={"cancelled": "Cancelled at"},
    skip_without_status={},
)

"""WooCommerce: the REST API v3, and the CSV files of the widespread export plugins.

An order has one currency. It has no link; a mapping may give a template. Orders on hold wait for a
bank transfer, and are orders. Statuses are known in the words of WooCommerce's translations, too:
German, Dutch, French, Spanish, Italian and Portuguese.

`woocommerce <https://woocommerce.github.io/woocommerce-rest-api-docs/#order-properties>`__
    The response to ``GET /wp-json/wc/v3/orders``. Its prices are after discounts and without tax,
    also where the shop shows them with tax; so are ``shipping_fee`` and ``sub_total``. ``total`` is
    what the customer paid.

`woocommerce-csv <https://wordpress.org/plugins/woo-order-export-lite/>`__
    *Advanced Order Export*, with its own names of columns and a row for each product.

`woocommerce-items-csv <https://woocommerce.com/document/ordercustomer-csv-export/>`__
    *Customer/Order/Coupon Export*, and *Order Export & Order Import* (WebToffee), with a row for
    each order, whose products are in the cell ``line_items``, or in the cells ``line_item_1``,
    ``line_item_2`` and so on.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from everlytic_async._checks import MAX_ITEMS
from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.sources._mapping import computed, numbers
from everlytic_async.sources._notation import EXACT, add_up, to_decimal
from everlytic_async.sources._preset import Preset, statuses
from everlytic_async.sources._shopify import line_total

# More decimals than any shop's prices have: the noise of floating point.
_MAX_PLACES = 6
# Of the plugin, which may leave out zeros, so that a total of 90 says nothing.
_CENTS = 2


def _sub_total(items: Any) -> Decimal | None:
    if not isinstance(items, list):
        return None
    return add_up([item.get("total") if item.__class__ is dict else None for item in items])


def _round_prices(items: Any, order_total: Any) -> Any:
    """The line items, their prices without the noise of floating point (14.309999999999999)."""
    if not isinstance(items, list):
        return items
    total = to_decimal(order_total)
    if total is None:
        return items
    return [_round_price(item, total) if item.__class__ is dict else item for item in items]


def _round_price(item: dict[str, Any], total: Decimal) -> dict[str, Any]:
    """The item; if its price has more decimals than the order's total, it is computed.

    In a currency without decimals, and where there is nothing to compute it of, only if it has the
    noise of floating point: an exact price may have decimals.
    """
    price = item.get("price")
    if price.__class__ is Decimal and price.same_quantum(total):  # nearly always
        return item
    price = to_decimal(price)
    if price is None:
        return item
    places = _places(total)
    if _places(price) <= (places or _MAX_PLACES):
        return item
    computed_price = _unit_price(item.get("total"), item.get("quantity"), places)
    return {
        **item,
        "price": _without_noise(price, places) if computed_price is None else computed_price,
    }


def _without_noise(amount: Decimal, places: int) -> Decimal:
    if _places(amount) <= _MAX_PLACES:
        return amount
    return EXACT.quantize(amount, Decimal(1).scaleb(-places))


def _unit_price(line: Any, count: Any, places: int) -> Decimal | None:
    total, quantity = to_decimal(line), to_decimal(count)
    if total is None or not quantity:
        return None
    return EXACT.quantize(EXACT.divide(total, quantity), Decimal(1).scaleb(-places))


def _places(number: Decimal) -> int:
    """How many digits are after the decimal point."""
    text = str(number)
    if "E" not in text:  # fast: `as_tuple` takes six times as long
        return len(text.partition(".")[2])
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _unescape(name: Any) -> Any:
    return html.unescape(name) if isinstance(name, str) and "&" in name else name


def _gallery(source: Any) -> list[str] | None:
    return [source] if isinstance(source, str) and source else None


_WORDS = statuses(
    "processing completed on_hold",
    cancelled="cancelled canceled",
    refunded="refunded",
    failed="failed",
    unpaid="pending pending_payment",
    draft="checkout_draft auto_draft draft",
    trash="trash",
)
#: What the plugins write in shops of other languages: the words of WooCommerce's translations into
#: German, Dutch, French, Spanish, Italian and Portuguese (of Brazil, of Portugal), also older ones.
TRANSLATED_STATUSES = statuses(
    "in_bearbeitung abgeschlossen fertiggestellt in_wartestellung angehalten "
    "in_behandeling verwerken afgerond voltooid in_de_wacht "
    "en_cours terminée terminé en_attente "
    "procesando completado en_espera "
    "in_lavorazione in_elaborazione completato in_attesa sospeso "
    "processando em_processamento concluído concluída aguardando em_espera",
    cancelled="storniert abgebrochen geannuleerd annulée annulé cancelado annullato cancellato "
    "cancelada",
    refunded="rückerstattet erstattet terugbetaald gerestitueerd remboursée remboursé reembolsado "
    "rimborsato reembolsada",
    failed="fehlgeschlagen mislukt échouée échoué échec fallido fallito non_riuscito malsucedido "
    "falhado falhada falhou",
    unpaid="zahlung_ausstehend ausstehende_zahlung wachtend_op_betaling in_afwachting_van_betaling "
    "attente_paiement en_attente_de_paiement paiement_en_attente pendiente_de_pago pago_pendiente "
    "in_attesa_di_pagamento in_attesa_del_pagamento pagamento_in_sospeso pagamento_pendente "
    "aguardando_pagamento a_aguardar_pagamento",
    draft="entwurf concept brouillon borrador bozza rascunho",
)
_STATUSES = _WORDS | {f"wc_{word}": reason for word, reason in _WORDS.items()} | TRANSLATED_STATUSES

WOOCOMMERCE = Preset(
    name="woocommerce",
    keys=frozenset({"number", "billing", "line_items"}),
    mapping={
        "contact_email": "billing.email",  # a guest may have none
        "order_id": "number",
        "sub_total": computed(_sub_total, "line_items"),  # after discounts
        "shipping_fee": "shipping_total",
        "taxes": "total_tax",
        "total": "total",
        "discount": "discount_total",
        "checkout_url": "payment_url",  # newer versions have it
        "date": "date_created_gmt",  # in UTC
        "products": {
            "each": computed(_round_prices, "line_items", "total"),
            "product_name": computed(_unescape, "name"),
            "product_price": "price",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": "total",
            "product_gallery": computed(_gallery, "image.src"),  # newer versions have it
        },
    },
    statuses={"status": _STATUSES},
)

# ----------------------------------------------------------------------------------- the plugins


def _after_discount(amount: Decimal | None, discount: Decimal | None) -> Decimal | None:
    return amount if amount is None or not discount else EXACT.subtract(amount, discount)


def _cost(cost: Decimal | None) -> Decimal | None:
    return None if cost is None else _without_noise(cost, _CENTS)


def _cost_of_line(cost: Decimal | None, quantity: Decimal | None) -> Decimal | None:
    return _cost(line_total(cost, quantity))


WOOCOMMERCE_CSV = Preset(
    name="woocommerce-csv",
    keys=frozenset({"Order Number", "Order Status", "Email (Billing)", "Item Name"}),
    is_tabular=True,
    mapping={
        "contact_email": "Email (Billing)",
        "order_id": "Order Number",
        # The plugin's is before discounts.
        "sub_total": numbers(_after_discount, "Order Subtotal Amount", "Cart Discount Amount"),
        "shipping_fee": "Order Shipping Amount",
        "taxes": "Order Total Tax Amount",
        "total": "Order Total Amount",
        "discount": "Cart Discount Amount",
        "date": "Order Date",
        "products": {
            "product_name": computed(_unescape, "Item Name"),
            "product_price": numbers(_cost, "Item Cost"),  # after discounts
            "product_quantity": ["Quantity (- Refund)", "Quantity"],
            "product_sku": "SKU",
            "product_line_total": [
                "Order Line Total",
                numbers(_cost_of_line, "Item Cost", "Quantity (- Refund)"),
            ],
        },
    },
    statuses={"Order Status": _STATUSES},
)

# Between two products in a cell, and between two fields of one: a name may have either mark.
_BETWEEN_ITEMS = re.compile(r";\s*(?=(?:id|item_id|name|product_id|sku):)")
_BETWEEN_FIELDS = re.compile(r"\|(?=[a-z_]+:)")


# An item without any of these is none.
_ITEM_FIELDS = ("name", "price", "quantity", "sku", "total")


def _parse_items(cells: Iterable[Any]) -> list[Any]:
    """The products in cells such as ``name:Mop|sku:000412|quantity:2|total:108.00``, or in JSON.

    What is not a product is empty.
    """
    items: list[Any] = []
    for cell in cells:
        text = cell.strip() if isinstance(cell, str) else ""
        for item in _split_items(text) if text else ():
            items.append(_with_price(item))
            if len(items) > MAX_ITEMS:
                return items  # too many, as the order will say
    return items


def _split_items(text: str) -> Iterable[Any]:
    if text.startswith(("[", "{")):
        try:
            found = StrictDecoder().decode(text)
        except JsonFaultError:
            return [{}]
        return found if isinstance(found, list) else [found]
    return (
        {key.strip(): value for key, _colon, value in pairs}
        for item in _BETWEEN_ITEMS.split(text)
        if (pairs := [part.partition(":") for part in _BETWEEN_FIELDS.split(item)])
    )


def _with_price(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or all(item.get(key) in (None, "") for key in _ITEM_FIELDS):
        return {}
    total = to_decimal(item.get("total"))
    if "price" not in item and total is not None:
        return {**item, "price": _unit_price(total, item.get("quantity"), _places(total))}
    return item


def _has_unreadable_item(cells: Iterable[Any]) -> bool:
    items = _parse_items(cells)
    return len(items) <= MAX_ITEMS and {} in items


WOOCOMMERCE_ITEMS_CSV = Preset(
    name="woocommerce-items-csv",
    keys=frozenset({"order_number", "billing_email", "status"}),
    recognizes=lambda row: "line_items" in row or "line_item_1" in row,
    is_tabular=True,
    mapping={
        "contact_email": "billing_email",
        "order_id": "order_number",
        "sub_total": computed(lambda cells: _sub_total(_parse_items(cells) or None), "line_item*"),
        "shipping_fee": "shipping_total",
        "taxes": ["tax_total", "total_tax"],
        "total": "order_total",
        "discount": "discount_total",
        "date": ["date", "order_date"],
        "products": {
            "each": computed(_parse_items, "line_item*"),
            "product_name": computed(_unescape, "name"),
            "product_price": "price",
            "product_quantity": "quantity",
            "product_sku": "sku",
            "product_line_total": "total",
        },
    },
    statuses={"status": _STATUSES},
    faults={
        "line_items: can't be read: expected products such as name:Mop|quantity:2|total:108.00, or "
        "as JSON": computed(_has_unreadable_item, "line_item*"),
    },
)

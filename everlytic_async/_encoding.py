"""An order as it is sent: as a model, as JSON, and the key that identifies it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, cast

import attrs
import orjson
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.orjson import make_converter

from everlytic_async._checks import format_number
from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order, Product, check_mapping

#: An order as a caller may pass it: a model, or a mapping with its fields; or why its reader could
#: not build it.
AnyOrder = Order | Mapping[str, Any] | InvalidOrderError
#: Takes an order, as it was read, and returns its idempotency key.
KeyOf = Callable[[Any], str]

_AMBIGUOUS_KEY_SUFFIX = re.compile(r"@[0-9]*$")


def coerce_order(raw: AnyOrder) -> Order:
    """The order as a model.

    Raises:
        InvalidOrderError: with every fault.
    """
    if isinstance(raw, Order):
        return raw
    if isinstance(raw, InvalidOrderError):
        raise raw
    return Order.from_mapping(raw)


def _make_writer(model: type, **hooks: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    # The models hold only what JSON holds (and Decimals): their values go out as they are.
    names = (field.name for field in attrs.fields(model))
    overrides: Any = {name: override(unstruct_hook=hooks.get(name, identity)) for name in names}
    converter = make_converter()
    return make_dict_unstructure_fn(model, converter, _cattrs_omit_if_default=True, **overrides)


_PRODUCT_TO_WIRE = _make_writer(Product)
_ORDER_TO_WIRE = _make_writer(
    Order, products=lambda products: [_PRODUCT_TO_WIRE(product) for product in products]
)


def to_wire(raw: AnyOrder) -> dict[str, Any] | InvalidOrderError:
    """What is sent of an order: its fields that are set; or why it is not valid."""
    if isinstance(raw, Order):
        return _ORDER_TO_WIRE(raw)
    return raw if isinstance(raw, InvalidOrderError) else check_mapping(raw)


def _exact_number(value: object) -> orjson.Fragment:
    """Write, digit by digit, a number that orjson would refuse: exact, huge, or a subclass."""
    if isinstance(value, Decimal | int | float):
        return orjson.Fragment(format_number(value))
    raise TypeError(f"not a value of an order: {type(value).__name__}")


def encode(order: Order) -> bytes:
    """The JSON body of a trigger: documented names, nothing unset, exact digits."""
    return encode_wire(_ORDER_TO_WIRE(order))


def encode_wire(wire: dict[str, Any]) -> bytes:
    """The JSON body of what `to_wire` returned."""
    try:
        return orjson.dumps(wire, default=_exact_number)
    except orjson.JSONEncodeError:
        # What a valid order may hold and orjson refuses without asking `default`: huge integers,
        # and names that are of a subclass of str. The products may be the caller's own dicts.
        products = [
            {
                str.__str__(name): _exact_number(value) if isinstance(value, int) else value
                for name, value in product.items()
            }
            for product in wire["products"]
        ]
        order = {str.__str__(name): value for name, value in wire.items()}
        return orjson.dumps({**order, "products": products}, default=_exact_number)


def order_key(order: Order, body: bytes) -> str:
    """What names a trigger; see `make_key`."""
    return make_key(cast("str | None", order.order_id), order.workflow_id, body)


def make_key(order_id: str | None, workflow_id: int | None, body: bytes) -> str:
    """What names a trigger: its order id and workflow id, else a digest of its body.

    ``1001`` is order 1001 without a workflow, ``1001@32`` the same in workflow 32. No two different
    pairs share a key: an order id that itself looks like a pair gets a closing ``@``.
    """
    if order_id is None:
        return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"
    name = str.__str__(order_id)  # as it is sent, whatever a subclass makes of it
    if workflow_id is not None:
        return f"{name}@{workflow_id}"
    return f"{name}@" if _AMBIGUOUS_KEY_SUFFIX.search(name.rstrip()) else name


def custom_key(key_of: KeyOf | str, raw: AnyOrder) -> str:
    """The caller's own key of an order.

    Raises:
        InvalidOrderError: it is blank.
        TypeError: it is neither text nor an integer.
    """
    key: object = key_of if isinstance(key_of, str) else key_of(raw)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # a shop's number
    if not isinstance(key, str):
        raise TypeError("a key is text")
    if not key.strip():
        raise InvalidOrderError(["key: must not be blank"])
    return key

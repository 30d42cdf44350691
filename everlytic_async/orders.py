"""`Order` and `Product`: what a trigger says, and what makes it valid.

The fields are those of the endpoint's documentation (``order_id`` in lower case, as in its sample).
An order is validated once, on construction, and every fault is reported together, with the name of
its field. What a value has to be is in ``_checks``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain, islice
from typing import Any, ClassVar, Self, TypeVar

import attrs

from everlytic_async._checks import (
    LISTS,
    MAX_ITEMS,
    FaultError,
    are_urls,
    check_amount,
    check_email,
    check_number,
    check_order_id,
    check_text,
    check_text_or_number,
    check_unique_id,
    check_url,
    check_workflow,
    get_order_id,
    is_safe_field_name,
    wrong_type,
)
from everlytic_async.errors import MAX_FAULTS, InvalidOrderError

__all__ = ["Order", "Product"]

# Fewer products than this are checked one by one.
_FEW = 4

_Check = Callable[[Any], Any]
_ModelT = TypeVar("_ModelT", bound="_Model")


class _Rules:
    """What makes a model valid: the checks of its fields, and what must be there."""

    def __init__(
        self,
        checks: dict[str, _Check],
        find_missing: Callable[[dict[str, Any]], list[str]] | None = None,
    ) -> None:
        self.checks = checks
        self.unset = dict.fromkeys(checks)
        self.rank = {name: rank for rank, name in enumerate(checks)}.__getitem__
        self.find_missing = find_missing


def _collect_faults(values: Iterable[tuple[str, _Check, Any]]) -> list[str]:
    """The faults of values, each with its path and its check: one more than are shown."""
    faults: list[str] = []
    for path, check, value in values:
        try:
            check(value)
        except FaultError as error:
            faults += [f"{path}{fault}" for fault in error.args]
            if len(faults) > MAX_FAULTS:
                break
    return faults


def _each(values: Any, check: _Check) -> tuple[Any, ...]:
    """Check every value of a list."""
    if not isinstance(values, LISTS):
        raise wrong_type("a list", values)
    values = tuple(values)
    try:
        if len(values) <= MAX_ITEMS:
            return tuple(map(check, values))
    except FaultError:
        pass  # now for all faults
    items = enumerate(values[:MAX_ITEMS])
    faults = _collect_faults((f"[{index}]", check, value) for index, value in items)
    if len(values) > MAX_ITEMS:
        faults.append(f": over {MAX_ITEMS:,} items, more than are accepted")
    raise FaultError(*faults)


def _gallery(value: Any) -> Any:
    return _each(value, check_url)


def _product(value: Any) -> Any:
    if isinstance(value, Product):
        fields = value.__dict__
        return {name: fields[name] for name in _PRODUCT_RULES.checks if fields[name] is not None}
    return _check_mapping(_PRODUCT_RULES, value)


def _product_model(value: Any) -> Any:
    return value if isinstance(value, Product) else _build(Product, _PRODUCT_RULES, value)


def _product_models(value: Any) -> Any:
    if type(value) is list and [*map(type, value)].count(Product) == len(value) <= MAX_ITEMS:
        return _at_least_one(tuple(value))  # fast
    return _at_least_one(_each(value, _product_model))


def _products(value: Any) -> Any:
    alike = _check_alike(value) if type(value) is list and len(value) >= _FEW else None
    return _at_least_one(alike or _each(value, _product))


def _at_least_one(products: Sequence[Any]) -> Sequence[Any]:
    if not products:
        raise FaultError(": at least one is required")
    return products


def _check_alike(products: list[Any]) -> Sequence[dict[str, Any]] | None:
    """Check many products field by field, in a third of the time; None if it takes a closer look.

    All must have the same fields.
    """
    if len(products) > MAX_ITEMS or {*map(type, products)} != {dict}:
        return None
    checks, names = _PRODUCT_RULES.checks, [*products[0]]
    if [*chain.from_iterable(products)] != names * len(products):
        return None
    try:
        for name, values in zip(names, zip(*map(dict.values, products)), strict=True):  # noqa: B905
            if not _all_pass(checks[name], values):
                return None
    except (KeyError, OverflowError, FaultError):
        return None
    in_order = [name for name in checks if name in names]
    if names == in_order:
        return products
    return [{name: product[name] for name in in_order} for product in products]


def _all_pass(check: _Check, values: Sequence[Any]) -> bool:
    """Whether all values pass a check, and stay as they are; if not, it may raise what they do.

    What holds for these texts in one, or for what is no smaller than any of these numbers, holds
    for each of them.
    """
    types = {*map(type, values)}
    if check in _TEXTS and types == {str}:
        check("".join(values))
    elif check in _NUMBERS and types <= {int, float}:
        check(math.hypot(*values))
    elif check is check_url and types == {str}:
        return are_urls(values)
    elif check is _gallery and types <= {*LISTS}:
        urls = [*chain.from_iterable(values)]
        return max(map(len, values)) <= MAX_ITEMS and _all_pass(check_url, urls)
    else:
        return not any(map(operator.is_not, map(check, values), values))
    return True


def _check_fields(rules: _Rules, values: dict[Any, Any], fields: dict[str, Any]) -> list[str]:
    """Set in `fields` what is sent for the values that are set; return all faults.

    Each starts where the path of the model ends: ``.total: ...``, or ``: ...`` of the whole.
    """
    checks, find_missing = rules.checks, rules.find_missing
    try:
        for name, value in values.items():
            if value is not None:
                fields[name] = checks[name](value)
            else:
                checks[name]  # raises for an unknown one
    except (KeyError, FaultError) as error:
        first: Exception | None = error  # now for all faults
    else:
        if find_missing is None or not find_missing(fields):
            return []
        first = None
    # Those of the products come last: there may be many of them.
    names = sorted(checks, key=lambda name: name == "products")
    wrong = _collect_faults(
        (f".{name}", checks[name], values[name]) for name in names if values.get(name) is not None
    )
    missing = [] if find_missing is None else find_missing(values)
    unknown = [
        f".{name}: no such field"
        if is_safe_field_name(name)
        else ": has a key that is not the name of a field"
        for name in islice((name for name in values if name not in checks), MAX_FAULTS + 1)
    ]
    faults = unknown + sorted([*wrong, *missing], key=lambda fault: fault.startswith(".products"))
    if first is not None and not faults:
        raise first  # a caller's mapping, which says something else when it is read again
    return faults


def _as_dict(mapping: Any) -> dict[Any, Any]:
    if type(mapping) is dict:
        return mapping
    if not isinstance(mapping, Mapping):
        raise wrong_type("an object", mapping)
    return {key: mapping[key] for key in mapping.keys()}  # noqa: SIM118 - it may be lazy


def _build(cls: type[_ModelT], rules: _Rules, mapping: Any) -> _ModelT:
    """Build a model from parsed JSON, or raise a `FaultError`."""
    model = object.__new__(cls)  # as `cls(**mapping)` does, in less time
    fields = model.__dict__
    fields |= rules.unset
    if faults := _check_fields(rules, _as_dict(mapping), fields):
        raise FaultError(*faults)
    return model


def _check_mapping(rules: _Rules, mapping: Any) -> dict[str, Any]:
    """What is set in parsed JSON, in the order of the wire, or raise a `FaultError`."""
    fields: dict[str, Any] = {}
    if faults := _check_fields(rules, _as_dict(mapping), fields):
        raise FaultError(*faults)
    ranks = [*map(rules.rank, fields)]
    if ranks == sorted(ranks):
        return fields
    return {name: fields[name] for name in rules.checks if name in fields}


def _find_missing(fields: dict[str, Any]) -> list[str]:
    """The faults of an order that lacks what is required."""
    faults = []
    if fields.get("contact_email") is None and fields.get("contact_unique_id") is None:
        faults.append(".contact_email or contact_unique_id: one of the two is required")
    if fields.get("products") is None:
        faults.append(".products: at least one is required")
    return faults


# `_all_pass` relies on this: if texts pass one of these checks when joined, each of them does; and
# if a number passes, each that is no larger than its absolute value does.
_TEXTS = (check_text, check_text_or_number)
_NUMBERS = (check_number, check_text_or_number)
_PRODUCT_RULES = _Rules(
    {
        "product_name": check_text,
        "product_description": check_text,
        "product_price": check_number,
        "product_quantity": check_number,
        "product_sku": check_text_or_number,
        "product_line_total": check_number,
        "product_special_price": check_number,
        "product_url": check_url,
        "product_gallery": _gallery,
    }
)
_ORDER_RULES = _Rules(
    {
        "contact_email": check_email,
        "contact_unique_id": check_unique_id,
        "order_link_url": check_url,
        "order_id": check_order_id,
        "sub_total": check_amount,
        "shipping_fee": check_amount,
        "taxes": check_amount,
        "total": check_amount,
        "discount": check_amount,
        "products": _product_models,
        "checkout_url": check_url,
        "workflow_id": check_workflow,
    },
    _find_missing,
)

#: For an order that is sent as it comes, without a model.
_WIRE_RULES = _Rules({**_ORDER_RULES.checks, "products": _products}, _find_missing)


# ------------------------------------------------------------------------------------ the models


class _Model:
    """How both models are made."""

    _rules: ClassVar[_Rules]

    def __attrs_post_init__(self) -> None:
        fields = self.__dict__  # the one way to write to a frozen model
        if faults := _check_fields(self._rules, fields, fields):
            raise InvalidOrderError([fault.removeprefix(".") for fault in faults])

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build one from parsed JSON, strictly: an unknown key is a fault; null is not set.

        Raises:
            InvalidOrderError: with every fault at once, and the order's id where it has one.
        """
        try:
            return _build(cls, cls._rules, mapping)
        except FaultError as error:
            invalid = _invalid(cls.__name__.lower(), error, mapping)
        del mapping  # so that no frame of the error shows the order
        try:
            raise invalid
        finally:
            del invalid  # this frame would refer to it, and it to this frame: a cycle


def _invalid(model: str, error: FaultError, mapping: object) -> InvalidOrderError:
    faults = [f[1:] if f.startswith(".") else f"{model}{f}" for f in error.args]
    return InvalidOrderError(faults, order_id=get_order_id(mapping))


def check_mapping(mapping: Mapping[str, Any]) -> dict[str, Any] | InvalidOrderError:
    """What is sent of an order, without a model; or an error with all faults, not raised."""
    try:
        return _check_mapping(_WIRE_RULES, mapping)
    except FaultError as error:
        return _invalid("order", error, mapping)


# Without slots a frozen class is made in half the time: attrs then writes to its __dict__ at once.
@attrs.frozen(kw_only=True, slots=False)
class Product(_Model):
    """One line of an order. No field is required; what is not set is left out of the trigger.

    Raises:
        InvalidOrderError: with every fault, when a field does not hold what it says below.

    Attributes:
        product_name: Text.
        product_description: Text.
        product_price: A number; a Decimal reaches the endpoint digit by digit.
        product_quantity: A number; shops sell 1.5 metres.
        product_sku: Text or a number; it keeps the type that it was given.
        product_line_total: A number.
        product_special_price: A number.
        product_url: An http or https URL.
        product_gallery: A list of http or https URLs.
    """

    _rules: ClassVar[_Rules] = _PRODUCT_RULES

    product_name: str | None = None
    product_description: str | None = None
    product_price: float | Decimal | None = None
    product_quantity: float | Decimal | None = None
    product_sku: str | float | Decimal | None = None
    product_line_total: float | Decimal | None = None
    product_special_price: float | Decimal | None = None
    product_url: str | None = None
    product_gallery: Sequence[str] | None = None


@attrs.frozen(kw_only=True, repr=False, slots=False)
class Order(_Model):
    """One order-notification trigger: who bought, and what.

    At least one of the contact identifiers, and at least one product, are required. What the
    documentation calls a string may be given as str, int or Decimal, or as a float, which is
    written in its shortest decimal form. Totals are not checked against each other: real shops'
    don't add up. What is not set (None) is left out of the trigger.

    Raises:
        InvalidOrderError: with every fault, each with the path of its field.

    Attributes:
        contact_email: The customer's e-mail address: one, valid by the pattern of the WHATWG HTML
            standard, with letters outside of ASCII allowed in both parts. It is trimmed.
        contact_unique_id: The customer's unique id; an int is taken as its digits.
        products: A list of `Product`, or of mappings with a product's fields.
        order_link_url: The order's page at the store.
        order_id: The order's id at the store.
        sub_total: The order's value before fees, taxes and discount.
        shipping_fee: The shipping fee.
        taxes: The taxes.
        total: The total.
        discount: The discount.
        checkout_url: The store's checkout page that shows the cart.
        workflow_id: The workflow to trigger, an integer above 0; where it is not set, the
            endpoint's choice.
    """

    _rules: ClassVar[_Rules] = _ORDER_RULES

    contact_email: str | None = None
    contact_unique_id: str | int | None = None
    order_link_url: str | None = None
    order_id: str | float | Decimal | None = None
    sub_total: str | float | Decimal | None = None
    shipping_fee: str | float | Decimal | None = None
    taxes: str | float | Decimal | None = None
    total: str | float | Decimal | None = None
    discount: str | float | Decimal | None = None
    products: Sequence[Product | Mapping[str, Any]] = ()
    checkout_url: str | None = None
    workflow_id: int | None = None

    def __repr__(self) -> str:
        # Whose order it is, and what they bought, is a customer's data; the shop's number is not.
        products: object = self.products  # anything, as long as it is not checked
        return (
            f"<Order order_id={self.order_id!r} workflow_id={self.workflow_id!r} "
            f"products={len(products) if isinstance(products, list | tuple) else '?'}>"
        )

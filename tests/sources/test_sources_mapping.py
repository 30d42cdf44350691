"""Own columns: where each field comes from, in Python, in TOML and on the command line."""

from __future__ import annotations

import io
import json
import tomllib
from datetime import date
from decimal import Decimal
from typing import Any

import attrs
import pytest
from reading import outcome, refusal

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import parse_mapping, read_orders

RECORD: dict[str, Any] = {
    "nr": "000017",
    "id": 5842016673921,
    "client": {"mail": "ann@example.com", "second": ""},
    "created": "2026-03-01T10:00:00+02:00",
    "sums": {"all": Decimal("10.10"), "none": None},
    "lines": [
        {
            "what": "Mop & Co",
            "cost": "5.05",
            "n": 1,
            "pics": [{"u": "https://a.example/1.jpg"}, {}],
        },
        {"what": "Soap", "cost": 5.05, "n": "1.5", "pics": []},
    ],
}


def only(mapping: dict[str, Any], record: Any = RECORD) -> dict[str, Any]:
    """What the mapping makes of one record."""
    text = json.dumps(record, default=float)
    (order,) = read_orders(io.StringIO(text), mapping=mapping)
    assert isinstance(order, Order), order
    return attrs.asdict(order, filter=lambda _field, value: value is not None)


BASE: dict[str, Any] = {
    "contact_email": "client.mail",
    "products": {"each": "lines", "product_name": "what"},
}


@pytest.mark.parametrize(
    ("field", "where", "value"),
    [
        ("order_id", "nr", "000017"),
        ("order_id", "id", "5842016673921"),
        ("total", "sums.all", "10.1"),
        ("total", "sums.none", None),
        ("total", "sums.all.deeper", None),
        ("order_id", "lines.1.what", "Soap"),
        ("order_id", "lines.7.what", None),
        ("contact_email", ["client.second", "none", "client.mail"], "ann@example.com"),
        ("order_id", ["none", {"constant": "x"}], "x"),
        ("workflow_id", 17, 17),
        ("order_id", {"constant": "nr"}, "nr"),
        ("order_id", {"path": "nr"}, "000017"),
        ("order_id", lambda record: record["nr"].lstrip("0"), "17"),
        (
            "order_link_url",
            "https://a.example/{nr}?m={client.mail}",
            "https://a.example/000017?m=ann%40example.com",
        ),
        (
            "order_link_url",
            "https://a.example/{contact_email}",
            "https://a.example/ann%40example.com",
        ),
        ("order_link_url", "https://a.example/{none}", None),
        ("order_link_url", "https://a.example/{lines}", None),
        ("order_id", "{nr}/{{x}}", "000017/{x}"),
        ("order_link_url", ["none", "https://a.example/{nr}"], "https://a.example/000017"),
        # Of each product in the list.
        ("product_price", "cost", [Decimal("5.05")] * 2),
        ("product_quantity", "n", [1, Decimal("1.5")]),
        ("product_gallery", "pics.u", [("https://a.example/1.jpg",), None]),
        (
            "product_url",
            "https://a.example/p?q={what}",
            ["https://a.example/p?q=Mop%20%26%20Co", "https://a.example/p?q=Soap"],
        ),
        ("product_sku", {"constant": 7}, [7, 7]),
    ],
)
def test_a_field_comes_from_where_the_mapping_says(field: str, where: Any, value: Any) -> None:
    found = only({**BASE, field: where})
    if field.startswith("product_"):
        assert [product.get(field) for product in found["products"]] == value
    else:
        assert found.get(field) == value


def test_the_three_ways_to_say_it_say_the_same() -> None:
    pairs = parse_mapping(
        [
            "contact_email=client.second|client.mail",
            "order_id=nr",
            "order_link_url=https://a.example/{nr}?a=b",
            "workflow_id:=17",
            "discount:=10.10",
            'taxes:="none"',
            "contact_unique_id=",
            "products=lines",
            "product_name=what",
            "products.product_price=cost",
            "date=created",
        ]
    )
    table = tomllib.loads(
        """
        [map]
        contact_email = ["client.second", "client.mail"]
        order_id = "nr"
        order_link_url = "https://a.example/{nr}?a=b"
        workflow_id = 17
        discount = 10.10
        taxes = {constant = "none"}
        date = "created"

        [map.products]
        each = "lines"
        product_name = "what"
        product_price = "cost"
        """,
        parse_float=Decimal,
    )["map"]
    expected = {
        "contact_email": "ann@example.com",
        "order_id": "000017",
        "order_link_url": "https://a.example/000017?a=b",
        "workflow_id": 17,
        "discount": "10.10",
        "taxes": "none",
    }
    assert only(pairs) == only(table)
    assert only(pairs).items() >= expected.items()
    assert [(p["product_name"], p["product_price"]) for p in only(pairs)["products"]] == [
        ("Mop & Co", Decimal("5.05")),
        ("Soap", Decimal("5.05")),
    ]


def test_what_the_mapping_does_not_name_is_called_as_the_field_is() -> None:
    record = {"contact_email": "a@b", "order_id": "1", "note": 1, "products": [{"name": "Mop"}]}
    found = only({"workflow_id": 17, "product_name": "name"}, record)
    assert found["products"][0].pop("product_name") == "Mop"
    del found["products"]
    assert found == {"contact_email": "a@b", "order_id": "1", "workflow_id": 17}


def test_columns_of_a_csv_are_paths_dots_and_all() -> None:
    text = "Order.No,E-Mail Address,Item\n000017,ann@example.com,Mop\n,,Soap\n"
    mapping = parse_mapping(
        ["order_id=Order.No", "contact_email=E-Mail Address", "product_name=Item"]
    )
    assert outcome(text, mapping=mapping) == ["2: 000017 (2)"]


NO_ID = "orders without order_id, while others have one: "


@pytest.mark.parametrize(
    ("rows", "more", "expected"),
    [
        ("1,ann@a,Mop|,ann@a,Soap|, ANN@a ,Brush|2,bea@a,Mop", {}, ["2: 1 (3)", "5: 2 (1)"]),
        ("1,ann@a,Mop|,,Soap|,ann@a,Brush", {}, ["2: 1 (3)"]),
        (
            "1,ann@a,Mop|,bea@a,Soap|,,Rope|,bea@a,Brush",
            {},
            ["2: 1 (1)", "3: None (2)", "5: None (1)", f"{NO_ID}2."],
        ),
        ("1,,Mop|,bea@a,Soap", {}, ["2: contact_email or", "3: None (1)", f"{NO_ID}1."]),
        # No order of the file has an id.
        (",ann@a,Mop|,ann@a,Soap", {}, ["2: None (1)", "3: None (1)", "orders have no order_id: "]),
        # By another column, or not at all.
        ("1,a@b,Mop|1,a@b,Soap", {"order_id": "Item"}, ["2: Mop (1)", "3: Soap (1)"]),
        ("1,a@b,Mop|1,a@b,Soap", {"order_id": "Item", "group_by": "Order"}, ["2: Mop (2)"]),
        ("1,a@b,Mop|1,a@b,Soap", {"group_by": None}, ["2: 1 (1)", "3: 1 (1)"]),
    ],
)
def test_a_row_without_an_id_joins_the_order_above_it_with_the_same_contact(
    rows: str, more: dict[str, Any], expected: list[str]
) -> None:
    text = "Order,Mail,Item\n" + rows.replace("|", "\n")
    mapping = {"order_id": "Order", "contact_email": "Mail", "product_name": "Item", **more}
    assert outcome(text, expected, mapping=mapping) == expected


AMOUNTS = (
    "nr,mail,item,sum,vat\n1,ann@a,Mop,5.00,1\n1,{},Soap,7.00,1.0\n"
    "2,ann@a,Mop,5,1\n2,,Soap,5.00,\n2,,Rope, ,2\n3,ann@a,Mop,,\n3,,Soap,1,\n3,,Rope,1,\n"
    "4,ann@a,Mop,,1\n4,,Soap,,1.00\n4,,Rope,9,\n4,,Tar,8,\n5,ann@a,Mop,5.00,1\n"
)
TOTAL = (
    "2 orders have rows that differ in total (lines 2, 10): the first is sent. If it is the amount "
    "of the line, map it to product_line_total"
)
TAXES = (
    "1 order has rows that differ in taxes (line 4): the first is sent. If it is the amount of the "
    "line, don't map it"
)
TWO = AMOUNTS.format("ann@a").partition("2,ann")[0]


@pytest.mark.parametrize(
    ("text", "more", "warnings"),
    [
        (AMOUNTS.format(""), {"total": "sum", "taxes": "vat"}, [TAXES, TOTAL]),
        (AMOUNTS.format(""), {"total": "sum"}, [TOTAL]),
        (AMOUNTS.format(""), {"total": ["none", "sum"]}, [TOTAL]),
        (AMOUNTS.format(""), {"product_line_total": "sum"}, []),
        (TWO, {"total": "sum", "group_by": None}, []),
        (
            TWO,
            {"total": "sum", "taxes": "vat", "group_by": "mail"},
            [TOTAL.replace("2 orders have", "1 order has").replace("lines 2, 10", "line 2")],
        ),
    ],
)
def test_amounts_in_which_the_rows_of_an_order_differ_are_counted(
    text: str, more: dict[str, Any], warnings: list[str]
) -> None:
    mapping = {"order_id": "nr", "contact_email": "mail", "product_name": "item"}
    reader = read_orders(io.StringIO(text), mapping={**mapping, **more})
    totals = [item.total for item in reader if isinstance(item, Order)]
    assert totals[0] == ("5.00" if "total" in more else None)
    assert reader.warnings == warnings


@pytest.mark.parametrize("amount", [["5"], {"a": 1}])
def test_an_amount_that_is_none_is_a_fault_of_its_order_where_the_rows_differ(amount: Any) -> None:
    first = {"order_id": "1", "contact_email": "a@example.com", "product_name": "Mop"}
    for other in ({}, {"total": amount}, {"total": [amount]}, {"total": "5.00"}):
        rows = [first | {"total": amount}, {**first, "product_name": "Soap", **other}]
        (error,) = read_orders(io.StringIO("\n".join(map(json.dumps, rows))))
        assert isinstance(error, InvalidOrderError)
        assert error.order_id == "1"
        assert [fault.partition(",")[0] for fault in error.faults] == [
            "total: expected text or a number"
        ]


def test_own_orders_have_a_date_where_the_mapping_says() -> None:
    order = {"contact_email": "a@b", "products": [{"product_name": "Mop"}]}
    days = (json.dumps({"order_id": n, "day": f"2026-03-0{n}", **order}) for n in (1, 2, 3))
    text = "\n".join(days)
    options: dict[str, Any] = {"since": date(2026, 3, 2), "until": "2026-03-03"}
    expected = ["2: 2 (1)", "before since: 1", "not before until: 1"]
    assert outcome(text, mapping={"date": "day"}, **options) == expected
    with pytest.raises(ConfigurationError, match="since and until need the time of each order"):
        list(read_orders(io.StringIO(text), since="2026-03-02"))
    with pytest.raises(ConfigurationError, match="until: expected a date or a time such as"):
        read_orders(io.StringIO(text), until="March")


def test_a_path_that_no_order_has_is_reported() -> None:
    text = json.dumps([RECORD, RECORD], default=float)
    reader = read_orders(
        io.StringIO(text),
        mapping={**BASE, "taxes": "tax", "product_sku": "SKU", "total": None},
    )
    assert reader.unmatched_fields == frozenset()
    assert len(list(reader)) == 2
    assert reader.unmatched_fields == {"taxes", "product_sku"}
    # Rows that can't be read say nothing about the mapping.
    header = "order_id,contact_email,product_name,SKU"
    reader = read_orders(io.StringIO(f"{header}\n1,x\n"), mapping={"product_sku": "SKU"})
    assert [type(order) for order in reader] == [InvalidOrderError]
    assert reader.unmatched_fields == frozenset()


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"order_id": "nro"}, "order_id: there is no key 'nro': did you mean 'nr'"),
        ({"order_id": "sums.nr"}, r"order_id: there is no key 'nr'\. The keys are 'all', 'none'"),
        ({"order_id": "nr.x"}, "order_id: there is no key 'x'"),
        ({"contact_email": "client.mial"}, "contact_email: there is no key 'mial': did you mean"),
        ({"order_id": "none.of.it"}, None),  # one of the first orders has it
        ({"order_id": "sums.none.deeper"}, None),
        ({"order_id": "lines.7.what"}, None),
        ({"order_id": ["no", "{none}"]}, None),
        ({"contact_unique_id": "crm"}, None),  # there is another contact
    ],
)
@pytest.mark.parametrize("layout", ["lines", "document"])
def test_an_id_or_contact_that_is_nowhere_is_refused_before_the_first_order(
    mapping: dict[str, Any], told: str | None, layout: str
) -> None:
    orders = [RECORD] * 3 + [RECORD | {"none": {"of": {"it": 1}}}]
    lines = [json.dumps(order, default=float) for order in orders]
    text = "\n".join(lines) if layout == "lines" else f"[{','.join(lines)}]"
    reader = read_orders(io.StringIO(text), mapping=BASE | mapping)
    if told is None:
        assert len(list(reader)) == 4
    else:
        with pytest.raises(ConfigurationError, match=told):
            next(reader)


ORDER = {"mail": "a@b", "goods": [{"what": "Mop"}]}
ONE_LIST = {"data": {"list": [ORDER]}}
AT_LIST = "its orders seem to be at 'data.list': add --map each=data.list. As it is:"
LIST_MAPPING = {"contact_email": "mail", "products": {"each": "goods", "product_name": "what"}}
ROWS = [{"mail": "a@b"}, {"no": 1, "mail": "a@b"}]
BASKETS = [{"mail": "a@b", "basket": {"lines": [{"what": "Mop"}]}}] * 2
NAMED = {"product_name": "mail"}


@pytest.mark.parametrize(
    ("value", "mapping", "message"),
    [
        (ONE_LIST, {"each": "data.lists"}, "each: there is no key 'lists': did you mean 'list'"),
        (ONE_LIST, {"each": "dat.list"}, "each: there is no key 'dat': did you mean 'data'"),
        (ONE_LIST, {"each": "data.list.goods"}, "each: there is no list of orders at 'data.list"),
        ([ONE_LIST], {"each": "data.list"}, "each: there is no list of orders at 'data.list'"),
        ([ORDER], {"products": {"each": "good"}}, "products: there is no key 'good': did you mean"),
        ([ORDER], {"group_by": "no"}, "group_by: there is no key 'no'"),
        (ROWS, {"group_by": "no", "products": NAMED}, "group_by: there is no key 'no'"),
        (ROWS, {"order_id": "no", "group_by": "no", "products": NAMED}, "group_by: there is no k"),
        (BASKETS, {"products": {"each": "basket.line"}}, "products: there is no key 'line': did y"),
        (ONE_LIST, {"each": None}, f"{AT_LIST} contact_email: there is no key 'mail'. The keys"),
        (ONE_LIST, {"each": None, "order_id": "data"}, f"{AT_LIST} contact_email: there is no"),
        (ONE_LIST, {"each": None, "contact_email": "data.list", "products": "x"}, f"{AT_LIST} pro"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1], ids=["a line", "a document"])
def test_a_path_that_finds_no_orders_is_an_error(
    value: Any, mapping: Any, message: str, indent: int | None
) -> None:
    text = json.dumps(value, indent=indent)
    assert refusal(text, mapping={**LIST_MAPPING, **mapping}).startswith(message)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([{"what": "Mop"}, {}], "products[1]: none of its fields is set"),
        ([{"what": "Mop"}, {"what": None, "cost": ""}], "products[1]: none of its fields is set"),
        ([{"what": "Mop"}, {"title": "Mop"}], "products[1]: none of its fields is set"),
        *((value, "products") for value in (None, "Mop", {"a": 1}, [7], [])),
    ],
)
def test_products_that_say_nothing_are_the_orders_fault(lines: Any, fault: str) -> None:
    text = json.dumps({**RECORD, "lines": lines}, default=float)
    (found,) = read_orders(io.StringIO(text), mapping=BASE | {"order_id": "nr"})
    assert isinstance(found, InvalidOrderError)
    assert (found.faults[0][: len(fault)], found.order_id) == (fault, "000017")


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"contact_mail": "x"}, "contact_mail is not a field: did you mean contact_email"),
        ({"products": {"contact_email": "x"}}, "products.contact_email is not a field"),
        ({"xyz": "x"}, "xyz is not a field: the known ones are contact_email, "),
        ([("order_id", "x")], "mapping: expected a table of fields"),
        ({"contact_email": "mail", "order_id": "nr"}, "order_id: there is no column 'nr': did you"),
        ({"contact_email": "mail", "order_id": ""}, "order_id: expected a path"),
        ({"contact_email": "mail", "order_id": []}, "order_id: expected a path"),
        ({"contact_email": "mail", "order_id": {"path": 7}}, "order_id: expected a path"),
        ({"contact_email": "mail", "order_id": {"a": "b"}}, "a table in a mapping has one key of"),
        ({"contact_email": "mail", "order_id": "{nr"}, "order_id: the template is broken"),
        ({"contact_email": "mail", "order_id": "{nrs:>9}"}, "braces in a template hold"),
        ({"contact_email": "mail", "order_id": "{}"}, "braces in a template hold"),
        ({"contact_email": None, "contact_unique_id": None}, "leaves an order without a contact"),
    ],
)
def test_a_mapping_that_can_not_be_meant_is_refused(mapping: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        list(read_orders(io.StringIO("nrs,mail,item\n1,a@example.com,Mop\n"), mapping=mapping))


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["contact_email"], "'contact_email': expected FIELD=PATH"),
        (["contact_mail=x"], "contact_mail is not a field: did you mean contact_email"),
        (["order_id=a", "order_id=b"], "order_id: mapped more than once"),
        (["workflow_id:=seventeen"], "workflow_id: after := comes JSON"),
        (["workflow_id:=NaN"], "workflow_id: after := comes JSON"),
        (["total:=[1, -Infinity]"], "total: after := comes JSON"),
    ],
)
def test_a_pair_that_can_not_be_meant_is_refused(pairs: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_mapping(pairs)


# ---------------------------------------------------------------- what an invalid order is called

ROWS = "order_id,contact_email,product_name\n77,ann@example.com,Mop\n77,bob@example.com,Mop\n"
NAMES = {"order_id": "Nr", "contact_email": "Mail"}
NESTED = '{"nr": 77, "client": {"mail": "ann"}, "lines": []}'


@pytest.mark.parametrize(
    ("format_", "text", "mapping", "order_id"),
    [
        ("jsonl", '{"order_id": 77, "products": []}', None, "77"),
        ("json", '[{"order_id": "77", "products": []}]', None, "77"),
        ("csv", "order_id,contact_email,product_name\n77,ann,Mop\n", None, "77"),
        ("csv", "Nr,Mail,Item\n77,ann,Mop\n", NAMES, "77"),
        ("csv", ROWS, None, "77"),  # its mapping finds the fault
        ("jsonl", NESTED, {**BASE, "order_id": "nr"}, "77"),
        ("jsonl", "nonsense", None, None),
        ("jsonl", '{"order_id": 77, "order_id": 78}', None, None),
        ("csv", "order_id,contact_email,product_name\n77,ann@example.com\n", None, None),
    ],
)
def test_an_invalid_order_has_its_id_if_it_could_be_read(
    format_: str, text: str, mapping: Any, order_id: str | None
) -> None:
    (found,) = read_orders(io.StringIO(text), format_, mapping=mapping)
    assert isinstance(found, InvalidOrderError)
    assert (found.order_id, found.line is None) == (order_id, False)


# ------------------------------------------------------------------------------- NaN, infinities


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("text", "mapping", "fault"),
    [
        ('{"m": "a@b", "p": "x", "nr": BAD}', {"order_id": "nr"}, "nr"),
        # A text and a sum would hide it, and of a group it would hide who belongs to it.
        ('{"m": "a@b", "p": "x", "nr": BAD}', {"order_id": "R{nr}"}, "nr"),
        ('{"m": "a@b", "p": "x", "nr": BAD}', {"order_id": lambda row: str(row["nr"])}, "nr"),
        ('{"m": "a@b", "p": "x", "nr": BAD}', {"group_by": "nr"}, "nr"),
        ('{"m": "a@b", "p": "x", "a": {"ann@b": [1, {"c": BAD}]}}', {}, "a.…[1].c"),
        (
            '{"number": 1, "billing": 1, "line_items": [{"total": BAD}]}',
            None,
            "line_items[0].total",
        ),
        # A path that the first orders lack: more are read ahead.
        (
            '{"m": "a@b", "i": [{"n": "x", "p": BAD}]}\n{"m": "a@b", "nr": 3, "i": [{"n": "x"}]}',
            {"order_id": "nr", "products": {"each": "i", "product_price": "p"}},
            "i[0].p",
        ),
    ],
)
def test_nan_and_infinities_are_never_mapped(
    bad: str, text: str, mapping: dict[str, Any] | None, fault: str
) -> None:
    if mapping is not None:
        mapping = {"contact_email": "m", "product_name": "p", **mapping}
    first, _, rest = text.partition("\n")
    lines = [first.replace("BAD", number) for number in ("1", bad, "2")]
    found = list(read_orders(io.StringIO("\n".join([*lines, rest])), mapping=mapping))
    (told,) = (item for item in found if isinstance(item, InvalidOrderError) and item.line == 2)
    assert told.faults == (f"{fault}: holds NaN or an infinity",)


def test_a_function_that_raises_is_the_fault_of_its_order() -> None:
    def number(row: dict[str, Any]) -> str:
        return str(int(row["nr"]))

    mapping = {"contact_email": "mail", "product_name": "item", "order_id": number}
    text = "nr,mail,item\n1,a@b,Mop\nann,a@b,Mop\n3,a@b,Mop\n4,a@b,Mop\n"
    found = list(read_orders(io.StringIO(text), mapping=mapping))
    assert [type(item) for item in found] == [InvalidOrderError] * 3 + [
        Order
    ]  # and those beside it
    assert str(found[1]) == "line 3: order: reading it raised ValueError"

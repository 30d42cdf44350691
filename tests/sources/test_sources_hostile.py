"""Files that were made to do harm: each is read in linear time and little memory.

Each is read in a process of its own, which is killed after 20 s of CPU; what takes quadratic time
takes far longer. The order that does harm is a fault and the others are read; where nothing can be
read after it, an error says so.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import hostile_reader
import pytest
from reading import starts

MOST_MB = 100
ANN = "ann@example.com"
HEADER = b"order_id,contact_email,product_name\n"


def row(number: int) -> bytes:
    return b"%d,ann@example.com,Mop\n" % number


def line(number: int, more: bytes = b"") -> bytes:
    start = b'{"order_id": "%d", "contact_email": "ann@example.com", ' % number
    return start + b'"products": [{"product_name": "Mop"}]%s}\n' % more


def addressed(more: bytes) -> bytes:
    return b'{"contact_email": "ann@example.com", %s}\n' % more


def amid_rows(harmful: bytes) -> bytes:
    return HEADER + row(1) + harmful + row(2)


def amid_lines(*harmful: bytes) -> bytes:
    return line(1) + b"".join(harmful) + line(2)


def order(**fields: Any) -> bytes:
    shopify = {
        "name": "#1",
        "email": "ann@example.com",
        "total_price": "1.00",
        "line_items": [{"name": "Mop", "price": "1.00", "quantity": 1}],
    }
    return json.dumps(shopify | fields).encode()


@attrs.frozen
class Hostile:
    """A file, and what is read of it: the ids of its orders; faults, or the error that ends it."""

    data: Callable[[], bytes]
    fault: str = ""
    error: str = ""
    faults: list[str] = attrs.field()
    orders: list[str] = attrs.field()
    invalid: int | None = attrs.field()
    name: str = "orders"
    options: dict[str, Any] = attrs.field(factory=dict)

    @faults.default
    def _faults(self) -> list[str]:
        return [self.fault] if self.fault else []

    @orders.default
    def _orders(self) -> list[str]:
        return [] if self.error else ["1", "2"]

    @invalid.default
    def _invalid(self) -> int:
        return 0 if self.error else len(self.faults)


class Slow(Hostile):
    """A third of a second of CPU, and more; of each kind one or more are left for the short suite.

    All Parquet files take time, for pyarrow is loaded.
    """


def shopify_csv(*created: bytes) -> bytes:
    header = b"Name,Email,Lineitem name,Lineitem quantity,Lineitem price,Created at\n"
    rows = [(1, b"2026-03-01"), *enumerate(created, 9), (2, b"2026-03-01")]
    return header + b"".join(b"%d,ann@example.com,Mop,1,1.00,%s\n" % row for row in rows)


def parquet(**columns: Any) -> bytes:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    options = columns.pop("options", {})
    file = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table, file, compression="zstd", write_statistics=False, **options)
    return file.getvalue()


def parquet_rows(size: int) -> bytes:
    pa = pytest.importorskip("pyarrow")
    texts = pa.array([0, *[1] * 256, 0], pa.int32())
    return parquet(
        contact_email=pa.DictionaryArray.from_arrays(texts, [ANN, "x" * size]),
        order_id=["1", *["9"] * 256, "2"],
        products=[[{"product_name": "Mop"}]] * 258,
    )


def parquet_list_of(values: Any) -> bytes:
    pa = pytest.importorskip("pyarrow")
    lists = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    return parquet(contact_email=[ANN], products=lists)


def nulls(count: int, kind: Any = "int8") -> Any:
    return pytest.importorskip("pyarrow").nulls(count, kind)


def fixed_length(count: int, size: int) -> Any:
    pa = pytest.importorskip("pyarrow")
    kind = pa.binary(size)
    indices = pa.array([0] * count, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array([b"x" * size], kind)).cast(kind)


def parquet_null(**kinds: Any) -> bytes:
    """8 orders; in each, the columns of these types are null."""
    pa = pytest.importorskip("pyarrow")
    columns = {name: pa.array([None] * 8, kind) for name, kind in kinds.items()}
    return parquet(
        order_id=[str(n) for n in range(8)],
        contact_email=[ANN] * 8,
        products=[[{"product_name": "Mop"}]] * 8,
        **columns,
    )


def null_lists(*lengths: int) -> Any:
    """The type of lists of fixed length, nested."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.int8()
    for length in lengths:
        kind = pa.list_(kind, length)
    return kind


def struct(**kinds: Any) -> Any:
    return pytest.importorskip("pyarrow").struct(list(kinds.items()))


def tensor(size: int) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.fixed_shape_tensor(pa.int8(), [size])


def parquet_nested(count: int, size: int) -> bytes:
    pa = pytest.importorskip("pyarrow")
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["x" * size])
    products = pa.StructArray.from_arrays([texts], ["product_name"])
    lists = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), products)
    return parquet(contact_email=["ann@example.com"], products=lists)


def gid(kind: str, number: int = 1) -> str:
    return f"gid://shopify/{kind}/{number}"


def bulk(number: int, **more: Any) -> bytes:
    one = {"id": gid("Order", number), "name": f"{number}", "email": ANN}
    return json.dumps(one | more).encode() + b"\n"


def part(parent: int, number: int, name: str = "Mop") -> bytes:
    item = {"id": gid("LineItem", number), "name": name, "quantity": 1}
    return json.dumps(item | {"__parentId": gid("Order", parent)}).encode() + b"\n"


def amid_parts(harmful: bytes) -> bytes:
    return bulk(1) + part(1, 1) + harmful + bulk(2) + part(2, 2)


# As Excel writes them: with the texts of cells in a part of their own.
TEXTS = "xl/sharedStrings.xml"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHARED = f'<sst xmlns="{MAIN}"><si><t>Mop</t></si></sst>'.encode()
TYPE = (
    f'<Override PartName="/{TEXTS}" ContentType="application/vnd.openxmlformats-officedocument.'
    'spreadsheetml.sharedStrings+xml" />'
).encode()


def xlsx(**parts: Callable[[bytes], bytes]) -> bytes:
    """A workbook of two orders, some of whose parts were made to do harm."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in ("order_id contact_email product_name", f"1 {ANN} Mop", f"2 {ANN} Mop"):
        book.active.append(row.split())
    file, harmful = io.BytesIO(), io.BytesIO()
    book.save(file)
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(harmful, "w", 8, compresslevel=1) as to:
        to.writestr(TEXTS, parts.pop("sharedStrings", bytes)(SHARED))
        for name in before.namelist():
            change = parts.get(name.rpartition("/")[2].partition(".")[0], bytes)
            data = before.read(name).replace(b"</Types>", TYPE + b"</Types>")
            data = data.replace(b't="inlineStr"><is><t>Mop</t></is>', b't="s"><v>0</v>')
            to.writestr(name, change(data))
    return harmful.getvalue()


#: What ends in which part.
ROWS, SHEET, STRINGS, STYLES = b"</sheetData>", b"</worksheet>", b"</sst>", b"</cellXfs>"
PARTS = {ROWS: "sheet1", SHEET: "sheet1", STRINGS: "sharedStrings", STYLES: "styles"}


def filled(end: bytes, more: bytes, count: int = 1, around: bytes = b"%s") -> Callable[[], bytes]:
    """A workbook that has this so many times before that end."""

    def fill(part: bytes) -> bytes:
        return part.replace(end, around % (more * count) + end, 1)

    return lambda: xlsx(**{PARTS[end]: fill})


#: For a line: keys that take the most memory when decoded.
OBJECTS = b",".join([b"{}"] * 340_000)
MANY = b", ".join(b'"a%d": 0' % n for n in range(70_000))

MANY_EXCEL = "SourceError: the Excel workbook has so many"
GROUP = "SourceError: the Parquet file has a row group with"
FIXED = "SourceError: the Parquet file has values of fixed length"
ALONE = {"mapping": {"group_by": None}}
MAPPED = {"mapping": {"workflow_id": 7}}
TOO_LONG = "is longer than 2,097,152 characters"

FILES: dict[str, Hostile] = {
    # Each of these lines ends inside of a quoted cell, wherever it begins.
    "quotes that never close": Hostile(
        lambda: amid_rows(b'b","\n' * 60_000),
        fault="line 3: is not CSV: a quote is not closed within 10,000 lines and 1,048,576 char",
        invalid=60_000,
        options=ALONE,
    ),
    "one quote and a long rest": Slow(
        lambda: gzip.compress(HEADER + row(1) + b'"\n' + b"x,y\n" * 300_000, 1),
        orders=["1"],
        fault="line 3: is not CSV: a quote is not closed within 10,000 lines",
        options=ALONE,
        invalid=300_001,
    ),
    "one quote and a line without end": Slow(
        lambda: gzip.compress(amid_rows(b'"' + b"x" * 150_000_000 + b"\n"), 1),
        fault="line 3: is longer than 1,048,576 bytes",
        options=ALONE,
    ),
    "quotes that close at the end of huge cells": Hostile(
        lambda: amid_rows(b'9,"%s\n%s",Mop\n' % (b"x" * 500_000, b'""' * 200_000)),
        fault="line 3: contact_email",
    ),
    "wrong rows of one order": Slow(
        lambda: gzip.compress(amid_rows(b"9,x\n" * 200_000)),
        fault="line 3: has 2 cells, and the header 3",
    ),
    "rows of orders, all different in their last cell": Slow(
        lambda: shopify_csv(
            b"2026-03-01"
            + b"".join(
                b"\n%d,ann@example.com,Mop,1,1.00,%d" % (number, place)
                for number in range(10, 16)
                for place in range(10_000)
            )
        ),
        orders=["1", "9", *map(str, range(10, 16)), "2"],
        invalid=0,
    ),
    "more rows than an order has": Hostile(
        lambda: amid_rows(b"".join(b"9,ann@example.com,Mop %d\n" % n for n in range(40_000))),
        fault="line 3: has more than 10,000 rows",
    ),
    "wide rows of one order": Slow(
        lambda: gzip.compress(
            amid_rows(b"".join(b"9,ann@example.com,%d\n" % n for n in range(3_000))).replace(
                b"\n", b"," * 5_000 + b"\n"
            ),
            1,
        ),
        fault="line 3: its rows have more than 500,000 cells or",
        options={"mapping": {"product_sku": "product_name"}},
    ),
    "long rows of one order": Slow(
        lambda: gzip.compress(
            amid_rows(
                b"".join(b"9,ann@example.com,%d%s\n" % (n, b"x" * 500_000) for n in range(100))
            ),
            1,
        ),
        fault="line 3: its rows have more than",
    ),
    "long cells, all different, in columns of texts and numbers": Slow(
        lambda: gzip.compress(
            amid_rows(
                b"".join(
                    b"9,ann@example.com,%d,%d%s\n" % (n, n, b"x" * 500_000) for n in range(300)
                )
            )
            .replace(b"_name\n", b"_name,product_price\n", 1)
            .replace(b"Mop\n", b"Mop,1\n"),
            1,
        ),
        fault="line 3: products[0].product_price: expected a number",
        options=ALONE,
        invalid=300,
    ),
    "a header of too many columns": Hostile(
        lambda: b"order_id" + b",a" * 400_000 + b"\n",
        error="ConfigurationError: the first line has more than 10,000 columns",
        name="orders.csv",
    ),
    "blanks in dates": Hostile(
        lambda: shopify_csv(
            b"2026-03-01" + b" " * 900_000 + b"x",
            b"2026-03-01" + (b" " * 30_000 + b"U") * 30,
        ),
        fault="line 3: date: expected a time",
        options={"since": "2026-01-01"},
        invalid=2,
    ),
    "lines that repeat, nest and count without end": Hostile(
        lambda: amid_lines(
            *[b'{"products":1%s}\n' % (b',"total":1' * 100_000)] * 6,
            b'{"products": [%s]}\n' % b",".join([b"9"] * 9_999),
            b"[" * 500_000 + b"\n",
            b'{"a":' * 150_000 + b"\n",
            line(9, b', "total": ' + b"9" * 900_000),
            line(9, b', "total": 1.' + b"9" * 900_000),
            addressed(b'"products": [%s]' % OBJECTS),
            addressed(
                b'"products": [{"product_gallery": [%s]}]' % b",".join([b'"http://a"'] * 85_000)
            ),
        ),
        faults=[
            *[f"line {n}: total: given more than once in one object" for n in range(2, 8)],
            "line 8: contact_email or",
            "line 9: is nested too deeply",
            "line 10: is nested too deeply",
            "line 11: holds a number of too many digits",
            "line 12: holds a number of too many digits",
            "line 13: products: over 10,000 items, more than are accepted",
            "line 14: products[0].product_gallery: over 10,000 items",
        ],
    ),
    "lines with NaN, many and at the bottom": Hostile(
        lambda: amid_lines(
            line(9, b', "total": [%s]' % b",".join([b"NaN"] * 200_000)),
            line(9, b', "total": %sNaN%s' % (b"[" * 700, b"]" * 700)),
        ),
        faults=["line 2: total", "line 3: …[0]"],
        options=MAPPED,
    ),
    "numbers that nothing can calculate with": Hostile(
        lambda: (
            b"["
            + b",".join(
                [order()]
                + [
                    order(line_items=[{"name": "Mop", "price": 7, "quantity": 3}]).replace(
                        b"7,", number + b","
                    )
                    for number in (
                        b"1e9999999",
                        b"1e-9999999",
                        b"1e99999999999999999999",
                        b"7" * 2_000,
                    )
                ]
                + [order(name="#2")]
            )
            + b"]"
        ),
        orders=["#1", "#2"],
        fault="line 2: holds a number of too many digits",
        invalid=4,
    ),
    "text amounts that nothing can calculate with": Hostile(
        lambda: shopify_csv(b"2026-03-01").replace(
            b"9,ann@example.com,Mop,1,1.00", b"9,ann@example.com,Mop,1e999,1e9999999"
        ),
        fault="line 3: products[0].product_price: expected a number, got text",
    ),
    "an object of keys": Slow(
        lambda: gzip.compress(
            b"{" + b",\n".join(b'"k%d":[{}]' % n for n in range(300_000)) + b"}", 1
        ),
        orders=[],
        fault=f"line 1: {TOO_LONG}",
    ),
    "an object of wrappers": Slow(
        lambda: b'{"a": 1,\n' + MANY + b"".join(b', "data": 0' for _ in range(70_000)) + b"}",
        orders=[],
        fault="line 1: a key: given more than once in one object",
    ),
    "a list of objects in an order": Slow(
        lambda: (
            b"[%s]"
            % b",".join([line(1), line(9, b', "meta": [%s, %s]' % (OBJECTS, OBJECTS)), line(2)])
        ),
        fault="line 2: meta: no such field",
    ),
    "a list of orders that are too long or nested too deeply": Slow(
        lambda: gzip.compress(
            b'{"orders": [%s, %s1%s, {"a": %s%s}, {%s{}]}, %s]}'
            % (
                line(1),
                b"[" * 900_000,
                b"]" * 900_000,
                b'{"]":' * 3_000_000,
                b'"\\""' + b"}" * 3_000_000,
                b'"meta": [' + (OBJECTS + b",") * 99,
                line(2),
            ),
            1,
        ),
        faults=[
            "line 2: is nested too deeply",
            "line 3: is nested too deeply",
            f"line 4: {TOO_LONG}",
        ],
    ),
    "orders that are too long, one after another": Slow(
        lambda: gzip.compress(amid_lines(line(9, (b", " + MANY) * 3 + b', "items": [{}]')), 1),
        fault=f"line 2: {TOO_LONG}",
        options={"format": "json"},
    ),
    "a text that is too long": Hostile(
        lambda: gzip.compress(
            b'[%s, {"a": "%s]"}, "%s", %s, %s]'
            % (line(1), b'x\\"]\\\\' * 600_000, b"\\\\" * 3_000_000, b"9" * 3_000_000, line(2)),
            1,
        ),
        fault=f"line 2: {TOO_LONG}",
        invalid=3,
    ),
    "an order cut off in what is nested too deeply": Slow(
        lambda: b"[%s, %s" % (line(1), b'[{"a":' * 900_000),
        orders=["1"],
        invalid=1,
        fault="line 2: is nested too deeply",
        error="SourceError: the JSON ends too early, after order 2",
    ),
    "blank lines": Hostile(lambda: gzip.compress(amid_lines(b"\n" * 1_000_000), 1), invalid=0),
    "blanks at the beginning": Hostile(
        lambda: gzip.compress(b" \n" * 3_000_000 + line(2), 1),
        error="ConfigurationError: its first 1,048,576 bytes are blank",
    ),
    "a line without end": Slow(
        lambda: gzip.compress(amid_lines(b"x" * 150_000_000 + b"\n"), 1),
        fault="line 2: is longer than 1,048,576 bytes",
    ),
    "wrappers in wrappers": Hostile(
        lambda: b'{"data":\n' * 100_000 + b"1" + b"}" * 100_000,
        orders=[],
        fault="line 1: is nested too deeply",
    ),
    "a cell of products": Hostile(
        lambda: (
            b"order_number,status,billing_email,line_items\n"
            + f"1,completed,{ANN},name:Mop|quantity:1\n".encode()
            + f"9,completed,{ANN},".encode()
            + b"sku:;" * 200_000
            + f"\n2,completed,{ANN},name:Mop|quantity:1\n".encode()
        ),
        fault="line 3: products: over 10,000 items, more than are accepted",
    ),
    "numbers that are nearly numbers": Hostile(
        lambda: shopify_csv(b"2026-03-01").replace(
            b"9,ann@example.com,Mop,1,1.00",
            b"9,ann@example.com,Mop,1,1" + b" 11" * 300 + b"x",
        ),
        fault="line 3: products[0].product_price: expected a number, got text",
        options={"thousands": " "},
    ),
    "columns that are no fields": Hostile(
        lambda: b",".join(b"contact emails %d" % n for n in range(4_000)) + b"\n",
        error="ConfigurationError: 4000 of its 4000 columns are not fields of an order",
        name="orders.csv",
    ),
    "a bulk operation of one order": Hostile(
        lambda: amid_parts(bulk(9) + b"".join(part(9, n) for n in range(50_000))),
        fault="line 3: has more than 10,000 line items or 8,388,608 bytes of them",
    ),
    "a bulk operation of long lines": Slow(
        lambda: gzip.compress(
            amid_parts(bulk(9) + b"".join(part(9, n, "x" * 900_000) for n in range(200))), 1
        ),
        fault="line 3: has more than 10,000 line items or 8,388,608 bytes of them",
    ),
    "a bulk operation of one order, again and again": Slow(
        lambda: amid_parts(
            bulk(9, cancelledAt="x") * 9_000 + b"".join(part(9, n) for n in range(9_000))
        ),
        orders=["1"],
        invalid=None,
    ),
    "a bulk operation without orders": Slow(
        lambda: bulk(1) + part(1, 1) + b"".join(part(9, n) for n in range(100_000)),
        orders=["1"],
        fault="line 3: belongs to an order that is not in the file",
        invalid=100_000,
    ),
    "Excel: rows without end": Slow(
        filled(ROWS, b"<row/>", 20_000_000), error=f"{MANY_EXCEL} rows"
    ),
    "Excel: as many rows as it may have": Slow(
        filled(ROWS, b'<row ht="15" customHeight="1"/>', 1_000_000), invalid=0
    ),
    "Excel: a row that is the last": Slow(
        filled(ROWS, b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'), invalid=0
    ),
    "Excel: a cell without end": Slow(
        filled(ROWS, b"x", 150_000_000, b'<row><c t="inlineStr"><is><t>%s</t></is></c></row>'),
        error=f"{MANY_EXCEL} cells in a row",
    ),
    "Excel: cells without end": Hostile(
        filled(ROWS, b"<c/>", 5_000_000, b"<row>%s</row>"),
        error=f"{MANY_EXCEL} cells in a row",
    ),
    "Excel: what comes after the rows": Hostile(
        filled(SHEET, b"<x/>", 5_000_000),
        error=f"{MANY_EXCEL} cells in a row",
    ),
    "Excel: texts without end": Slow(
        filled(STRINGS, b"x", 99_000_000, b"<si><t>%s</t></si>"),
        error=f"{MANY_EXCEL} texts",
    ),
    "Excel: as many texts as it may have": Slow(
        filled(STRINGS, b"".join(b"<si><t>x%d</t></si>" % n for n in range(490_000))),
        invalid=0,
    ),
    "Excel: styles without end": Hostile(
        filled(STYLES, b"<xf/>", 1_000_000), error=f"{MANY_EXCEL} styles"
    ),
    "Excel: as many styles as it may have": Slow(filled(STYLES, b"<xf/>", 49_000), invalid=0),
    "Excel: entities in entities": Hostile(
        lambda: xlsx(
            sharedStrings=lambda data: data.replace(
                b"<sst",
                b'<!DOCTYPE x [<!ENTITY e0 "xxxxxxxxxxxxxxxxxxxx">'
                + b"".join(
                    b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 20) for n in range(1, 9)
                )
                + b"]><sst",
            ).replace(b"<t>Mop", b"<t>&e8;"),
        ),
        error="SourceError: the Excel workbook can't be read",
    ),
    "Parquet: one long text for many rows": Hostile(
        lambda: parquet_rows(5_000_000),
        fault="line 2: takes over 2,097,152 bytes",
        invalid=256,
    ),
    "Parquet: one text for many products": Slow(
        lambda: parquet_nested(700_000, 1_000_000),
        orders=[],
        fault="line 1: takes over 2,097,152 bytes",
    ),
    "Parquet: a list without end": Slow(
        lambda: parquet_list_of(nulls(50_000_000)),
        error=f"{GROUP} over 3,000,000 values",
    ),
    "Parquet: a long list": Hostile(
        lambda: parquet_list_of(nulls(2_000_000)),
        orders=[],
        fault="line 1: takes over 2,097,152 bytes",
    ),
    "Parquet: texts that share their beginnings": Slow(
        lambda: parquet(
            contact_email=["x" * 1_000_000] * 256,
            options={
                "use_dictionary": False,
                "column_encoding": {"contact_email": "DELTA_BYTE_ARRAY"},
            },
        ),
        orders=[],
        fault="line 1: contact_email: expected an e-mail address, found no @",
        invalid=256,
    ),
    "Parquet: many columns of long texts": Slow(
        lambda: parquet(
            contact_email=[ANN] * 256, **{f"c{n}": ["x" * 30_000] * 256 for n in range(200)}
        ),
        orders=[],
        fault="line 1: takes over 2,097,152 bytes",
        invalid=256,
        options={"mapping": {"contact_email": "contact_email"}},
    ),
    "Parquet: many columns, packed": Slow(
        lambda: parquet(contact_email=[ANN], **{f"c{n}": ["x" * 1_000_000] for n in range(300)}),
        error=f"{GROUP} columns that unpack to 300,",
        options={"mapping": {"contact_email": "contact_email"}},
    ),
    "Parquet: a list of many columns": Slow(
        lambda: parquet_list_of(nulls(2_000_000, struct(**dict.fromkeys("abcdefghij", "int64")))),
        error=f"{GROUP} rows with over 3,000,000 values",
    ),
    "Parquet: values of fixed length": Slow(
        lambda: parquet(contact_email=[ANN] * 200, order_id=fixed_length(200, 1_000_000)),
        error=f"{FIXED} of 1,000,000 bytes a row",
    ),
    "Parquet: values of fixed length in a list": Hostile(
        lambda: parquet_list_of(fixed_length(200, 1_000_000)),
        error=f"{FIXED} of 1,000,000 bytes a row",
    ),
    "Parquet: null lists of fixed length": Hostile(
        lambda: parquet_null(order_link_url=null_lists(20_000_000)),
        error=f"{FIXED} of 20,000,000 bytes a row, most of them in column 'order",
    ),
    "Parquet: null lists of fixed length, nested": Slow(
        lambda: parquet_null(order_link_url=null_lists(5_000, 4_000)),
        error=f"{FIXED} of 20,000,000 bytes a row",
    ),
    "Parquet: null lists of fixed length, in a struct": Slow(
        lambda: parquet_null(order_link_url=struct(a=null_lists(9_000_000))),
        error=f"{FIXED} of 9,000,000 bytes a row",
    ),
    "Parquet: a null tensor": Slow(
        lambda: parquet_null(order_link_url=tensor(9_000_000)),
        error=f"{FIXED} of 9,000,000 bytes a row",
    ),
    "Parquet: null lists of fixed length, in many columns": Slow(
        lambda: parquet_null(**{f"a{n}": null_lists(30_000) for n in range(300)}),
        error=f"{FIXED} of 9,000,000 bytes a row",
    ),
    "Parquet: null lists of fixed length, in a list": Hostile(
        lambda: parquet_list_of(nulls(40_000, null_lists(9_000))),
        error=f"{GROUP} 360,000,000 bytes of fixed length in the lists of one column",
    ),
    "Parquet: null lists of fixed length, in a list of columns": Slow(
        lambda: parquet_list_of(
            nulls(5_000, struct(**dict.fromkeys("abcdefghij", null_lists(3_000))))
        ),
        error=f"{GROUP} rows with over 16,777,216 bytes in their lists",
    ),
    "Parquet: short lists of fixed length": Hostile(
        lambda: parquet_null(order_link_url=null_lists(30_000)),
        orders=[str(n) for n in range(8)],
        invalid=0,
    ),
    "Parquet: short values of fixed length": Slow(
        lambda: parquet(
            contact_email=[ANN] * 900,
            order_id=[str(n) for n in range(900)],
            product_name=fixed_length(900, 30_000),
        ),
        orders=[],
        fault="line 1: products[0].product_name: expected text, got a bytes",
        invalid=900,
    ),
    "Parquet: texts behind their lengths": Hostile(
        lambda: parquet(
            contact_email=["x" * 60_000] * 500,
            options={
                "use_dictionary": False,
                "column_encoding": {"contact_email": "DELTA_LENGTH_BYTE_ARRAY"},
            },
        ),
        error=f"{GROUP} columns that unpack to 30,",
    ),
}


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, hostile_reader.__file__], stdin=pipe, stdout=pipe, text=True
    ) as process:
        yield process
        # Leaving it closes its input, and it ends.


@pytest.mark.skipif(sys.platform != "linux", reason="limits and figures of Linux")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * isinstance(file, Slow))
        for name, file in FILES.items()
    ],
)
def test_a_hostile_file_is_read_in_linear_time_and_little_memory(
    name: str, reader: subprocess.Popen[str], tmp_path: Path
) -> None:
    hostile = FILES[name]
    path = tmp_path / hostile.name
    path.write_bytes(hostile.data())
    assert reader.stdin is not None
    assert reader.stdout is not None
    print(json.dumps([str(path), hostile.options]), file=reader.stdin, flush=True)
    line, _, status = reader.stdout.readline().rpartition(" ")
    assert int(status) == 0
    found = json.loads(line)
    error = found["error"] or ""
    assert error.startswith(hostile.error) if hostile.error else not error
    assert found["orders"] == hostile.orders
    assert starts(found["faults"][: len(hostile.faults)], hostile.faults) == hostile.faults
    if hostile.invalid is not None:
        assert found["invalid"] == hostile.invalid
    assert found["longest"] < 10_000
    assert found["peak_mb"] < MOST_MB

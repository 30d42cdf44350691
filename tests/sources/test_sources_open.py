"""However an input comes: packed or not, from a path, a file or a pipe, and of any format."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading import Pipe, brief, fields, read, refusal

from everlytic_async import ConfigurationError, EverlyticError, Order, SourceError
from everlytic_async.sources import FORMATS, read_orders

DATA = Path(__file__).parent / "data"
LINE = b'{"order_id": "000003", "contact_email": "ann@example.com", "products": [{}]}\n'
CSV = b"order_id,contact_email,product_name\n000003,ann@example.com,Mop\n"
INPUTS = {
    "jsonl": LINE * 3,
    "json": b"[" + b",\n".join([LINE] * 3) + b"]",
    "csv": CSV,
    "tsv": CSV.replace(b",", b"\t"),
    "woocommerce": (DATA / "woocommerce.json").read_bytes(),
    "shopify": (DATA / "shopify.json").read_bytes(),
    "shopify-csv": (DATA / "shopify_orders.csv").read_bytes(),
    "magento": (DATA / "magento.json").read_bytes(),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
    "in pieces.gz": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
    "in pieces.zst": lambda data: zstd.compress(data[:50]) + zstd.compress(data[50:]),
}


def shown(found: Any) -> list[str]:
    return [f"{line} {item!r}" for line, item in found]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("format_", INPUTS)
def test_the_format_is_found_however_it_is_packed(
    format_: str, packer: str, tmp_path: Path
) -> None:
    expected = shown(read_orders(io.BytesIO(INPUTS[format_]), format_).lines())
    packed = PACKERS[packer](INPUTS[format_])
    path = tmp_path / f"orders{packer}"
    path.write_bytes(packed)
    assert any("<Order" in item for item in expected)
    for source in (path, str(path), io.BytesIO(packed)):
        reader = read_orders(source)
        assert shown(reader.lines()) == expected
        assert reader.format == format_


@pytest.mark.parametrize("packer", ["", ".gz", ".zst"])
def test_a_pipe_is_read_as_a_file_is(packer: str) -> None:
    for format_ in ("jsonl", "shopify", "shopify-csv"):
        reader = read_orders(Pipe(PACKERS[packer](INPUTS[format_])))
        expected = shown(read_orders(io.BytesIO(INPUTS[format_])).lines())
        assert shown(reader.lines()) == expected


def test_the_orders_of_a_pipe_come_as_they_are_written() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as end:  # noqa: PTH123
        orders = read_orders(file)
        for _ in range(3):
            end.write(LINE)
            assert isinstance(next(orders), Order)  # else it would wait for ever
        end.close()
        assert list(orders) == []


@pytest.mark.parametrize("format_", INPUTS)
def test_a_file_that_was_opened_as_text_is_read_too(format_: str, tmp_path: Path) -> None:
    expected = shown(read_orders(io.BytesIO(INPUTS[format_]), format_).lines())
    path = tmp_path / "orders"
    path.write_bytes(INPUTS[format_])
    with path.open(encoding="utf-8", newline="") as file:
        assert shown(read_orders(file).lines()) == expected
        assert not file.closed
    assert shown(read_orders(io.StringIO(INPUTS[format_].decode(), newline="")).lines()) == expected


# -------------------------------------------------------------------------------- its encoding

NOT_UTF_8 = "is not UTF-8: name its encoding with --encoding, or save it as UTF-8"
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
HEADER = "order_id,contact_email,product_name"


def orders_in(kind: str, name: str) -> str:
    """Three orders, of whose second this is a product."""
    names = ("Mop", name, "Mop")
    rows = [f"{n},ann@example.com,{each}" for n, each in enumerate(names, 1)]
    if kind == "csv":
        return "\n".join([HEADER, *rows])
    orders = [
        f'{{"order_id": "{n}", "contact_email": "a@b", "products": [{{"product_name": "{each}"}}]}}'
        for n, each in enumerate(names, 1)
    ]
    return "\n".join(orders) if kind == "jsonl" else "[\n" + ",\n".join(orders) + "]"


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        *((encoding, None) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")),
        *((encoding, encoding) for encoding in ("utf-16", *WIDE, "cp1252")),
        *(("cp1252", named) for named in ("Windows-1252", "latin1", "ISO-8859-1")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_is_read_in_its_encoding(
    encoding: str, named: str | None, kind: str, pack: Any
) -> None:
    name = "Müsli \N{EN DASH} „best“"
    found = read(pack(orders_in(kind, name).encode(encoding)), encoding=named)
    assert [fields(order)["products"][0]["product_name"] for _, order in found] == [
        "Mop",
        name,
        "Mop",
    ]


@pytest.mark.parametrize("column", ["Größe", "Size"])
def test_a_table_that_is_not_utf_8_is_refused_before_its_first_order(column: str) -> None:
    rows = [f"{HEADER},{column}", *["1,ann@example.com,Mop,"] * 5_000, "2,ann@example.com,Möp,"]
    data = "\n".join(rows).encode("cp1252")
    message = r"^line [0-9,]+ is not UTF-8: name the encoding, such as with --encoding cp1252"
    with pytest.raises(ConfigurationError, match=message):
        next(read_orders(io.BytesIO(data), mapping={"order_id": "order_id"}))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("named", "written", "name", "message"),
    [
        (None, "cp1252", "M\xf6p", "is not UTF-8: name the encoding, such as with --encoding"),
        ("utf-8", "cp1252", "M\xf6p", "is not UTF-8: name the encoding, such as with --encod"),
        ("ascii", "cp1252", "M\xf6p", "is not ascii: name its encoding with --encoding, or "),
        ("cp1252", "latin-1", "\x81", "is not cp1252: name its encoding with --encoding, or"),
    ],
)
def test_a_file_in_another_encoding_is_refused_and_of_a_pipe_the_order_that_shows_it(
    named: str | None, written: str, name: str, message: str, kind: str, pack: Any
) -> None:
    data = orders_in(kind, name).encode(written)
    line = 2 if kind == "jsonl" else 3
    assert refusal(pack(data), encoding=named).startswith(f"line {line} {message}")
    (_, first), (_, fault), (_, last) = brief(list(read_orders(Pipe(data), encoding=named).lines()))
    assert (first, last) == ("1", "3")
    assert re.match("is not .*: name its encoding with --encoding", fault)


@pytest.mark.parametrize("written", ["utf-16", "utf-32"])
def test_text_that_was_cut_off_within_a_character_is_refused(written: str) -> None:
    for data in (
        CSV.decode().encode(written)[:-1],
        orders_in("csv", "M\ud800p").encode(written, "surrogatepass"),
    ):
        for file in (io.BytesIO(data), Pipe(data)):
            with pytest.raises(SourceError, match=f"{written}: was it cut off\\? Export"):
                list(read_orders(file))


@pytest.mark.parametrize("written", WIDE)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_utf_16_without_a_byte_order_mark_is_refused_with_its_name(kind: str, written: str) -> None:
    data = orders_in(kind, "M\xf6p").encode(written)
    for format_ in (None, kind):
        assert refusal(data, format_).endswith(f"name its encoding: --encoding {written}")
    assert "has no byte-order mark: name its encoding: utf-" in refusal(data, encoding=written[:-3])


@pytest.mark.parametrize(
    ("named", "data", "message"),
    [
        ("cp9999", b"", "encoding: there is no 'cp9999'"),
        ("base64", b"", "encoding: there is no 'base64'"),
        ("cp1252", CSV.decode().encode("utf-16"), "its byte-order mark says that it is UTF-16"),
        ("cp1252", b"\xef\xbb\xbf" + CSV, "its byte-order mark says that it is UTF-8, and not cp"),
    ],
)
def test_an_encoding_that_can_not_be_meant_is_refused(
    named: str, data: bytes, message: str
) -> None:
    assert message in refusal(data, encoding=named)


def test_text_that_is_not_utf_8_is_a_fault() -> None:
    file = io.StringIO("\ufeff" + LINE.decode() + '\n{"total": "\udc80"}')
    (one, first), (three, third) = read_orders(file).lines()
    assert isinstance(first, Order)
    assert (one, three, str(third)) == (1, 3, "line 3: " + NOT_UTF_8)
    assert not file.closed


# ------------------------------------------------------------------------------- where it is from


def test_a_dash_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LINE)))
    assert [line for line, _order in read_orders("-").lines()] == [1]


def test_a_wrong_format_is_refused_at_once_and_a_missing_file_when_it_is_read() -> None:
    with pytest.raises(ConfigurationError, match="no format 'xml': the known ones are jsonl, json"):
        read_orders("never opened", format="xml")
    orders = read_orders("never-opened.jsonl")
    with pytest.raises(FileNotFoundError):
        next(orders)


def test_a_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"a line of the caller's\n" + LINE)
    file.readline()
    assert [line for line, _order in read_orders(file).lines()] == [1]


@pytest.mark.parametrize("packer", [".gz", ".zst"])
@pytest.mark.parametrize("format_", ["jsonl", "json", "csv"])
def test_what_was_cut_off_is_told_after_what_is_left(format_: str, packer: str) -> None:
    whole = {
        "jsonl": LINE * 40_000,
        "json": b"[" + LINE + b"," + b",".join([LINE] * 40_000) + b"]",
        "csv": CSV + b"".join(b"%d,a@example.com,Mop\n" % n for n in range(40_000)),
    }[format_]
    packed = PACKERS[packer](whole)
    orders = read_orders(io.BytesIO(packed[: len(packed) // 2]))
    name = packer.removeprefix(".").replace("gz", "gzip").replace("zst", "zstd")
    read: list[type] = []
    with pytest.raises(SourceError, match=f"the {name} file ends too early: it was cut off"):
        read.extend(map(type, orders))
    assert 0 < len(read) < 40_000
    assert set(read) == {Order}


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x1f\x8b" + b"nothing of the kind",
        gzip.compress(LINE, mtime=0)[:-8] + b"12345678",
        gzip.compress(LINE, mtime=0) + b"more",
        b"\x28\xb5\x2f\xfd" + b"nothing of the kind" * 20,
        zstd.compress(LINE) + b"more",
    ],
)
def test_what_is_damaged_is_told(damaged: bytes) -> None:
    with pytest.raises(SourceError, match=r"file is damaged|file ends too early"):
        list(read_orders(io.BytesIO(damaged)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xd0\xcf\x11\xe0...", "it is an old or a protected Excel workbook: save it as"),
        (b"BZh91AY", "it is packed with bzip2: unpack it"),
        (
            gzip.compress(gzip.compress(LINE, mtime=0), mtime=0),
            "it is packed twice: unpack it once",
        ),
        (b"<!doctype html>", "it is HTML or XML: export the orders as JSON or CSV"),
        (
            b"orders\nof mine\n",
            "its format can.t be detected .*: name it with --format, one of jsonl,",
        ),
        (os.urandom(0) + b"\x01\x00\x02", "it is not text: expected JSON, CSV or Parquet"),
    ],
)
def test_what_is_none_of_them_is_named_and_what_to_do(data: bytes, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        list(read_orders(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("name", "data", "format_"),
    [
        ("a.jsonl", b"nonsense\n" + LINE, "jsonl"),
        ("a.ndjson.gz", gzip.compress(b"nonsense\n" + LINE, mtime=0), "jsonl"),
        ("A.CSV", b"contact_email\nann@example.com\n", "csv"),
        ("a.tsv.zst", zstd.compress(b"contact_email\nann@example.com\n"), "tsv"),
        ("a.json", LINE * 2, "jsonl"),
        ("a.jsonl", b"[" + LINE + b"]", "json"),
        ("a.jsonl", b'{\n"order_id": 1}', "json"),
        ("a.jsonl", b"[[[[\n" + LINE, "jsonl"),
        ("a.jsonl", b'[1, {"a\n' + LINE, "jsonl"),
        ("a.jsonl", b'{"order_id": 1,\n' + LINE, "jsonl"),
        ("a.txt", LINE, "jsonl"),
        ("a", b'{\n"order_id": 1}', "json"),
        ("a", b'{"order_id": 1,\n"total": "1"}', "json"),
        ("a", b'{"order_id" 1}\n' + LINE, "jsonl"),
        ("a", b'{"orders": [' + LINE.strip() * 1 + b"]}", "json"),
    ],
)
def test_the_content_decides_and_where_it_can_not_the_name(
    name: str, data: bytes, format_: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    reader = read_orders(tmp_path / name)
    assert len(list(reader)) > 0
    assert reader.format == format_


def test_a_first_line_of_a_megabyte_is_a_document() -> None:
    orders = b",".join([LINE.strip()] * 20_000)
    assert len(orders) > 1024 * 1024
    for document in (b'{"orders": [' + orders + b"]}", b"[" + orders + b"]"):
        assert sum(1 for _ in read_orders(io.BytesIO(document))) == 20_000


BEGINNINGS = [b"", b"[", b"{", b'{"a":', b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PAR1", b"a,b\n"]


@settings(max_examples=300)
@given(
    st.sampled_from(BEGINNINGS),
    st.binary(max_size=60) | st.text('[]{}",:1ae\n', max_size=40).map(str.encode),
    st.sampled_from([None, *FORMATS]),
    st.sampled_from([None, {"contact_email": "a"}, {"contact_email": "a", "order_id": "b"}]),
)
@example(b"", b"\xef\xbb\xbf", "csv", None)
@example(b"PAR1", b"PAR1", None, None)
def test_whatever_the_bytes_are_only_errors_of_this_package_come_out(
    beginning: bytes, rest: bytes, format_: str | None, mapping: dict[str, Any] | None
) -> None:
    data = beginning + rest
    for packed in (data, gzip.compress(data), gzip.compress(data)[:-3]):
        try:
            found = list(read_orders(io.BytesIO(packed), format_, mapping=mapping))
        except EverlyticError as error:
            assert isinstance(error, ConfigurationError | SourceError)  # noqa: PT017 - or none
        else:
            assert all(isinstance(item, Order | EverlyticError) for item in found)


@pytest.mark.parametrize(
    ("module", "data", "extra"),
    [
        ("backports.zstd", zstd.compress(LINE), "sources"),
        ("pyarrow", b"PAR1...", "parquet"),
        ("openpyxl", b"PK\x03\x04...", "xlsx"),
    ],
)
def test_reading_without_the_package_of_a_format_says_how_to_install_it(
    module: str, data: bytes, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr("backports.zstd", raising=False)
    with pytest.raises(ConfigurationError, match=rf"pip install 'everlytic-async\[{extra}\]'"):
        list(read_orders(io.BytesIO(data)))


def test_importing_the_readers_loads_no_extra() -> None:
    script = (
        "import sys; import everlytic_async.sources; print("
        "{'pyarrow', 'backports.zstd', 'gzip'} & set(sys.modules) - {'gzip'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


def test_a_file_that_is_written_to_while_it_is_read_is_pointed_out(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(LINE * 2)
    for more in (b"", LINE):
        reader = read_orders(path)
        next(reader)
        with path.open("ab") as file:
            file.write(more)
        assert list(reader)
        warnings = [text for text in reader.warnings if "changed while it was read" in text]
        assert len(warnings) == bool(more)


def test_closing_before_the_end_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl.gz"
    path.write_bytes(gzip.compress(LINE * 1000))
    with read_orders(path) as reader:  # a ResourceWarning is an error in these tests
        next(reader)
    assert list(reader) == []
    file = io.BytesIO(path.read_bytes())
    with read_orders(file) as reader:
        next(reader)
    assert not file.closed

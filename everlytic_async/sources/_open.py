"""Opening an input: a path, a file or the standard input; plain, gzip or zstd; always as UTF-8.

A reader gets an open binary file at its start, and the first line that is not blank, to detect the
format. Looking at that line consumes nothing, even of a pipe, and waits for no more than the line.
Another encoding is decoded and encoded again as it is read. What is opened here is closed here; a
caller's file stays open.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import attrs

from everlytic_async.errors import ConfigurationError, SourceError

Source = str | os.PathLike[str] | IO[bytes] | IO[str]

#: A longer line is not an order. It is skipped in pieces, so that it does not fill the memory.
MAX_LINE_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"
#: Byte-order marks that tell an encoding; the longer first, as one begins with another.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

#: How a Parquet file and an Excel workbook begin, which are no text.
BINARY = (b"PAR1", b"PK\x03\x04")
#: The fault of an order.
NOT_UTF_8 = "is not UTF-8: name its encoding with --encoding, or save it as UTF-8"
_WIDE = ("utf-16", "utf-32")
_CUT_OFF = "was it cut off? Export or copy it again"
_CHUNK = 64 * 1024


@attrs.frozen
class OpenedSource:
    """An input, decompressed.

    Attributes:
        file: At its start, a byte order mark included.
        first_line: The first line that is not blank, without a byte order mark; at most
            `MAX_LINE_BYTES` of it. Empty if there is none.
        name: The name of the file without that of its compression, in lower case; or empty.
        encoding: How its text was encoded.
        line_not_text: Reads all of it, to find the first line that is not text in that encoding,
            and leaves `file` where it is; None if there is no such line, or the input can't be read
            twice.
        has_changed: Whether the file was written to since it was opened here.
    """

    file: IO[bytes]
    first_line: bytes
    name: str
    encoding: str
    line_not_text: Callable[[], int | None]
    has_changed: Callable[[], bool]


def check_text(source: OpenedSource) -> None:
    """Refuse a text in another encoding before its first order, if it can be read twice.

    Raises:
        ConfigurationError: a line of it is not text in its encoding.
        SourceError: it was cut off within a character.
    """
    if (line := source.line_not_text()) is None:
        return
    encoding = source.encoding
    if codecs.lookup(encoding).name == "utf-8":
        raise ConfigurationError(
            f"line {line:,} is not UTF-8: name the encoding, such as with --encoding cp1252 for "
            "what a spreadsheet saved on Windows, or save the file as UTF-8"
        )
    if codecs.lookup(encoding).name.startswith(_WIDE):
        raise SourceError(f"line {line:,} is not {encoding}: {_CUT_OFF}")
    raise ConfigurationError(
        f"line {line:,} is not {encoding}: name its encoding with --encoding, or save the file as "
        "UTF-8"
    )


def check_encoding(_options: Any, _attribute: Any, encoding: str | None) -> None:
    """Refuse what is not the name of an encoding of text: a validator of attrs.

    Raises:
        ConfigurationError: it isn't.
    """
    try:
        b"x".decode(encoding or "utf-8")
    except UnicodeDecodeError:
        pass  # an encoding in which that is no text
    except (LookupError, ValueError):
        raise ConfigurationError(
            f"encoding: there is no {encoding!r}: name one such as cp1252 or utf-16"
        ) from None


@contextmanager
def open_source(source: Source, encoding: str | None = None) -> Iterator[OpenedSource]:
    """Open an input, decompress it, and decode it.

    Args:
        source: What to open.
        encoding: How its text is encoded; None for UTF-8, or what a byte-order mark tells. Latin-1
            means Windows' cp1252, as on the web.

    Raises:
        ConfigurationError: for zstd without its package; for an encoding that a byte-order mark
            contradicts.
        SourceError: by reading, when compressed data is damaged or cut off.
        OSError: when it can't be opened or read.
    """
    if encoding is not None and codecs.lookup(encoding).name == "iso8859-1":
        encoding = "cp1252"  # https://encoding.spec.whatwg.org/#names-and-labels
    with ExitStack() as stack:
        file: Any
        name: Any = ""
        number: int | None = None
        if isinstance(source, str | os.PathLike) and source != "-":
            file = stack.enter_context(open(source, "rb"))  # noqa: PTH123 - any PathLike
            name = os.fspath(source)
            number = file.fileno()
        elif source == "-":
            file = getattr(sys.stdin, "buffer", sys.stdin)
        else:
            file, name = source, getattr(source, "name", "")
        written = _written(number)
        name = name.lower() if isinstance(name, str) else ""  # a pipe's is a number
        if isinstance(file.read(0), str):
            file = _chunked(stack, _encoding(file))
        start = file.tell() if _is_seekable(file) else None
        raw = file
        head, first_line, file = _peek_first_line(file, stack)
        decompress = _DECOMPRESSORS.get(first_line[:2], _DECOMPRESSORS.get(first_line[:4]))
        if decompress is not None:
            unpacked = _chunked(stack, decompress(stack, file))
            head, first_line, file = _peek_first_line(unpacked, stack)
            name = name.removesuffix(".gz").removesuffix(".zst")
        encoding = _find_encoding(head, encoding)
        if codecs.lookup(encoding).name != "utf-8" and not head.startswith(BINARY):
            decoded = _chunked(stack, _decoding(file, encoding))
            head, first_line, file = _peek_first_line(decoded, stack)

        def line_not_text() -> int | None:
            return None if start is None else _line_not_text(raw, start, decompress, encoding)

        def has_changed() -> bool:
            return _written(number) != written

        yield OpenedSource(file, first_line, name, encoding, line_not_text, has_changed)


def _written(number: int | None) -> tuple[int, int] | None:
    """How long the open file of that number is, and when it was written to; None of a pipe."""
    found = None if number is None else os.fstat(number)
    is_file = found is not None and stat.S_ISREG(found.st_mode)
    return (found.st_size, found.st_mtime_ns) if found is not None and is_file else None


def _is_seekable(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return seekable is not None and bool(seekable())


def _find_encoding(head: bytes, named: str | None) -> str:
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is None and named is not None and codecs.lookup(named).name in _WIDE:
        raise ConfigurationError(
            f"it has no byte-order mark: name its encoding: {named}-le, or perhaps {named}-be"
        )
    if marked is None or named is None:
        return named or marked or "utf-8"
    if not codecs.lookup(named).name.startswith(marked):
        raise ConfigurationError(
            f"its byte-order mark says that it is {marked.upper()}, and not {named}: leave out the "
            "encoding"
        )
    return marked


def _decoding(file: IO[bytes], encoding: str) -> Callable[[int], bytes]:
    """Reads a file in another encoding as UTF-8; what can't be decoded is no UTF-8 either.

    In an encoding whose characters have two or four bytes, what can't be decoded ends the file.
    """
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")

    def read_chunk(size: int) -> bytes:
        try:
            while data := read(size):
                if text := decoder.decode(data):
                    return text.encode("utf-8", "surrogatepass")
            return decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
        except UnicodeError:
            raise SourceError(f"a part of it can't be read as {encoding}: {_CUT_OFF}") from None

    return read_chunk


def _line_not_text(
    file: IO[bytes], start: int, decompress: _Decompress | None, encoding: str
) -> int | None:
    """The number of the first line that is not text in an encoding, in a pass of its own."""
    at = file.tell()
    is_utf_8 = codecs.lookup(encoding).name == "utf-8"
    try:
        file.seek(start)
        with ExitStack() as stack:
            read = file.read if decompress is None else decompress(stack, file)
            decoder = codecs.getincrementaldecoder(encoding)()
            number, data = 1, b"x"
            while data:
                data = read(_CHUNK)
                before = decoder.getstate()
                if is_utf_8 and data.isascii() and not before[0]:  # fast
                    number += data.count(b"\n")
                    continue
                try:
                    number += decoder.decode(data, final=not data).count("\n")
                except UnicodeDecodeError as error:
                    decoder.setstate(before)
                    good = data[: max(0, error.start - len(before[0]))]
                    return number + decoder.decode(good).count("\n")
    except SourceError:
        pass  # said when the rest is read
    finally:
        file.seek(at)
    return None


def _peek_first_line(file: Any, stack: ExitStack) -> tuple[bytes, bytes, IO[bytes]]:
    """The first bytes; the first line that is not blank; a file that still has all to read."""
    start = file.tell() if _is_seekable(file) else None
    seen: list[bytes] = []
    line, size = b"", 0
    while not line.strip():
        if size >= MAX_LINE_BYTES:
            raise ConfigurationError(f"its first {MAX_LINE_BYTES:,} bytes are blank")
        line = file.readline(MAX_LINE_BYTES + 2)
        if not line:
            break
        size += len(line)
        seen.append(line)
        line = line if len(seen) > 1 else line.removeprefix(BOM)
    if start is not None:
        file.seek(start)
        return b"".join(seen[:1]), line, file
    # read1 waits for no more than there is: the orders of a pipe are read as they come.
    read = getattr(file, "read1", file.readline)
    return b"".join(seen[:1]), line, _chunked(stack, read, b"".join(seen))


class _ChunkReader(io.RawIOBase):
    """A file of the chunks that a function returns; closing it leaves its source open."""

    def __init__(self, read_chunk: Callable[[int], bytes], first: bytes = b"") -> None:
        self._read_chunk = read_chunk
        self._rest = memoryview(first)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        room = memoryview(buffer).cast("B")
        if not self._rest:
            self._rest = memoryview(self._read_chunk(len(room)))
        chunk = self._rest[: len(room)]
        room[: len(chunk)] = chunk
        self._rest = self._rest[len(chunk) :]
        return len(chunk)


def _chunked(stack: ExitStack, read_chunk: Callable[[int], bytes], first: bytes = b"") -> IO[bytes]:
    return stack.enter_context(io.BufferedReader(_ChunkReader(read_chunk, first), _CHUNK))


def _encoding(file: IO[str]) -> Callable[[int], bytes]:
    """Reads a file that was opened as text as the bytes that it had."""
    return lambda size: file.readline(size).encode("utf-8", "surrogatepass")


def with_line_feeds(source: OpenedSource, stack: ExitStack) -> IO[bytes]:
    """The file; with line feeds at the ends of its lines if it has carriage returns alone."""
    unquoted = b"".join(source.first_line.split(b'"')[::2])
    if b"\r" not in unquoted.rstrip(b"\r\n"):
        return source.file
    read: Callable[[int], bytes] = getattr(source.file, "read1", source.file.read)
    return _chunked(stack, lambda size: read(size).replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def skip_line(file: IO[bytes]) -> None:
    """Read to the end of a line, a piece at a time."""
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Import other packages in it, when they are needed to read what.

    Raises:
        ConfigurationError: one is not installed; says how to install it.
    """
    try:
        yield
    except ImportError:
        raise ConfigurationError(
            f"to read {what}, install what it needs: pip install 'everlytic-async[{extra}]'"
        ) from None


def seekable(file: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """The file; if it can't seek, as a pipe, a copy of it in a temporary file."""
    if file.seekable():
        return file
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


# ----------------------------------------------------------------------------------- compression


def _gzip(stack: ExitStack, file: IO[bytes]) -> Callable[[int], bytes]:
    unpacked = stack.enter_context(gzip.GzipFile(fileobj=file))
    return _explain_damage("gzip", unpacked.read1, (gzip.BadGzipFile, zlib.error))


def _zstd(stack: ExitStack, file: IO[bytes]) -> Callable[[int], bytes]:
    # Not the package zstandard: it reads a file that was cut off as if it were complete.
    with needs_extra("zstd", "sources"):
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415
    unpacked = stack.enter_context(zstd.ZstdFile(file))
    return _explain_damage("zstd", unpacked.read1, (zstd.ZstdError,))


_Decompress = Callable[[ExitStack, IO[bytes]], Callable[[int], bytes]]
_DECOMPRESSORS: dict[bytes, _Decompress] = {
    b"\x1f\x8b": _gzip,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def _explain_damage(
    name: str, read: Callable[[int], bytes], damage: tuple[type[Exception], ...]
) -> Callable[[int], bytes]:
    """Reads compressed data; what is wrong with it is a `SourceError`."""

    def read_chunk(size: int) -> bytes:
        try:
            return read(size)
        except EOFError:
            raise SourceError(
                f"the {name} file ends too early: it was cut off. Copy or download it again"
            ) from None
        except damage as error:
            raise SourceError(
                f"the {name} file is damaged ({type(error).__name__}): copy or download it again"
            ) from None

    return read_chunk

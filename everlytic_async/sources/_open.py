"""Opening an input: a path, a file or the standard input; plain, gzip or zstd; always as bytes.

A reader gets an open binary file that stands at its beginning, and the first line that is not
blank, to tell the format by. Looking at it consumes nothing, from a pipe neither, and waits for no
more than that line. What was opened here is closed here; a caller's file stays open.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import attrs

from everlytic_async.errors import ConfigurationError, SourceError

__all__ = [
    "BOM",
    "MAX_LINE_BYTES",
    "Content",
    "Source",
    "install",
    "opened",
    "skip_line",
    "with_line_feeds",
]

Source = str | os.PathLike[str] | IO[bytes] | IO[str]

#: A longer line is no order. It is skipped unread: a file without line ends fills no memory.
MAX_LINE_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PIECE = 64 * 1024


@attrs.frozen
class Content:
    """An input, unpacked.

    Attributes:
        file: At its beginning, a byte order mark included.
        first: The first line that is not blank, without a byte order mark; at most
            `MAX_LINE_BYTES` of it. Empty where there is none.
        name: The name of the file without that of its compression, in lower case; else empty.
    """

    file: IO[bytes]
    first: bytes
    name: str


@contextmanager
def opened(source: Source) -> Iterator[Content]:
    """Open an input and unpack it.

    Raises:
        ConfigurationError: for zstd without its package.
        SourceError: when what is compressed is damaged or cut off, by the reading.
        OSError: when it can't be opened or read.
    """
    with ExitStack() as closing:
        if isinstance(source, str | os.PathLike):
            if source == "-":
                base: Any = getattr(sys.stdin, "buffer", sys.stdin)
                name: Any = ""
            else:
                base = closing.enter_context(open(source, "rb"))  # noqa: PTH123 - any PathLike
                name = os.fspath(source)
        else:
            base = source
            name = getattr(source, "name", "")
        name = name.lower() if isinstance(name, str) else ""  # a pipe's is a number
        if isinstance(base.read(0), str):
            base = closing.enter_context(io.BufferedReader(_Encoded(base)))
        first, file = _look(base, closing)
        unpack = _UNPACKERS.get(first[:2], _UNPACKERS.get(first[:4]))
        if unpack is not None:
            raw = closing.enter_context(_Unpacked(unpack(file)))
            first, file = _look(closing.enter_context(io.BufferedReader(raw, _PIECE)), closing)
            name = name.removesuffix(".gz").removesuffix(".zst")
        yield Content(file, first, name)


def _look(file: Any, closing: ExitStack) -> tuple[bytes, IO[bytes]]:
    """The first line that is not blank, and a file that still has all of it to read."""
    seekable = getattr(file, "seekable", None)
    begin = file.tell() if seekable is not None and seekable() else None
    seen: list[bytes] = []
    first, size = b"", 0
    while size < MAX_LINE_BYTES and (line := file.readline(MAX_LINE_BYTES + 2)):
        first = line if seen else line.removeprefix(BOM)
        seen.append(line)
        size += len(line)
        if first.strip():
            break
    if size >= MAX_LINE_BYTES and not first.strip():
        raise ConfigurationError(f"its first {MAX_LINE_BYTES:,} bytes are blank")
    if begin is not None:
        file.seek(begin)
        return first, file
    joined = _Joined(b"".join(seen), file)
    return first, closing.enter_context(io.BufferedReader(joined, _PIECE))


class _Raw(io.RawIOBase):
    """Bytes that come in pieces of any length."""

    def __init__(self) -> None:
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        room = memoryview(buffer).cast("B")
        if not self._rest:
            self._rest = memoryview(self._next(len(room)))
        piece = self._rest[: len(room)]
        room[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)

    def _next(self, size: int) -> bytes:
        raise NotImplementedError


class _Joined(_Raw):
    """What was looked at already, then the rest of the file. Closing it leaves the file open."""

    def __init__(self, seen: bytes, file: Any) -> None:
        super().__init__()
        self._rest = memoryview(seen)
        # Neither waits for more than there is: the orders of a pipe are read as they come.
        self._read: Callable[[int], bytes] = getattr(file, "read1", file.readline)

    def _next(self, size: int) -> bytes:
        return self._read(size)


class _LineFeeds(_Raw):
    """A file whose lines end with a carriage return. Closing it leaves the file open."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._read: Callable[[int], bytes] = getattr(file, "read1", file.read)

    def _next(self, size: int) -> bytes:
        return self._read(size).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class _Encoded(_Raw):
    """A file that was opened as text, as the bytes that it had. Closing it leaves it open."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = file

    def _next(self, size: int) -> bytes:
        return self._file.readline(size).encode("utf-8", "surrogatepass")


class _Unpacked(io.RawIOBase):
    """A compressed file, whose faults are told as they are."""

    def __init__(self, unpacker: _Unpacker) -> None:
        self._unpacker = unpacker

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        name = self._unpacker.name
        try:
            return self._unpacker.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except EOFError:
            raise SourceError(
                f"the {name} file ends too early: it was cut off. Copy or download it again"
            ) from None
        except self._unpacker.faults as error:
            raise SourceError(
                f"the {name} file is damaged ({type(error).__name__}): copy or download it again"
            ) from None

    def close(self) -> None:
        if not self.closed:
            self._unpacker.file.close()
        super().close()


@attrs.frozen
class _Unpacker:
    name: str
    file: IO[bytes]
    faults: tuple[type[Exception], ...]


def _gzip(file: IO[bytes]) -> _Unpacker:
    unpacked: Any = gzip.GzipFile(fileobj=file)
    return _Unpacker("gzip", unpacked, (gzip.BadGzipFile, zlib.error))


def _zstd(file: IO[bytes]) -> _Unpacker:
    # Not the package zstandard: it takes a file that was cut off for one that has ended.
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - an extra, loaded when it is needed
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(install("zstd", "sources")) from None
    unpacked: Any = zstd.ZstdFile(file)
    return _Unpacker("zstd", unpacked, (zstd.ZstdError,))


_UNPACKERS: dict[bytes, Callable[[IO[bytes]], _Unpacker]] = {_GZIP: _gzip, _ZSTD: _zstd}


def install(what: str, extra: str) -> str:
    """What to say where the package of an extra is missing."""
    return f"to read {what}, install what it needs: pip install 'everlytic-async[{extra}]'"


def skip_line(file: IO[bytes]) -> None:
    """Read to the end of a line, a piece at a time."""
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def with_line_feeds(content: Content, closing: ExitStack) -> IO[bytes]:
    """The file; with line feeds at the ends of its lines where it has carriage returns alone."""
    plain = b"".join(content.first.split(b'"')[::2])
    if b"\r" not in plain.rstrip(b"\r\n"):
        return content.file
    return closing.enter_context(io.BufferedReader(_LineFeeds(content.file), _PIECE))

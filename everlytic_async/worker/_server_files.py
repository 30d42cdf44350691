"""The files by which processes of one user share a private NATS server: who may read them.

The directory holds customers' orders and the token that lets clients in. Other users of the machine
must neither read the token nor plant one: a client that joined their server would hand over orders.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from everlytic_async.errors import ConfigurationError

_TOKEN = "token"  # noqa: S105 - the name of the file
_MAX_BYTES = 1024
_RANDOM_BYTES = 24
# It is part of an address, and the server takes a "$" for a digest.
_ALLOWED = re.compile(r"[A-Za-z0-9._~+=-]+")


def check_token(token: str) -> None:
    """Check that a token can be part of an address. The message does not repeat it."""
    if not _ALLOWED.fullmatch(token):
        raise ConfigurationError(
            "the token of a private NATS server may hold letters, digits and -._~+= only: use "
            "another one, or none, and a random one is made"
        )


class DirectoryLockedError(ConfigurationError):
    """Another nats-server uses the directory."""


def claim_directory(directory: Path, *, shared: bool) -> None:
    """Create a directory for its owner alone (0700), or check an existing one that is shared."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not shared:
        return
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{str(directory)!r} belongs to another user, who could read the orders: name a "
            "directory of your own"
        )
    if found.st_mode & 0o077 and not any(directory.iterdir()):
        directory.chmod(0o700)
    elif found.st_mode & 0o022:
        raise ConfigurationError(
            f"{str(directory)!r} holds a NATS server's data, and others can write to it: check "
            f"what is in it, then `chmod 700` it"
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Lock the directory, for the server to inherit: it is free when the server has ended."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryLockedError(
                f"another nats-server uses {str(directory)!r}: connect to that one, or give this "
                "one a directory of its own"
            ) from error
        yield lock
    finally:
        os.close(lock)


def read_token(directory: Path) -> str | None:
    """Read the token of the directory's server, if there is one that nobody else could touch."""
    path = directory / _TOKEN
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"the token {str(path)!r} can't be read: {error.strerror}. If it is not yours, delete "
            "it; the next server makes another"
        ) from error
    try:
        found = os.fstat(file)
        is_ours = found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode)
        private = is_ours and not found.st_mode & 0o077
        token = os.read(file, _MAX_BYTES).decode("ascii", "replace").strip() if private else ""
    finally:
        os.close(file)
    if not _ALLOWED.fullmatch(token):
        raise ConfigurationError(
            f"{str(path)!r} is not a token that only you can read and write (0600): delete it, and "
            "the next server makes another"
        )
    return token


def ensure_token(directory: Path, token: str | None) -> str:
    """Store the token for a server that starts: the wanted one, else the last, else a new one."""
    known = read_token(directory)
    if known is not None and token in (None, known):
        return known
    token = token or secrets.token_urlsafe(_RANDOM_BYTES)
    write_private(directory / _TOKEN, f"{token}\n")
    return token


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; a reader finds the old or the new one."""
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)  # of a process that was killed
    file = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)
    written.replace(path)

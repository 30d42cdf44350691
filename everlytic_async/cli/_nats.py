"""Where the queue is, and by what right it is used: options, environment, TOML file, NATS context.

Paths of credentials may be arguments; a password, a token or an address that holds one may not, for
every user of the machine can read those.
"""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import typed_settings

from everlytic_async.cli._queue_commands import NatsOptions
from everlytic_async.cli._settings import find_table
from everlytic_async.errors import ConfigurationError
from everlytic_async.worker import NatsServer, QueueSettings

__all__ = ["Nats", "load_nats", "load_queue", "nats_arguments"]

_TABLE, _QUEUE = "nats", "queue"
# EVERLYTIC_NATS_URL, EVERLYTIC_NATS_CONTEXT, EVERLYTIC_NATS_EMBEDDED, EVERLYTIC_NATS_CREDENTIALS,
# EVERLYTIC_NATS_NKEY, EVERLYTIC_NATS_USER, EVERLYTIC_NATS_PASSWORD, EVERLYTIC_NATS_TOKEN,
# EVERLYTIC_NATS_TLS_CA, EVERLYTIC_NATS_TLS_CERT, EVERLYTIC_NATS_TLS_KEY
_PREFIX = "EVERLYTIC_NATS_"
#: NATS's own default.
_DEFAULT_URL = "nats://127.0.0.1:4222"
_WHERE = ("url", "embedded", "context")
# What a context of NATS's own command line may hold, and what it is here.
_OF_CONTEXT = {
    "url": "url",
    "creds": "credentials",
    "nkey": "nkey",
    "user": "user",
    "password": "password",
    "token": "token",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
}
_OF_NO_MATTER = {"description", "color_scheme", "name"}
_CONTEXT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# What asyncio warns of at the end of each TLS connection of the NATS client; it means nothing.
_NO_NEWS = "returning true from eof_received() has no effect when using ssl"
# An answer that takes longer than this is none, in seconds; a worker is more patient.
_PATIENCE_S = 10.0


@attrs.frozen(kw_only=True)
class Nats:
    """Where the queue is, one of the first three, and by what right.

    Attributes:
        url: Addresses of servers, one or more.
        embedded: The directory of a private server of this machine.
        context: The name of a context of NATS's own command line.
        credentials: The path of a ``.creds`` file.
        nkey: The path of a file with an NKey seed.
        user: The name of a user.
        password: The user's password.
        token: A token.
        tls_ca: The path of the certificates of those that may vouch for the server.
        tls_cert: The path of the certificate to show.
        tls_key: The path of its key.
        allow_plain: Whether a server on another machine may be used without TLS. Only an option
            says so: a settings file that is passed around must not.
    """

    # Any: typed-settings would turn a number into text, and repeat in its message what it can't.
    url: Any = attrs.field(default=None, repr=False)  # it may hold a password
    embedded: Any = None
    context: Any = None
    credentials: Any = None
    nkey: Any = None
    user: Any = None
    password: Any = attrs.field(default=None, repr=False)
    token: Any = attrs.field(default=None, repr=False)
    tls_ca: Any = None
    tls_cert: Any = None
    tls_key: Any = None
    allow_plain: bool = False


_FIELDS = [field.name for field in attrs.fields(Nats) if field.name != "allow_plain"]


def load_nats(options: NatsOptions) -> Nats:
    """Load the settings: each from the options, else the environment, else the TOML file.

    Where the queue is, is one thing: who names an address puts aside the directory and the context
    of a lower place. What a context says of rights comes last of all.

    Args:
        options: Those of the command; they are called as `Nats`' attributes.

    Raises:
        ConfigurationError: what is wrong with them.
    """
    from_options = {
        name: value for name in _FIELDS if (value := getattr(options, name, None)) is not None
    }
    if "url" in from_options and _holds_secret(from_options["url"]):
        raise ConfigurationError(
            "--nats holds a password or a token, which every user of the machine can read there: "
            f"set {_PREFIX}URL instead, or url in the table [{_TABLE}]"
        )
    table, _path = find_table(options.config, _TABLE)
    unknown = sorted(table.keys() - set(_FIELDS))
    if unknown:
        raise ConfigurationError(
            f"the table [{_TABLE}] has what is no setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(_FIELDS)}"
        )
    merged: dict[str, Any] = {}
    for place, level in {
        f"[{_TABLE}]": table,
        "the environment": _load(typed_settings.EnvLoader(_PREFIX)),
        "the options": from_options,
    }.items():
        where = [name for name in _WHERE if name in level]
        if len(where) > 1:
            raise ConfigurationError(f"{place}: only one of {', '.join(where)} can be")
        if where:
            merged = {name: value for name, value in merged.items() if name not in _WHERE}
        merged.update(level)
    _check(merged)
    if "context" in merged:
        merged = {**_context(merged["context"]), **merged}
    return Nats(**merged, allow_plain=options.allow_plain)


def _load(loader: typed_settings.loaders.Loader) -> dict[str, Any]:
    found = attrs.asdict(typed_settings.load_settings(Nats, [loader]))
    return {name: found[name] for name in _FIELDS if found[name] is not None}


def _check(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        texts = value if name == "url" and isinstance(value, list) and value else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigurationError(f"{name} of the settings of NATS must be text, and not blank")


def _holds_secret(url: str) -> bool:
    return any("@" in urlsplit(each).netloc or "@" in each for each in url.split(","))


def _context(name: str) -> dict[str, Any]:
    """What a context of NATS's own command line says.

    Raises:
        ConfigurationError: there is none, or it asks for what is not known here.
    """
    if not _CONTEXT.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a NATS context")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(home, "nats", "context", f"{name}.json")
    try:
        held = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the NATS context {name} can't be read from {path}: {error.strerror}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON") from error  # not its words: it may quote
    if not isinstance(held, dict):
        raise ConfigurationError(f"{path} is no NATS context")
    held = {key: value for key, value in held.items() if value not in ("", None, False)}
    unknown = sorted(held.keys() - _OF_CONTEXT.keys() - _OF_NO_MATTER)
    if unknown:
        raise ConfigurationError(
            f"the NATS context {name} has what is not known here: {', '.join(unknown)}. "
            f"Known are {', '.join(_OF_CONTEXT)}"
        )
    found = {ours: held[theirs] for theirs, ours in _OF_CONTEXT.items() if theirs in held}
    _check(found)
    for key in ("credentials", "nkey", "tls_ca", "tls_cert", "tls_key"):
        if key in found:
            found[key] = os.path.expanduser(found[key])  # noqa: PTH111 - as text
    return found


def load_queue(config: str | None, store: str) -> QueueSettings:
    """Load what the queue is called and holds, for one store, from the table ``[queue]``.

    Raises:
        ConfigurationError: a setting is wrong, or there is none of that name.
    """
    table, _path = find_table(config, _QUEUE)
    known = [field.name for field in attrs.fields(QueueSettings) if field.name != "store"]
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise ConfigurationError(
            f"the table [{_QUEUE}] has what is no setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(known)}"
        )
    # The file is read with exact decimals, for the prices of a mapping.
    plain: dict[str, Any] = {
        name: float(value) if isinstance(value, Decimal) else value for name, value in table.items()
    }
    return QueueSettings(store=store, **plain)


@asynccontextmanager
async def nats_arguments(
    nats: Nats, *, timeout_s: float = _PATIENCE_S
) -> AsyncIterator[dict[str, Any]]:
    """The arguments of `everlytic_async.worker.OrderQueue` that say where and by what right.

    A private server runs for as long as this lasts, where it does not run already.

    Raises:
        ConfigurationError: a file can't be used.
        QueueError: a private server does not start.
    """
    logging.getLogger("asyncio").addFilter(_is_news)
    arguments: dict[str, Any] = {
        "user_credentials": _readable(nats.credentials),
        "nkeys_seed": _readable(nats.nkey),
        "user": nats.user,
        "password": nats.password,
        "token": nats.token,
        "tls": _tls(nats),
        "allow_plain_nats": nats.allow_plain,
        "timeout_s": timeout_s,
    }
    if nats.embedded is not None:
        async with NatsServer.join_or_start(nats.embedded, token=nats.token) as url:
            # The token of the server that runs is in the address, whoever started it.
            yield {"servers": url, **arguments, "token": None}
        return
    urls = nats.url if isinstance(nats.url, list) else (nats.url or _DEFAULT_URL).split(",")
    yield {"servers": [url.strip() for url in urls], **arguments}


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != _NO_NEWS


def _readable(path: str | None) -> str | None:
    if path is not None:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigurationError(f"{path!r} can't be read: {error.strerror}") from error
    return path


def _tls(nats: Nats) -> ssl.SSLContext | None:
    if (nats.tls_cert is None) != (nats.tls_key is None):
        raise ConfigurationError("a certificate goes with its key: tls_cert and tls_key of NATS")
    if nats.tls_ca is None and nats.tls_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=nats.tls_ca)
        if nats.tls_cert is not None:
            context.load_cert_chain(nats.tls_cert, nats.tls_key)
    except OSError as error:  # ssl's own is one
        raise ConfigurationError(
            f"the certificates for NATS can't be used: {error.strerror or error}"
        ) from error
    return context

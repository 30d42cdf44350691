"""Where the queue is, and how it is accessed: options, environment, TOML file, NATS context.

Paths of credentials may be arguments; a password, a token or an address that holds one may not,
because every user of the machine can read those.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any

import attrs

from everlytic_async.cli._queue_commands import NatsOptions
from everlytic_async.cli._settings import Settings, Table
from everlytic_async.errors import ConfigurationError
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings

#: In the table [nats]; in the environment as EVERLYTIC_NATS_URL and so on.
NAMES = (
    *("url", "embedded", "context", "credentials", "nkey", "user", "password", "token"),
    *("tls_ca", "tls_cert", "tls_key"),
)
_PREFIX = "EVERLYTIC_NATS_"
#: NATS's own default.
_DEFAULT_URL = "nats://127.0.0.1:4222"
_LOCATIONS = ("url", "embedded", "context")
# What a context of NATS's own command line may hold, and what it is here.
_CONTEXT_KEYS = {
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
_IGNORED_CONTEXT_KEYS = {"description", "color_scheme", "name"}
_CONTEXT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# asyncio logs this at the end of each TLS connection of the NATS client; it means nothing.
_TLS_EOF_WARNING = "returning true from eof_received() has no effect when using ssl"
# An answer that takes longer is given up, in seconds; a worker is more patient.
_TIMEOUT_S = 10.0


@attrs.frozen
class Queues:
    """Makes the queue of a store, not yet open; all are on one server, which may be private."""

    _table: Table
    _arguments: Mapping[str, Any] = attrs.field(repr=False)
    is_embedded: bool

    def __call__(self, store: str) -> OrderQueue:
        known = [each.name for each in attrs.fields(QueueSettings) if each.name != "store"]
        self._table.check_names(known)
        # The file is read with exact decimals, for the prices of a mapping.
        plain: dict[str, Any] = {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in self._table.values.items()
        }
        return OrderQueue(settings=QueueSettings(store=store, **plain), **self._arguments)


@asynccontextmanager
async def connect(
    options: NatsOptions, settings: Settings, *, timeout_s: float = _TIMEOUT_S
) -> AsyncIterator[Queues]:
    """Say where the queues are. A private server runs as long as this lasts, if not already."""
    logging.getLogger("asyncio").addFilter(_drop_tls_eof_warning)
    found = _load(options, settings)
    table = settings.table("queue")
    arguments: dict[str, Any] = {
        "user_credentials": _readable(found.get("credentials")),
        "nkeys_seed": _readable(found.get("nkey")),
        **{name: found.get(name) for name in ("user", "password", "token")},
        "tls": _tls(found.get("tls_ca"), found.get("tls_cert"), found.get("tls_key")),
        "allow_plain_nats": options.allow_plain,
        "timeout_s": timeout_s,
    }
    if (directory := found.get("embedded")) is None:
        urls = found.get("url", _DEFAULT_URL)
        urls = urls if isinstance(urls, list) else urls.split(",")
        arguments["servers"] = [url.strip() for url in urls]
        yield Queues(table, arguments, is_embedded=False)
        return
    async with NatsServer.join_or_start(directory, token=arguments.pop("token")) as url:
        # With the token in it, also where another command started the server.
        yield Queues(table, {**arguments, "servers": url}, is_embedded=True)


def _load(options: NatsOptions, settings: Settings) -> dict[str, Any]:
    """The settings by name: each from the options, else the environment, else the TOML file.

    Where the queue is, is one setting: an address replaces the directory and the context of a
    lower place. What a context says of access comes last of all.
    """
    table = settings.table("nats")
    table.check_names(NAMES)
    if options.url is not None and "@" in options.url:
        raise ConfigurationError(
            "--nats holds a password or a token, which every user of the machine can read there: "
            f"set {_PREFIX}URL instead, or url in the table [nats]"
        )
    found: dict[str, Any] = {}
    for place, level in {
        "[nats]": table.values,
        "the environment": {name: os.environ.get(_PREFIX + name.upper()) for name in NAMES},
        "the options": {name: getattr(options, name, None) for name in NAMES},
    }.items():
        values = {name: value for name, value in level.items() if value is not None}
        where = [name for name in _LOCATIONS if name in values]
        if len(where) > 1:
            raise ConfigurationError(f"{place}: only one of {', '.join(where)} can be")
        if where:
            found = {name: value for name, value in found.items() if name not in _LOCATIONS}
        found.update(values)
    _check_texts(found)
    return _load_context(found["context"]) | found if "context" in found else found


def _check_texts(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        texts = value if name == "url" and isinstance(value, list) and value else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigurationError(f"{name} of the settings of NATS must be text, and not blank")


def _load_context(name: str) -> dict[str, Any]:
    """What a context of NATS's own command line says."""
    if not _CONTEXT_NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of a NATS context")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(home, "nats", "context", f"{name}.json")
    try:
        context = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the NATS context {name} can't be read from {path}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON") from error  # its message may quote
    if not isinstance(context, dict):
        raise ConfigurationError(f"{path} is not a NATS context")
    context = {key: value for key, value in context.items() if value not in ("", None, False)}
    if unknown := sorted(context.keys() - _CONTEXT_KEYS.keys() - _IGNORED_CONTEXT_KEYS):
        raise ConfigurationError(
            f"the NATS context {name} has what is not a setting here: {', '.join(unknown)}"
        )
    found = {ours: context[theirs] for theirs, ours in _CONTEXT_KEYS.items() if theirs in context}
    _check_texts(found)
    for key in ("credentials", "nkey", "tls_ca", "tls_cert", "tls_key"):
        if key in found:
            found[key] = os.path.expanduser(found[key])  # noqa: PTH111 - as text
    return found


def _drop_tls_eof_warning(record: logging.LogRecord) -> bool:
    return record.msg != _TLS_EOF_WARNING


def _readable(path: str | None) -> str | None:
    if path is not None:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigurationError(f"{path!r} can't be read: {error.strerror}") from error
    return path


def _tls(authorities: str | None, certificate: str | None, key: str | None) -> SSLContext | None:
    if (certificate is None) != (key is None):
        raise ConfigurationError("a certificate goes with its key: tls_cert and tls_key of NATS")
    if authorities is None and certificate is None:
        return None
    try:
        context = create_default_context(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl's own is one
        raise ConfigurationError(
            f"the certificates for NATS can't be used: {error.strerror or error}"
        ) from error
    return context

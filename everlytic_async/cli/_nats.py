"""Where the queue is, and how it is accessed: options, environment, TOML file.

Paths of credentials may be arguments; a password, a token or an address that holds one may not,
because every user of the machine can read those.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any

import attrs

from everlytic_async.cli._queue_commands import NatsOptions
from everlytic_async.cli._settings import Settings
from everlytic_async.errors import ConfigurationError
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings

# What the table [nats] may hold, and the variable of the same meaning.
_VARIABLES = {
    "url": "EVERLYTIC_NATS_URL",
    "embedded": "EVERLYTIC_NATS_EMBEDDED",
    "credentials": "EVERLYTIC_NATS_CREDENTIALS",
    "nkey": "EVERLYTIC_NATS_NKEY",
    "user": "EVERLYTIC_NATS_USER",
    "password": "EVERLYTIC_NATS_PASSWORD",
    "token": "EVERLYTIC_NATS_TOKEN",
    "tls_ca": "EVERLYTIC_NATS_TLS_CA",
    "tls_cert": "EVERLYTIC_NATS_TLS_CERT",
    "tls_key": "EVERLYTIC_NATS_TLS_KEY",
}
#: NATS's own default.
_DEFAULT_URL = "nats://127.0.0.1:4222"
# asyncio logs this at the end of each TLS connection of the NATS client; it means nothing.
_TLS_EOF_WARNING = "returning true from eof_received() has no effect when using ssl"
# An answer that takes longer is given up, in seconds; a worker is more patient.
_TIMEOUT_S = 10.0


@attrs.frozen
class Queues:
    """Makes the queue of a store, not yet open; all are on one server, which may be private."""

    is_embedded: bool
    _settings: Settings = attrs.field(repr=False)
    _arguments: Mapping[str, Any] = attrs.field(repr=False)

    def __call__(self, store: str) -> OrderQueue:
        """The queue of that store."""
        return OrderQueue(settings=_load_queue(self._settings, store), **self._arguments)


@asynccontextmanager
async def connect(
    options: NatsOptions, settings: Settings, *, timeout_s: float = _TIMEOUT_S
) -> AsyncIterator[Queues]:
    """Say where the queues are. A private server runs as long as this lasts, if not already."""
    logging.getLogger("asyncio").addFilter(_drop_tls_eof_warning)
    found = _load(options, settings)
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
        yield Queues(
            is_embedded=False,
            settings=settings,
            arguments={**arguments, "servers": [url.strip() for url in urls]},
        )
        return
    async with NatsServer.join_or_start(directory, token=arguments.pop("token")) as url:
        # With the token in it, also where another command started the server.
        yield Queues(is_embedded=True, settings=settings, arguments={**arguments, "servers": url})


def _load(options: NatsOptions, settings: Settings) -> dict[str, Any]:
    """The settings by name: each from the options, else the environment, else the TOML file.

    Where the queue is, is one setting: an address replaces the directory of a lower place.
    """
    table = settings.table("nats")
    table.check_names(_VARIABLES)
    if options.url is not None and "@" in options.url:
        raise ConfigurationError(
            "--nats holds a password or a token, which every user of the machine can read there: "
            "set EVERLYTIC_NATS_URL instead, or url in the table [nats]"
        )
    found: dict[str, Any] = {}
    for place, level in {
        "[nats]": table.values,
        "the environment": {name: os.environ.get(each) for name, each in _VARIABLES.items()},
        "the options": {name: getattr(options, name, None) for name in _VARIABLES},
    }.items():
        values = {name: value for name, value in level.items() if value is not None}
        if {"url", "embedded"} <= values.keys():
            raise ConfigurationError(f"{place}: only one of url, embedded can be")
        if {"url", "embedded"} & values.keys():
            found = {name: found[name] for name in found.keys() - {"url", "embedded"}}
        found.update(values)
    _check_texts(found)
    return found


def _check_texts(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        texts = value if name == "url" and isinstance(value, list) and value else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigurationError(f"{name} of the settings of NATS must be text, and not blank")


def _load_queue(settings: Settings, store: str) -> QueueSettings:
    """Load what the queue is called and holds, for one store, from the table ``[queue]``."""
    table = settings.table("queue")
    table.check_names([each.name for each in attrs.fields(QueueSettings) if each.name != "store"])
    # The file is read with exact decimals, for the prices of a mapping.
    plain: dict[str, Any] = {
        name: float(value) if isinstance(value, Decimal) else value
        for name, value in table.values.items()
    }
    return QueueSettings(store=store, **plain)


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

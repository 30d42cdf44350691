"""Where the queue is, and how it is accessed: options, environment, TOML file, NATS context.

Paths of credentials may be arguments; a password, a token or an address that holds one may not,
because every user of the machine can read those.
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

import attrs

from everlytic_async.cli._queue_commands import NatsOptions
from everlytic_async.cli._settings import Settings
from everlytic_async.errors import ConfigurationError
from everlytic_async.worker import NatsServer, QueueSettings

# EVERLYTIC_NATS_URL, EVERLYTIC_NATS_CONTEXT, EVERLYTIC_NATS_EMBEDDED, EVERLYTIC_NATS_CREDENTIALS,
# EVERLYTIC_NATS_NKEY, EVERLYTIC_NATS_USER, EVERLYTIC_NATS_PASSWORD, EVERLYTIC_NATS_TOKEN,
# EVERLYTIC_NATS_TLS_CA, EVERLYTIC_NATS_TLS_CERT, EVERLYTIC_NATS_TLS_KEY
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


@attrs.frozen(kw_only=True)
class Nats:
    """Where the queue is, one of the first three, and how it is accessed.

    Attributes:
        url: Addresses of servers, one or more.
        embedded: The directory of a private server of this machine.
        context: The name of a context of NATS's own command line.
        credentials: The path of a ``.creds`` file.
        nkey: The path of a file with an NKey seed.
        user: The name of a user.
        password: The user's password.
        token: A token.
        tls_ca: The path of the certificates of the authorities to trust.
        tls_cert: The path of the certificate to show.
        tls_key: The path of its key.
        allow_plain: Whether a server on another machine may be used without TLS. Only an option
            says so: a settings file that is passed around must not.
    """

    url: str | list[str] | None = attrs.field(default=None, repr=False)  # it may hold a password
    embedded: str | None = None
    context: str | None = None
    credentials: str | None = None
    nkey: str | None = None
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    allow_plain: bool = False


_FIELDS = [field.name for field in attrs.fields(Nats) if field.name != "allow_plain"]


def load_nats(options: NatsOptions, settings: Settings) -> Nats:
    """Load the settings: each from the options, else the environment, else the TOML file.

    Where the queue is, is one setting: an address replaces the directory and the context of a
    lower place. What a context says of access comes last of all.
    """
    table = settings.table("nats")
    table.check_names(_FIELDS)
    from_options = {name: getattr(options, name, None) for name in _FIELDS}
    url = from_options["url"]
    if url is not None and "@" in url:
        raise ConfigurationError(
            "--nats holds a password or a token, which every user of the machine can read there: "
            f"set {_PREFIX}URL instead, or url in the table [nats]"
        )
    merged: dict[str, Any] = {}
    for place, level in {
        "[nats]": table.values,
        "the environment": {name: os.environ.get(_PREFIX + name.upper()) for name in _FIELDS},
        "the options": from_options,
    }.items():
        values = {name: value for name, value in level.items() if value is not None}
        where = [name for name in _LOCATIONS if name in values]
        if len(where) > 1:
            raise ConfigurationError(f"{place}: only one of {', '.join(where)} can be")
        if where:
            merged = {name: value for name, value in merged.items() if name not in _LOCATIONS}
        merged.update(values)
    _check_texts(merged)
    if "context" in merged:
        merged = {**_load_context(merged["context"]), **merged}
    return Nats(**merged, allow_plain=options.allow_plain)


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
    known = [*_CONTEXT_KEYS, *_IGNORED_CONTEXT_KEYS]
    if unknown := sorted(context.keys() - set(known)):
        raise ConfigurationError(
            f"the NATS context {name} has what is not a setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(known)}"
        )
    found = {ours: context[theirs] for theirs, ours in _CONTEXT_KEYS.items() if theirs in context}
    _check_texts(found)
    for key in ("credentials", "nkey", "tls_ca", "tls_cert", "tls_key"):
        if key in found:
            found[key] = os.path.expanduser(found[key])  # noqa: PTH111 - as text
    return found


def load_queue(settings: Settings, store: str) -> QueueSettings:
    """Load what the queue is called and holds, for one store, from the table ``[queue]``."""
    table = settings.table("queue")
    table.check_names([each.name for each in attrs.fields(QueueSettings) if each.name != "store"])
    # The file is read with exact decimals, for the prices of a mapping.
    plain: dict[str, Any] = {
        name: float(value) if isinstance(value, Decimal) else value
        for name, value in table.values.items()
    }
    return QueueSettings(store=store, **plain)


@asynccontextmanager
async def nats_arguments(
    nats: Nats, *, timeout_s: float = _TIMEOUT_S
) -> AsyncIterator[dict[str, Any]]:
    """The arguments of `everlytic_async.worker.OrderQueue` that say where and how to connect.

    A private server runs for as long as this lasts, where it does not run already.
    """
    logging.getLogger("asyncio").addFilter(_drop_tls_eof_warning)
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
            # The address has the token, also where another command started the server.
            yield {"servers": url, **arguments, "token": None}
        return
    urls = nats.url if isinstance(nats.url, list) else (nats.url or _DEFAULT_URL).split(",")
    yield {"servers": [url.strip() for url in urls], **arguments}


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

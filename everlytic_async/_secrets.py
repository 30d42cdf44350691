"""The two hashes and the proxy's password: kept out of sight, and removed from what comes back.

Error trackers send the local variables of every frame away. So no function that may raise, or that
waits, keeps a hash in a local variable, and what checks one returns the fault: it does not raise.
"""

from __future__ import annotations

import json
from html import escape
from typing import NoReturn
from urllib.parse import quote

from yarl import URL

from everlytic_async._endpoint import ledger_scope
from everlytic_async._hosts import is_loopback
from everlytic_async.errors import ConfigurationError
from everlytic_async.ledger import ScopeName

_REDACTED = b"[hash]"
# Fewer characters of a hash reveal nothing.
_MIN_SECRET_PREFIX = 4


class Secrets:
    """Both hashes and the proxy, wrapped so that no repr, log, pickle or traceback shows them."""

    __slots__ = ("_customer", "_encodings", "_proxy", "_store")

    def __init__(self, store_hash: object, customer_hash: object, proxy: object = None) -> None:
        self._store = store_hash.strip() if isinstance(store_hash, str) else store_hash
        self._customer = customer_hash.strip() if isinstance(customer_hash, str) else customer_hash
        self._proxy = proxy.strip() if isinstance(proxy, str) else proxy
        self._encodings: tuple[bytes, ...] = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError("what holds the hashes can't be pickled: make another client there")

    def check(self) -> None:
        """Check that both hashes can be the value of a header. It comes before everything else.

        Raises:
            ConfigurationError: says which one can't, and not what it is.
        """
        fault = _hash_fault("store_hash", self._store) or _hash_fault(
            "customer_hash", self._customer
        )
        if fault:
            raise ConfigurationError(fault)
        found = _encodings_of_secret(str(self._store)) | _encodings_of_secret(str(self._customer))
        # Longest first, in case that one is a part of another.
        self._encodings = tuple(sorted(found, key=len, reverse=True))

    def headers(self) -> dict[str, str]:
        """The headers of the two hashes."""
        return {"x-ev-store-hash": str(self._store), "x-ev-customer-hash": str(self._customer)}

    def endpoint_id(self, base_url: str, url: str) -> ScopeName:
        """What names the endpoint and the store in a ledger; it reveals nothing of the hash."""
        return ledger_scope(base_url, url, str(self._store))

    def proxy(self, url: URL, *, allow_http: bool) -> URL | None:
        """The address of the proxy, with its user and password if there are any.

        Raises:
            ConfigurationError: when it can't be used for this endpoint.
        """
        fault = _proxy_fault(self._proxy, url, allow_http=allow_http)
        if fault:
            raise ConfigurationError(fault)
        return None if self._proxy is None else URL(str(self._proxy))

    def redact(self, text: str) -> str:
        """Text without the hashes."""
        for secret in self._encodings:
            text = text.replace(secret.decode(), _REDACTED.decode())
        return text

    def redact_body(self, body: bytes, *, whole: bool) -> bytes:
        """A response's body without the hashes, and without the start of one where it was cut."""
        for secret in self._encodings:
            body = body.replace(secret, _REDACTED)
        return body if whole else self._strip_partial_secret(body)

    def _strip_partial_secret(self, body: bytes) -> bytes:
        for secret in self._encodings:
            for size in range(len(secret) - 1, _MIN_SECRET_PREFIX - 1, -1):
                if body.endswith(secret[:size]):
                    return body[:-size]
        return body


def _encodings_of_secret(secret: str) -> set[bytes]:
    """How a server may repeat a hash: as it is, in JSON (PHP escapes slashes), a URL or HTML."""
    in_json = json.dumps(secret)[1:-1]
    in_php = in_json.replace("/", "\\/")
    found = (secret, in_json, in_php, quote(secret, safe=""), escape(secret))
    return {encoding.encode() for encoding in found}


def _hash_fault(name: str, value: object) -> str | None:
    where = f"{name} (EVERLYTIC_{name.upper()})"
    if not isinstance(value, str) or not value:
        return (
            f"{where} is missing: copy it from the store's page in Everlytic, and set it there or "
            "pass it to EverlyticClient"
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        return (
            f"{where} holds a space, a control character or a letter outside of ASCII: copy it "
            "again from the store's page in Everlytic"
        )
    return None


def _proxy_fault(value: object, url: URL, *, allow_http: bool) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"proxy must be a URL, got a {type(value).__name__}"
    fault = "proxy must be a URL such as http://proxy.example:3128 or http://user:password@host"
    try:
        proxy = URL(value)
        host, _ = proxy.host, proxy.port
    except ValueError:
        host = None
    if host is None:
        return fault
    if proxy.scheme != "http":
        return (
            f"{fault}: for another kind (https, socks) pass a `session` of your own whose "
            "connector supports it"
        )
    if proxy.path not in ("", "/") or proxy.query_string or proxy.fragment:
        return f"{fault}, without a path, query or fragment"
    if url.scheme == "http" and not allow_http and not is_loopback(host):
        return (
            "proxy can't be used for an http:// base_url: the proxy would read the hashes and the "
            "orders; use https://, or set allow_http=True to accept that"
        )
    return None

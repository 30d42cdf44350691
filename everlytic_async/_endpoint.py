"""The endpoint's address: from a user's ``base_url`` to the URL that is posted to.

The URL is in the normal form of RFC 3986, section 6.2: two spellings of one address are one
endpoint, with one memory in a ledger.

A second endpoint would have its path here, its model in `orders.py`, its encoding in
`_encoding.py`, a case in `_sender._make_job`, and in `client.py` a method and a `Transport` of its
own: a transport posts to one URL.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import partial
from urllib.parse import unquote, urlsplit

from yarl import URL

from everlytic_async._hosts import is_loopback
from everlytic_async.errors import ConfigurationError
from everlytic_async.ledger import ScopeName

#: The endpoint, below the address of the install.
PATH = "/servlet/e-commerce/orders"

_WHERE = "base_url (EVERLYTIC_BASE_URL)"
_MAX_PORT = 65_535
# RFC 1035, 2.3.4: a name's parts have 1 to 63 characters.
_MAX_LABEL = 63
_DEFAULT_PORTS = {"http": 80, "https": 443}
# A host whose last part is a number is an IPv4 address, as resolvers and browsers read it.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def endpoint_url(base_url: object, *, allow_http: bool = False) -> str:
    """The endpoint of an install, from its address with or without a path or the endpoint's own.

    Returns:
        The URL in normal form: host in lower case and in A-labels, without a trailing dot; an IP
        address in its usual form; no default port; dot segments removed; percent-encoding only
        where it is needed, in upper case.

    Raises:
        ConfigurationError: when it is not the address of an install, or would send the hashes in
            clear: ``http://`` is for loopback, or with ``allow_http``.
    """
    if not isinstance(base_url, str) or not base_url.strip():
        raise ConfigurationError(
            f"{_WHERE} is missing: give the address of the install, such as "
            "https://shop.everlytic.net"
        )
    text = base_url.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{_WHERE} is not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ConfigurationError(
            f"{_WHERE} must be a whole URL that starts with https://, such as "
            "https://shop.everlytic.net"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{_WHERE} must hold no user name, query or fragment: only the address of the install"
        )
    if any(char.isspace() or not char.isprintable() for char in text):
        raise ConfigurationError(f"{_WHERE} holds a space or a control character")
    if port is not None and not 0 < port <= _MAX_PORT:
        raise ConfigurationError(f"{_WHERE} has a port that does not exist")
    try:
        host = _normal_host(host)
        path = URL(f"https://host{parts.path}").raw_path
        prefix = _prefix(path)
        shown = f"[{host}]" if ":" in host else host
        if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
            shown = f"{shown}:{port}"
        url = f"{parts.scheme}://{shown}{prefix}{PATH}"
        URL(url)
    except ValueError as error:
        raise ConfigurationError(f"{_WHERE} is not a URL") from error
    # What counts is the host that is connected to, not how it was written.
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"{_WHERE} must begin with https://: over http:// anybody on the way reads the hashes "
            "and the orders; set allow_http=True (--allow-http) to accept that"
        )
    return url


def _prefix(path: str) -> str:
    """The path of the install, where the endpoint's own path or a slash may follow it."""
    return path.rstrip("/").removesuffix(PATH).rstrip("/")


def _normal_host(host: str) -> str:
    """A host in normal form, an IPv6 address without its brackets.

    Raises:
        ValueError: when it is none.
        ConfigurationError: when there can be no such host.
    """
    if ":" in host:
        address, percent, zone = host.partition("%")
        return f"{_normal_ipv6(ipaddress.IPv6Address(address))}{percent}{zone}"
    name = URL.build(scheme="https", host=unquote(host)).raw_host or ""
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return socket.inet_ntoa(socket.inet_aton(name))
        except OSError:
            pass
    elif all(0 < len(label) <= _MAX_LABEL for label in labels):
        return name
    raise ConfigurationError(f"{_WHERE} names a host that can't exist")


def _normal_ipv6(address: ipaddress.IPv6Address) -> str:
    """The same text on every Python: from 3.13 on, `str` writes ``::ffff:1.2.3.4``."""
    if address.ipv4_mapped is None:
        return str(address)
    high, low = divmod(int(address.ipv4_mapped), 1 << 16)
    return f"::ffff:{high:x}:{low:x}"


# ----------------------------------------------------------------------------- in a ledger


def ledger_scope(base_url: str, url: str, store_hash: str) -> ScopeName:
    """What names an endpoint and a store in a ledger. It reveals nothing of the hash.

    `base_url` is as the user wrote it, `url` the endpoint's in normal form.
    """
    return ScopeName(
        _scope(url, store_hash), partial(_earlier_scopes, base_url.strip(), url, store_hash)
    )


def _scope(url: str, store_hash: str) -> str:
    return hashlib.sha256(f"{url}\0{store_hash}".encode()).hexdigest()[:32]


def _earlier_scopes(
    base_url: str, url: str, store_hash: str, hosts: Iterable[str]
) -> frozenset[str]:
    """The scopes of this endpoint and store in ledgers of versions without the normal form.

    Those hashed the URL as it was written. The hosts that a ledger noted, and a few usual
    spellings, show how it may have been written.
    """
    normal, written_as = urlsplit(url), urlsplit(base_url)
    prefixes = {_prefix(normal.path), _prefix(written_as.path)}
    prefixes |= {f"{prefix}/." for prefix in prefixes} | {f"/.{prefix}" for prefix in prefixes}
    scopes = set()
    for host in {written_as.netloc, *hosts, *_spellings(normal.netloc, normal.scheme)}:
        for prefix in prefixes:
            written = f"{normal.scheme}://{host}{prefix}{PATH}"
            if _leads_to(written, url):
                scopes.add(_scope(written, store_hash))
    return frozenset(scopes - {_scope(url, store_hash)})


def _spellings(netloc: str, scheme: str) -> Iterable[str]:
    """How else a host in normal form is often written."""
    yield netloc
    host = URL(f"{scheme}://{netloc}")
    name, port = host.host or "", "" if host.explicit_port is None else f":{host.explicit_port}"
    ports = [port] if port else ["", f":{_DEFAULT_PORTS[scheme]}"]
    if ":" in name:
        yield from (f"[{name}]{port}" for port in ports)
        return
    for spelling in (name, name.upper(), name.title(), name.capitalize()):
        yield from (f"{spelling}{dot}{port}" for dot in ("", ".") for port in ports)


def _leads_to(written: str, url: str) -> bool:
    try:
        return endpoint_url(written, allow_http=True) == url
    except ConfigurationError:
        return False

"""The endpoint's address: from what a user gives as ``base_url`` to the URL that is posted to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from yarl import URL

from everlytic_async._wire import PATH
from everlytic_async.errors import ConfigurationError

_MAX_PORT = 65_535
_MAX_LABEL = 63


def endpoint_url(base_url: object, *, allow_http: bool = False) -> str:
    """The endpoint of an install, from its address with or without a path or the endpoint's own.

    Raises:
        ConfigurationError: when it is not the address of an install, or would send the hashes in
            clear: ``http://`` is for loopback, or with ``allow_http``.
    """
    where = "base_url (EVERLYTIC_BASE_URL)"
    if not isinstance(base_url, str) or not base_url.strip():
        raise ConfigurationError(
            f"{where} is missing: give the address of the install, such as "
            "https://shop.everlytic.net"
        )
    try:
        parts = urlsplit(base_url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{where} is not a URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"{where} must be a whole URL that begins with https://, such as "
            "https://shop.everlytic.net"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{where} must hold no user name, query or fragment: only the address of the install"
        )
    if any(char.isspace() or not char.isprintable() for char in base_url.strip()):
        raise ConfigurationError(f"{where} holds a space or a control character")
    if port is not None and not 0 < port <= _MAX_PORT:
        raise ConfigurationError(f"{where} has a port that does not exist")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise ConfigurationError(
            f"{where} must begin with https://: over http:// anybody on the way reads the hashes "
            "and the orders; if that is meant, set allow_http=True, or give --allow-http"
        )
    prefix = parts.path.rstrip("/").removesuffix(PATH).rstrip("/")
    url = f"{parts.scheme}://{parts.netloc}{prefix}{PATH}"
    try:
        URL(url)
    except ValueError as error:
        raise ConfigurationError(f"{where} is not a URL") from error
    # RFC 1035, 2.3.4: a name's parts have 1 to 63 characters.
    if not all(0 < len(part) <= _MAX_LABEL for part in host.removesuffix(".").split(".")):
        raise ConfigurationError(f"{where} names a host that can't exist")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

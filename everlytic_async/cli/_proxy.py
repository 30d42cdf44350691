"""The proxy that the environment names, as for other tools: HTTPS_PROXY, ALL_PROXY, NO_PROXY."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from everlytic_async.errors import ConfigurationError

__all__ = ["find_proxy", "proxy_host"]


def find_proxy(base_url: str) -> str | None:
    """The proxy for an address, which may hold a password; None for the direct way.

    This machine is always reached directly: ``http://`` is allowed there because nobody listens.

    Args:
        base_url: The address of the install.

    Raises:
        ConfigurationError: when the environment names a proxy of another kind. The message has
            nothing of it but its kind.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None  # the client says what is wrong with it
    if not host or _is_this_machine(host) or proxy_bypass(host if port is None else parts.netloc):
        return None
    proxies = getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if name is None:
        return None
    proxy = proxies[name]
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    kind = proxy.partition("://")[0].lower()
    if kind != "http":
        raise ConfigurationError(
            f"{name.upper()}_PROXY in the environment names a proxy of a kind that can't be used "
            f"({kind}://): name one by http://, through which https:// goes in a tunnel, or list "
            f"{host} in NO_PROXY"
        )
    return proxy


def proxy_host(proxy: str) -> str:
    """The host and port of a proxy, without its user and password."""
    return urlsplit(proxy).netloc.rpartition("@")[2]


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

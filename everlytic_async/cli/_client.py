"""The client that the options of a command ask for, with the proxy that the environment names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from everlytic_async import Delivery, EverlyticClient, Pacing, RetryPolicy
from everlytic_async.cli._options import SendingOptions
from everlytic_async.cli._settings import Account
from everlytic_async.errors import ConfigurationError
from everlytic_async.events import Hook

_OTHER_KINDS = ("https", "socks", "socks4", "socks4a", "socks5", "socks5h")


def get_delivery(options: SendingOptions) -> Delivery:
    """What ``--delivery`` says."""
    return Delivery(options.delivery.replace("-", "_"))


def make_client(
    options: SendingOptions, account: Account, hooks: Sequence[Hook] = ()
) -> EverlyticClient:
    """Make a client, not yet open."""
    found = _find_proxy(account.base_url)
    with account.naming_origin(), _naming_variable(None if found is None else found[0]):
        return EverlyticClient(
            account.base_url,
            store_hash=account.store_hash,
            customer_hash=account.customer_hash,
            delivery=get_delivery(options),
            retry=RetryPolicy(attempts=options.retries + 1),
            pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
            proxy=None if found is None else found[1],
            on_event=hooks,
            allow_http=options.allow_http,
        )


def find_proxy(base_url: str) -> str | None:
    """The proxy for an address, as other tools find it: HTTPS_PROXY, ALL_PROXY, NO_PROXY.

    It may hold a password; None is the direct way.

    This machine is always reached directly: ``http://`` is allowed there because nobody listens.

    Args:
        base_url: The address of the install.
    """
    found = _find_proxy(base_url)
    return None if found is None else found[1]


@contextmanager
def _naming_variable(variable: str | None) -> Iterator[None]:
    """Have an error about the proxy name the variable that it came from."""
    try:
        yield
    except ConfigurationError as error:
        if variable is None or not str(error).startswith("proxy "):
            raise
        raise ConfigurationError(f"{variable} in the environment: {error}") from None


def _find_proxy(base_url: str) -> tuple[str, str] | None:
    """The variable that names the proxy, in upper case, and the proxy."""
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
    variable = f"{name.upper()}_PROXY"
    kind = proxy.partition("://")[0].lower()
    if kind != "http":
        # Nothing else of it: without a scheme this may be a part of the password.
        shown = f" ({kind}://)" if kind in _OTHER_KINDS else ""
        raise ConfigurationError(
            f"{variable} in the environment names a proxy of a kind that can't be used"
            f"{shown}: name one by http://, through which https:// goes in a tunnel, or list "
            f"{host} in NO_PROXY"
        )
    return variable, proxy


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

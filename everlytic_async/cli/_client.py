"""The client that the options of a command ask for, with the proxy that the environment names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import attrs

from everlytic_async import Delivery, EverlyticClient, Pacing, RetryPolicy
from everlytic_async.cli._options import SendingOptions
from everlytic_async.cli._settings import Account
from everlytic_async.errors import ConfigurationError
from everlytic_async.events import Hook


@attrs.frozen
class Proxy:
    """A proxy, and the variable of the environment that names it."""

    variable: str
    url: str = attrs.field(repr=False)  # it may hold a password

    @property
    def host(self) -> str:
        """Its host and port, without its user and password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


def get_delivery(options: SendingOptions) -> Delivery:
    """What ``--delivery`` says."""
    return Delivery(options.delivery.replace("-", "_"))


def make_client(
    options: SendingOptions, account: Account, hooks: Sequence[Hook] = ()
) -> EverlyticClient:
    """Make a client, not yet open."""
    return client_for(
        account,
        find_proxy(account.base_url),
        delivery=get_delivery(options),
        retry=RetryPolicy(attempts=options.retries + 1),
        pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
        on_event=hooks,
        allow_http=options.allow_http,
    )


def client_for(account: Account, proxy: Proxy | None = None, **settings: Any) -> EverlyticClient:
    """A client of an account, not yet open; an error names where a wrong setting comes from."""
    try:
        return EverlyticClient(
            account.base_url,
            store_hash=account.store_hash,
            customer_hash=account.customer_hash,
            proxy=None if proxy is None else proxy.url,
            **settings,
        )
    except ConfigurationError as error:
        message = account.name_origin(str(error))
        if proxy is not None and message.startswith("proxy "):
            message = f"{proxy.variable} in the environment: {message}"
        raise ConfigurationError(message) from None


def find_proxy(base_url: str) -> Proxy | None:
    """The proxy for the address of an install; None is the direct way.

    As other tools find it: HTTPS_PROXY, ALL_PROXY, NO_PROXY. This machine is always reached
    directly: ``http://`` is allowed there because nobody listens.
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
    variable, url = f"{name.upper()}_PROXY", proxies[name]
    if "://" not in url:
        url = f"http://{url}"
    if not url.lower().startswith("http://"):
        # Nothing of it: what stands before :// may be a part of the password.
        raise ConfigurationError(
            f"{variable} in the environment names a proxy of a kind that can't be used: name one "
            f"by http://, through which https:// goes in a tunnel, or list {host} in NO_PROXY"
        )
    return Proxy(variable, url)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""What a host name says by itself."""

from __future__ import annotations

import ipaddress

_IPV4_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_IPV6_LOOPBACK = ipaddress.IPv6Address("::1")


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine: nobody on the way can read along."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address == _IPV6_LOOPBACK or (address.version == 4 and address in _IPV4_LOOPBACK)  # noqa: PLR2004

"""`endpoint_url`: every spelling of an address leads to one URL, or is refused."""

from __future__ import annotations

import hashlib

import pytest

from everlytic_async import ConfigurationError
from everlytic_async._endpoint import PATH, endpoint_url, ledger_scope


@pytest.mark.parametrize(
    ("address", "used"),
    [
        ("https://shop.example", f"https://shop.example{PATH}"),
        ("  https://shop.example\n", f"https://shop.example{PATH}"),
        ("https://shop.example:8443", f"https://shop.example:8443{PATH}"),
        ("https://shop.example/mailer", f"https://shop.example/mailer{PATH}"),
        ("https://shop.example/mailer/", f"https://shop.example/mailer{PATH}"),
        ("https://shop.example/a/b//", f"https://shop.example/a/b{PATH}"),
        (f"https://shop.example{PATH}", f"https://shop.example{PATH}"),
        (f"https://shop.example/mailer{PATH}", f"https://shop.example/mailer{PATH}"),
        ("https://[::1]:8443/x", f"https://[::1]:8443/x{PATH}"),
        ("http://localhost:8080", f"http://localhost:8080{PATH}"),
        ("http://127.8.9.10", f"http://127.8.9.10{PATH}"),
    ],
)
def test_the_address_of_an_install_leads_to_its_endpoint(address: str, used: str) -> None:
    assert endpoint_url(address) == used


@pytest.mark.parametrize(
    "address",
    [
        None,
        3,
        b"https://shop.example",
        "",
        "   ",
        "shop.example",
        "//shop.example",
        "https://",
        "https:///path",
        "ftp://shop.example",
        "https://user:pass@shop.example",
        "https://user@shop.example",
        "https://shop.example?x=1",
        "https://shop.example#x",
        "https://shop.example:0",
        "https://shop.example:99999",
        "https://shop.example:port",
        "https://shop .example",
        "https://shop.example/a\nb",
        "https://shop.example/\x00",
        "https://[::1",
        "https://[shop.example]",
        "https://shop..example",
        "https://.example",
        "https://.",
        "https://h\\x",
        "https://1.2.3.256",
        "https://shop.123",
        f"https://{'a' * 64}.example",
        f"https://{'ü' * 60}.example",
    ],
)
def test_an_impossible_address_is_refused(address: object) -> None:
    with pytest.raises(ConfigurationError, match=r"base_url \(EVERLYTIC_BASE_URL\)"):
        endpoint_url(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://shop.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://notlocalhost",
        "http://[::2]",
        "http://0.0.0.0",
        "http://shop.localhost",
        "http://128.0.0.1",
        "http://[::ffff:7f00:1]",
    ],
)
def test_http_is_for_loopback_only_unless_allowed(address: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_http"):
        endpoint_url(address)
    assert endpoint_url(address, allow_http=True) == f"{address}{PATH}"


@pytest.mark.parametrize(
    ("spellings", "normal"),
    [
        (
            [
                "HTTPS://Shop.Example",
                "https://SHOP.EXAMPLE:443/",
                "https://shop.example:0443",
                "https://shop.example:",
                "https://shop.example.",
                "https://shop.example.:443/./",
                "https://shop.example/mailer/..",
                "https://shop.example/%2e/mailer/%2E%2e/",
                "https://sh%6fp.example",
                "https://shop.example/?#",
                "https://shop.example/%73ervlet/./e-commerce/orders/",
            ],
            "https://shop.example",
        ),
        (
            ["https://shop.example/%7Euser/%2f", "https://shop.example/x/../~user/%2F"],
            "https://shop.example/~user/%2F",
        ),
        (["https://shop.example//a//b/"], "https://shop.example//a//b"),
        (
            [
                "https://münchen.example",
                "https://MÜNCHEN.example",
                "https://mu\u0308nchen.example.",
                "https://m%C3%BCnchen.example",
                "https://XN--MNCHEN-3YA.example",
                "https://münchen\u3002example",
            ],
            "https://xn--mnchen-3ya.example",
        ),
        (["https://faß.example"], "https://xn--fa-hia.example"),
        (
            [
                "http://127.0.0.1:80",
                "http://127.1",
                "http://127.0.0.01:0080",
                "http://0x7f.0.0.1",
                "http://0X7F000001",
                "http://2130706433",
                "http://127.0.0.1.",
            ],
            "http://127.0.0.1",
        ),
        (
            ["http://[0:0:0:0:0:0:0:1]", "http://[::0001]:080", "http://[0::1]"],
            "http://[::1]",
        ),
        (["https://[2001:DB8::A]", "https://[2001:0db8:0:0::a]:443"], "https://[2001:db8::a]"),
        (["http://LOCALHOST:08080/", "http://localhost.:8080"], "http://localhost:8080"),
    ],
)
def test_spellings_of_one_address_are_one_endpoint(spellings: list[str], normal: str) -> None:
    assert {endpoint_url(spelling) for spelling in spellings} == {f"{normal}{PATH}"}
    assert endpoint_url(endpoint_url(normal)) == f"{normal}{PATH}"


def test_another_address_is_another_endpoint() -> None:
    others = (
        *("http://localhost", "https://localhost:444", "https://localhost/a"),
        *("https://127.0.0.1", "https://localhost.example", "https://localhost"),
    )
    assert len({endpoint_url(other) for other in others}) == len(others)


@pytest.mark.parametrize(
    ("loopback", "elsewhere"),
    [
        ("http://0x7f.1", "http://0x0a.1"),
        ("http://%3127.0.0.1", "http://%3110.0.0.1"),
        ("http://LocalHost.", "http://LocalHost.example."),
        ("http://\uff11\uff12\uff17.0.0.1", "http://\uff11\uff10.0.0.1"),
        ("http://0177.0.0.1", "http://0200.0.0.1"),
    ],
)
def test_loopback_is_recognized_in_any_spelling(loopback: str, elsewhere: str) -> None:
    assert endpoint_url(loopback)
    with pytest.raises(ConfigurationError, match="allow_http"):
        endpoint_url(elsewhere)


@pytest.mark.parametrize(
    ("address", "written", "hosts", "known"),
    [
        ("https://shop.example", "https://SHOP.EXAMPLE.:443", (), True),
        ("https://shop.example:8443/a", "https://Shop.Example:8443/./a", (), True),
        ("http://[::1]", "http://[::1]:80", (), True),
        ("https://SHOP.example/b/../a", "https://SHOP.example/b/../a", (), True),
        ("https://münchen.example", "https://MÜNCHEN.example", ["MÜNCHEN.example", "[x"], True),
        ("https://shop.example", "https://other.example", ["other.example"], False),
    ],
)
def test_a_ledger_of_a_version_that_kept_addresses_as_they_were_written_is_recognized(
    address: str, written: str, hosts: list[str], *, known: bool
) -> None:
    scope = ledger_scope(address, endpoint_url(address), "store")
    before = hashlib.sha256(f"{written}{PATH}\0store".encode()).hexdigest()[:32]
    assert (before in scope.earlier(hosts)) is known

"""``doctor``: what a run would use and where it comes from, and whether it can work.

It opens a connection to the host, with TLS, and closes it: no request is made, no order is sent.
"""

from __future__ import annotations

import asyncio
import platform
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.text import Text

from everlytic_async.cli._client import Proxy, client_for, find_proxy
from everlytic_async.cli._commands import DoctorOptions
from everlytic_async.cli._console import print_lines
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._forecast import choose_ledger
from everlytic_async.cli._screen import format_time, print_json
from everlytic_async.cli._settings import Account, Settings
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger import LedgerFile

_TIMEOUT_S = 10.0
_PORTS = {"http": 80, "https": 443}
_TUNNEL = re.compile(r"HTTP/1\.[01] 200\b")
# The libraries at work, and those of the extras.
_PACKAGES = ("aiohttp", "orjson", "rich", "nats-py", "openpyxl", "plotly", "pyarrow", "uvloop")

#: A section for each topic; in it a name and a value.
Findings = dict[str, dict[str, Any]]


async def doctor(options: DoctorOptions) -> int:
    """Show what a run would use, and what stands in its way; return the exit code."""
    findings: Findings = {}
    problems: list[str] = []
    settings = Settings(options.config)
    # What they hold by name: a value may be a secret.
    findings["settings"] = {
        f"[{table.name}]": f"{table.path}: {', '.join(table.values)}" for table in settings.tables()
    }
    try:
        account = settings.account()
        findings["account"] = _account(account, options)
        findings["host"] = await _reach(account)
    except ConfigurationError as error:
        problems.append(str(error))
    except (OSError, TimeoutError) as error:
        problems.append(f"{account.host} can't be reached: {_describe(error)}")
    try:
        findings["ledger"] = _ledger(options, settings)
    except (ConfigurationError, LedgerError) as error:
        problems.append(str(error))
    findings["versions"] = _versions()
    code = Exit.FAILED if problems else Exit.OK
    if options.as_json:
        found = {**findings, "problems": problems, "exit_code": code}
        print_json(found)
    else:
        print_lines(_lines(findings))
    for problem in problems:
        say(f"Problem: {problem}")
    return code


def _lines(findings: Findings) -> Iterator[Text]:
    width = max(len(name) for rows in findings.values() for name in rows)
    for topic, rows in findings.items():
        yield Text(topic.capitalize(), "bold")
        for name, value in rows.items() or [("none", "")]:
            yield Text(f"  {name:<{width}}  {value}".rstrip())


def _versions() -> dict[str, str]:
    found = {"everlytic-async": metadata.version("everlytic-async")}
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _account(account: Account, options: DoctorOptions) -> dict[str, str]:
    """Where orders would go, and as whom; of the hashes only how long they are."""
    client_for(account, allow_http=options.allow_http)  # checks them
    proxy = find_proxy(account.base_url)
    return {
        "from": account.origin,
        "base_url": account.base_url,
        "store_hash": f"set, {len(account.store_hash)} characters",
        "customer_hash": f"set, {len(account.customer_hash)} characters",
        "proxy": "none" if proxy is None else proxy.host,
    }


def _ledger(options: DoctorOptions, settings: Settings) -> dict[str, Any]:
    """What a run would remember, and by which file."""
    choice = choose_ledger(options, settings)
    if choice is None:
        return {"path": "none"}
    if options.ledger is not None:
        named_by = "--ledger"
    else:
        named_by = str(settings.table("everlytic").path) if choice.is_named else "the default"
    found: dict[str, Any] = {"path": str(choice.path), "from": named_by}
    if choice.is_new:
        return {**found, "state": "there is none yet: the first run creates it"}
    with LedgerFile(choice.path, must_exist=True) as file:
        summary = file.summary()
    counts = {str(state): count for state, count in summary.counts.items() if count}
    hosts = {"hosts": ", ".join(summary.hosts)} if summary.hosts else {}
    return {**found, **hosts, **counts, "sending now": summary.running}


async def _reach(account: Account) -> dict[str, str]:
    """Connect as a run would, with TLS, and close the connection.

    Raises:
        OSError: it can't be reached, or its certificate is not trusted.
    """
    parts = urlsplit(account.base_url.strip())
    host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
    context = ssl.create_default_context() if parts.scheme == "https" else None
    proxy = find_proxy(account.base_url)
    started = time.monotonic()
    async with asyncio.timeout(_TIMEOUT_S):
        if proxy is None:
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        else:
            writer = await _connect_through(proxy, f"{host}:{port}" if context else None)
            if context is not None:
                await writer.start_tls(context, server_hostname=host)
    try:
        found = {
            "connected": f"{host}:{port} in {(time.monotonic() - started) * 1000:.0f} ms",
            "tls": "none: http://",
        }
        if (tls := writer.get_extra_info("ssl_object")) is not None:
            ends = format_time(ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"]))
            found |= {"tls": tls.version(), "certificate": f"trusted, valid until {ends}"}
        return found
    finally:
        writer.transport.abort()  # nothing was asked, so nothing is waited for


async def _connect_through(proxy: Proxy, target: str | None) -> asyncio.StreamWriter:
    """Connect to a proxy, and have it make a tunnel to the target, if one is named."""
    parts = urlsplit(proxy.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or _PORTS["http"])
    if target is None:
        return writer
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        head += f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}\r\n"
    try:
        writer.write(f"{head}\r\n".encode())
        status = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")[0]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        status = "nothing that a proxy says"
    except BaseException:
        writer.transport.abort()
        raise
    if not _TUNNEL.match(status):
        writer.transport.abort()
        raise ConnectionError(f"the proxy {proxy.host} answered {status!a}")
    return writer


def _describe(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case TimeoutError():
            return f"no answer within {_TIMEOUT_S:g} s"
        case OSError() if error.strerror:
            return error.strerror
        case _:
            return str(error)

"""``sandbox``: the stand-in for the endpoint as a server of its own, until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex

import attrs

from everlytic_async.cli._commands import SandboxOptions
from everlytic_async.cli._console import print_lines
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._run import Signals
from everlytic_async.errors import ConfigurationError
from everlytic_async.sandbox import Faults, Sandbox


def serve(options: SandboxOptions) -> int:
    """Serve until the first Ctrl-C or SIGTERM, and show the counts."""
    try:
        faults = Faults(
            **{
                field.name: getattr(options, field.name)
                for field in attrs.fields(Faults)
                if hasattr(options, field.name)
            }
        )
        sandbox = Sandbox(host=options.host, port=options.port, keep=0, faults=faults)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return asyncio.run(_serve(sandbox, f"{options.host}:{options.port}"))


async def _serve(sandbox: Sandbox, where: str) -> int:
    try:
        await sandbox.start()
    except OSError as error:
        raise ConfigurationError(
            f"the sandbox can't listen at {where}: {error.strerror}. `--port 0` takes a free port"
        ) from error
    try:
        ended = asyncio.Event()
        with Signals(ended.set, ended.set).install():
            _print_settings(sandbox)
            await ended.wait()
    finally:
        await sandbox.close()
    print_lines([_counts(sandbox)])
    return Exit.OK


def _print_settings(sandbox: Sandbox) -> None:
    settings = {
        "EVERLYTIC_BASE_URL": sandbox.base_url,
        "EVERLYTIC_STORE_HASH": sandbox.store_hash,
        "EVERLYTIC_CUSTOMER_HASH": sandbox.customer_hash,
    }
    say("A stand-in for the endpoint: nobody gets an e-mail. Ctrl-C ends it. In another terminal:")
    say("")
    print_lines(
        [f"export {name}={shlex.quote(value)}" for name, value in settings.items()],
        is_data=True,
    )
    say("")


def _counts(sandbox: Sandbox) -> str:
    answers = ", ".join(
        f"{count:,} with {status}" for status, count in sorted(sandbox.statuses.items())
    )
    return (
        f"{sandbox.requests:,} requests, {sandbox.processed:,} orders processed, "
        f"{sum(sandbox.duplicates.values()):,} of them again; "
        f"answered: {answers or 'none'}; dropped: {sandbox.dropped:,}"
    )

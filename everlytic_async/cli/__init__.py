"""The command ``everlytic-async``: arguments in, text out.

``_commands`` and ``_queue_commands`` declare the commands, their options and their help, by the
means of ``_options``. These are all that ``--help`` loads. What a command does is imported when it
runs: ``_send`` and ``_enqueue`` (both a ``_run``), ``_check``, ``_ledger``, ``_sandbox``,
``_worker``, ``_queue``. They share ``_settings``, ``_client`` and ``_proxy`` (the client to use),
``_nats`` (where a queue is), ``_input`` (the orders and their lines), ``_forecast`` (which ledger
is used, and what it says about the input), ``_plan`` and ``_terminal`` (the question before a
backfill), ``_tally`` (the counts), ``_progress`` and ``_pace`` (the progress bar), ``_screen`` (the
summary), ``_results`` (a line for each order), ``_report`` (a page about the run), ``_next`` (the
exit code, and what to do next), ``_signals`` and ``_exit`` (how it ends).

Nothing else of the package imports click, rich or typed-settings: they are the extra ``cli``.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of the process, and exit."""
    # Looked for rather than imported: --help needs only the first two.
    if any(find_spec(name) is None for name in ("click", "rich_click", "rich", "typed_settings")):
        sys.stderr.write(
            "The command needs more packages than the library. Install them:\n"
            "  pip install 'everlytic-async[cli]'\n"
        )
        sys.exit(2)
    try:
        from everlytic_async.cli._commands import run  # noqa: PLC0415 - after the look

        run()
    except KeyboardInterrupt:
        sys.exit(130)

"""The command ``everlytic-async``: arguments in, text out.

``_commands`` and ``_queue_commands`` declare the commands and their help, with what is common to
several in ``_options``; these are all that ``--help`` loads. What a command does is imported when
it runs: ``_send``, ``_check``, ``_ledger``, ``_sandbox``, ``_enqueue``, ``_worker``, ``_queue``.
They share ``_settings`` (whose orders they are), ``_proxy`` (the way they go), ``_nats`` (where a
queue is), ``_input`` (the orders, and where each came from), ``_forecast`` (which ledger is used,
and what it says of the input), ``_plan`` and ``_terminal`` (the question before a backfill),
``_results`` (a line for each order), ``_report`` (a page on all), ``_tally`` (what became of them),
``_next`` (the exit code, and what to do next), ``_screen`` and ``_pace`` (what is shown),
``_signals`` and ``_exit`` (how it ends).

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

"""The command ``everlytic-async``: arguments in, text out.

``_commands``, ``_ledger_commands`` and ``_queue_commands`` declare the commands, by means of
``_options``: all that ``--help`` loads. What a command does is imported when it runs.

``_check``, ``_send`` and ``_enqueue`` are a ``_run`` over an ``_input``, which may be a ``_pipe``.
All commands share:

- ``_settings``, ``_client``, ``_nats``: the account, the client and its proxy, where a queue is.
- ``_forecast``, ``_plan``: which ledger is used, what it says of the input; the question before a
  backfill.
- ``_look``, ``_repeats``: the first orders field by field and a proposed mapping; ids that an input
  has twice.
- ``_counts``, ``_progress_bar``, ``_screen``, ``_next``: the outcomes of a run, its progress, its
  summary, what to do next.
- ``_console``: how lines are printed.
- ``_results``, ``_report``: a line for each order, a page about the run.
- ``_exit``: how a command ends.

Nothing else of the package imports click or rich: they are the extra ``cli``.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of the process, and exit."""
    # Looked for rather than imported: --help needs only the first two.
    if any(find_spec(name) is None for name in ("click", "rich_click", "rich")):
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

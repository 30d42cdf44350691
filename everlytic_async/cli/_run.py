"""One run of a command over its input: results, progress, signals, summary, exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NoReturn

import attrs
from rich.table import Table
from rich.text import Text

from everlytic_async.cli._console import OutputError, print_lines
from everlytic_async.cli._counts import REASONS, Tally
from everlytic_async.cli._exit import Exit, is_quiet, note, say
from everlytic_async.cli._input import Input, Item
from everlytic_async.cli._options import ResultsOptions
from everlytic_async.cli._progress_bar import Bar
from everlytic_async.cli._repeats import SKIPPED_AS_REPEATED
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import (
    SEND_LABELS,
    Labels,
    count_orders,
    outcome_lines,
    print_json,
    reason_lines,
)
from everlytic_async.errors import ConfigurationError, EverlyticError, SkippedError, SourceError
from everlytic_async.ledger import State
from everlytic_async.outcomes import Outcome


@attrs.define(kw_only=True, eq=False)
class Run(ABC):
    """A subclass moves the orders; the rest is the same for all.

    Attributes:
        title: What the progress bar says.
        destination: Where the orders go, for the summary.
        input_error: Why reading ended before the end of the input; None if it did not.
        error: Why the run ended early, in words; None if it did not.
    """

    options: ResultsOptions
    source: Input
    title: str
    destination: str = ""
    labels: Labels = SEND_LABELS
    max_reasons: int = REASONS
    results: Results = attrs.field(init=False)
    tally: Tally = attrs.field(init=False)
    input_error: BaseException | None = attrs.field(default=None, init=False)
    error: str | None = attrs.field(default=None, init=False)
    signals: Signals = attrs.field(init=False)
    _bar: Bar = attrs.field(init=False)
    _started_at: float = attrs.field(factory=time.monotonic, init=False)
    _summary_error: OutputError | None = attrs.field(default=None, init=False)

    #: What to say at the first signal.
    interrupted = (
        "Interrupted: no more orders are read; waiting for those in flight. Again to exit at once."
    )
    #: The exit code where a part of the input can't be read.
    input_error_code = Exit.FAILED

    def __attrs_post_init__(self) -> None:
        self.tally = Tally(self.max_reasons)
        self._bar = Bar(
            self.title,
            self.tally,
            self.labels,
            enabled=self.options.progress and not self.options.quiet,
            expected=self.source.expected,
            note=self.note,
        )
        self.signals = Signals(self._drain, self._exit_now)

    @abstractmethod
    async def move(self) -> None:
        """Move every order, and `add` its result."""

    @abstractmethod
    def advise(self) -> Iterator[str]:
        """What to do next, after the summary."""

    @abstractmethod
    def judge(self) -> int:
        """The exit code of a run that ended by itself."""

    def stop(self, reason: str) -> None:  # noqa: ARG002 - `send` says it of each order
        """Stop reading orders; what is in flight finishes."""
        self.source.stop()

    def abandon(self) -> None:  # noqa: B027 - a check has nothing in flight
        """Add a result for each order in flight: the process exits at once."""

    def note(self) -> str:
        """A few words about the present state, for the progress bar."""
        return ""

    @property
    def is_input_damaged(self) -> bool:
        """Whether the input can't be read to its end, and that would be the same again."""
        return self.input_error is not None and not isinstance(self.input_error, OSError)

    def name(self, outcome: Outcome) -> str:
        """What an outcome is called in JSON."""
        return self.labels[outcome][0].replace(" ", "_")

    def result_name(self, outcome: Outcome) -> str:
        """What the results call an outcome."""
        return self.name(outcome)

    def headline(self) -> str:
        """What the summary starts with."""
        return f"{count_orders(self.tally.total)} from {self.source.name} to {self.destination}"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._started_at

    async def execute(self) -> int:
        """Move every order, show the summary, and return the exit code."""
        # Only now: no file is created before everything else is right.
        with closing(Results(self.options)) as self.results:
            self._bar.start()
            try:
                with self.signals.install(), self._bar.refreshing():
                    await self.move()
            finally:
                self._bar.stop()
            return self.finish()

    def add(
        self,
        index: int,
        outcome: Outcome,
        *,
        key: str | None = None,
        attempts: int = 0,
        error: EverlyticError | str | None = None,
        duplicate_risk: bool = False,
        note: str | None = None,
    ) -> None:
        """Count a result and write its line; `note` is for the results where there is no error."""
        line, is_repeated = self.source.pop(index)
        if isinstance(error, SkippedError):
            # The option of the command, not the argument of the library.
            words = error.message.replace(" resend ", " --resend ")
            if error.state == State.IN_FLIGHT and is_repeated:
                words = SKIPPED_AS_REPEATED
            error = SkippedError(words, error.state, error.other_body)
        self.tally.add(outcome, line, error, key=key, duplicate_risk=duplicate_risk)
        written = self.results.write(
            index=index,
            line=line,
            key=key,
            outcome=self.result_name(outcome),
            attempts=attempts,
            error=error or note,
            duplicate_risk=duplicate_risk,
        )
        if not written:
            self.stop("the results can't be written")  # no order without a trace

    async def orders(self) -> AsyncIterator[Item]:
        """The orders of the input; an error of it is kept, not raised."""
        try:
            async for order in self.source.each():
                yield order
        except (OSError, ConfigurationError, SourceError) as error:
            self.input_error = error

    def finish(self) -> int:
        """Show the summary, what ended the run and what to do next; return the exit code."""
        self._bar.stop()
        self.results.close()
        self._summarize()
        source = self.source
        for warning in self.warn():
            if warning not in source.announced:
                say(f"Warning: {warning}")
        if self._summary_error is not None:
            say(f"Error: {self._summary_error}. The orders are as the summary above says.")
        errors = [each for each in (self.error, self.results.fault) if each is not None]
        if self.input_error is not None:
            errors.insert(0, source.describe_error(self.input_error))
        for problem in errors:
            say(f"Error: {problem}")
        if not source.exhausted and source.read_count:
            note(f"Nothing after {source.place} {source.last_line:,} of {source.name} was read.")
        for step in self.advise():
            say(step)  # also with --quiet: a person has to act
        code = self._exit_code()
        if self.options.as_json:
            print_json(self.figures(code, errors))
        return code

    def warn(self) -> Iterator[str]:
        """What a person should look at."""
        source = self.source
        if source.read_count and source.never_set:
            yield (
                f"the mapping for {', '.join(sorted(source.never_set))} matched nothing "
                "in any order. Check the column name."
            )
        yield from source.warnings

    def figures(self, code: int, errors: Sequence[str]) -> dict[str, Any]:
        """The counts, for ``--json``."""
        source, tally, repeats = self.source, self.tally, self.source.repeats
        repeated = repeats and {"orders": repeats.count, "first": repeats.examples}
        return {
            "input": source.name,
            "orders": tally.total,
            **{self.name(outcome): tally.counts[outcome] for outcome in self.labels},
            "left_out": dict(source.filtered),
            **({} if repeated is None else {"repeated": repeated}),
            "possible_duplicates": tally.possible_duplicates,
            "reasons": [
                {
                    "outcome": self.name(outcome),
                    "reason": text,
                    "orders": reason.count,
                    f"{source.place}s": sorted(reason.examples),
                }
                for outcome, reasons in tally.reasons.items()
                for text, reason in reasons.items()
            ],
            "warnings": list(self.warn()),
            "errors": list(errors),
            "elapsed_s": round(self.elapsed_s, 3),
            "exit_code": code,
        }

    def _exit_code(self) -> int:
        source = self.source
        if self.signals.received is not None:
            return 128 + self.signals.received
        if self.input_error is not None:
            # A damaged file is the same again; a disk may not be.
            may_help = self.tally.to_send or not self.is_input_damaged
            return self.input_error_code if source.read_count and may_help else Exit.USAGE
        if self.results.fault or self._summary_error:
            return Exit.FAILED
        if not self.tally.total and self.error is None:
            note(
                f"All orders of {source.name} are left out: nothing to do."
                if source.filtered
                else f"There is no order in {source.name}: nothing to do."
            )
        return self.judge()

    def _summarize(self) -> None:
        if is_quiet() or (self.input_error is not None and not self.source.read_count):
            return
        lines = list(self.summary())
        is_taken = self.results.is_stdout or self.options.as_json
        try:
            print_lines(lines, stderr=is_taken)
        except OutputError as error:
            self._summary_error = error
            if not is_taken:
                print_lines(lines, stderr=True)

    def summary(self) -> Iterator[Text | Table | str]:
        """The counts and reasons."""
        seconds, total, source = self.elapsed_s, self.tally.total, self.source
        rate = f", {total / seconds:,.0f}/s" if seconds >= 1 else ""
        yield f"{self.headline()} in {seconds:.1f} s{rate}"
        yield from outcome_lines(self.tally, source.filtered, self.labels)
        yield from reason_lines(self.tally, source.place, self.labels)

    def _drain(self) -> None:
        self.stop("interrupted")
        self._bar.announce("Finishing", self.interrupted)

    def _exit_now(self) -> NoReturn:
        self.abandon()
        os._exit(self.finish())  # what it prints is flushed


class Signals:
    """Handles Ctrl-C, SIGTERM and SIGHUP, unless they were ignored when the process started.

    The first one, `received` from then on, calls `drain`, and every further one `exit_now`.
    """

    def __init__(self, drain: Callable[[], None], exit_now: Callable[[], None]) -> None:
        self._drain = drain
        self._exit_now = exit_now
        self.received: signal.Signals | None = None

    @contextmanager
    def install(self) -> Iterator[None]:
        """Handle them on the running loop while the context lasts."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        installed = [each for each in handled if signal.getsignal(each) is not signal.SIG_IGN]
        for number in installed:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._drain()
        else:
            self._exit_now()

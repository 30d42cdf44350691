"""The outcomes of a run: a count for each, and for the failures the reasons.

The progress bar, the summary and the exit code get their numbers here.

However many orders there are, it stays small: the reasons that differ are bounded, and so are the
examples of each.
"""

from __future__ import annotations

import re
from collections import Counter

import attrs

from everlytic_async.cli._exit import Exit
from everlytic_async.errors import EverlyticError, InvalidOrderError, SkippedError
from everlytic_async.ledger import State, storage_key
from everlytic_async.outcomes import Outcome

_EXAMPLES = 5
# Of how many orders that are not sent the keys are kept, to count repeated ones once.
_KEYS = 100_000
#: How many reasons to keep apart for an outcome.
REASONS = 12
_OTHER = "other reasons: the results have them all (--results FILE)"
# What differs from order to order, while the reason is the same.
_PLACE = re.compile(r"\[[0-9]+\]|, column [0-9]+|\bline [0-9]+")
_VALUE = re.compile(r"(?<=found )('[^']*'|\"[^\"]*\")")
_ANY_PLACE = {"[": "[…]", ",": "", "l": "line …"}


@attrs.define
class Reason:
    """Why orders have an outcome: how many, and the lines of the first few with their keys."""

    count: int = 0
    examples: dict[int, str | None] = attrs.Factory(dict)

    def where(self, place: str) -> str:
        """The lines, in words; `place` is what the input has in place of them."""
        lines = sorted(self.examples)
        if self.count == 1:
            return f"{place} {lines[0]}"
        more = self.count - len(lines)
        return f"{place}s {', '.join(map(str, lines))}" + (f" and {more:,} more" if more else "")


class Tally:
    """Counts as results come; of an outcome's reasons, all beyond `max_reasons` are one.

    Attributes:
        reasons: By outcome, why: the text, and how many.
        possible_duplicates: How many orders may have been processed more than once.
        skipped: What the ledger knows of those skipped, and how many they are.
        left: In which state orders are left that were not sent; those with one key count once.
        changed: How many were skipped although they have changed since they were first sent.
        refused_first: How many were refused before any was accepted, which is not their fault.
    """

    def __init__(self, max_reasons: int = REASONS) -> None:
        self._max_reasons = max_reasons
        self.counts: Counter[Outcome] = Counter()
        self.reasons: dict[Outcome, dict[str, Reason]] = {}
        self.possible_duplicates = 0
        self.skipped: Counter[str] = Counter()
        self.left: Counter[State] = Counter()
        self._states: dict[str, State] = {}  # of the keys in `left`
        self.changed = 0
        self.refused_first = 0
        self._shown: dict[tuple[Outcome, str], str] = {}

    def add(
        self,
        outcome: Outcome,
        line: int,
        error: EverlyticError | str | None = None,
        *,
        key: str | None = None,
        duplicate_risk: bool = False,
    ) -> None:
        """Count one order: one with several faults counts for each of them."""
        self.counts[outcome] += 1
        self.possible_duplicates += duplicate_risk
        if isinstance(error, SkippedError):
            self.skipped[str(error.state)] += 1
            self.changed += error.other_body
            if error.state is not None:
                self._note_state(key, State(error.state))
        elif outcome not in (Outcome.INVALID, Outcome.SKIPPED):
            self._note_state(key, State(outcome))
        self.refused_first += getattr(error, "before_any_acceptance", False)
        if error is None:
            return
        faults = error.faults if isinstance(error, InvalidOrderError) else (str(error),)
        reasons = self.reasons.setdefault(outcome, {})
        texts: dict[str, None] = {}  # an order with two faulty products has the fault once
        for fault in faults:
            text = _PLACE.sub(lambda place: _ANY_PLACE[place[0][0]], fault)
            # Of values that are wrong in the same way, the first is shown.
            kind = (outcome, _VALUE.sub("…", text))
            text = self._shown.get(kind, text)
            if text not in reasons and len(reasons) >= self._max_reasons:
                text = _OTHER
            else:
                self._shown[kind] = text
            texts[text] = None
            reasons.setdefault(text, Reason())
        for text in texts:
            reason = reasons[text]
            reason.count += 1
            if len(reason.examples) < _EXAMPLES:
                reason.examples[line] = key

    def _note_state(self, key: str | None, state: State) -> None:
        """Count an order in `left`, and no longer as what an earlier order with its key was."""
        if key is not None:
            key = storage_key(key)
            before = self._states.get(key)
            # What was in flight has ended since. An order that was not tried, because the run was
            # stopped, says nothing new.
            if before not in (None, State.IN_FLIGHT) and state.rank < before.rank:
                return
            if before is not None:
                self.left[self._states.pop(key)] -= 1
            if state is not State.SENT and len(self._states) < _KEYS:
                self._states[key] = state
        if state is not State.SENT:
            self.left[state] += 1

    @property
    def total(self) -> int:
        """How many orders there were."""
        return self.counts.total()

    @property
    def to_send(self) -> int:
        """How many the next run sends: surely not processed, or in flight in another process."""
        return self.left[State.NOT_SENT] + self.left[State.IN_FLIGHT]

    @property
    def unknown(self) -> int:
        """How many may have been processed, now or before."""
        return self.left[State.UNKNOWN]

    @property
    def to_correct(self) -> int:
        """How many a person has to correct before they can be sent."""
        return self.counts[Outcome.INVALID] + self.left[State.REJECTED]

    @property
    def exit_code(self) -> Exit:
        """The exit code that the outcomes of `send` ask for."""
        if self.to_send:
            return Exit.FAILED
        return Exit.NEEDS_PERSON if self.unknown or self.to_correct else Exit.OK

"""``--only failed --from-results FILE``: what an earlier run wrote of the same input.

A result names the line of its order, and the order itself by its key. The line picks the order; the
key proves that the results belong to the input, before anything is sent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from everlytic_async.cli._input import Input, Item, printable
from everlytic_async.errors import ConfigurationError
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

__all__ = ["Earlier"]

# What may be sent again: once it is mended, or as it is.
_FAILED = frozenset({Outcome.INVALID, Outcome.REJECTED, Outcome.NOT_SENT})
# Whoever mends an order may change what it is named by.
_MAY_BE_MENDED = frozenset({Outcome.INVALID, Outcome.REJECTED})
# The key of an order without an id is a digest of all of it, which is not made anew here.
_NO_ID = 0


class Earlier:
    """The results of an earlier run, one for each line.

    Args:
        name: The file that ``--results`` named.
        unknown_again: Whether what may have been processed is to be sent again.

    Raises:
        ConfigurationError: when it can't be read, or is no file of results.

    Attributes:
        shown: Its name, fit for a terminal.
        counts: How many of its orders are left alone, by their outcomes there.
        without: How many orders of the input have no result in it, as `check` has found.
    """

    def __init__(self, name: str, *, unknown_again: bool) -> None:
        self.shown = printable(name)
        self.without = 0
        self._outcomes: dict[int, Outcome] = {}
        self._keys: dict[int, int] = {}
        again = _FAILED | ({Outcome.UNKNOWN} if unknown_again else frozenset())
        for line, outcome, key in self._read(name):
            if line in self._outcomes:
                raise ConfigurationError(
                    f"{self.shown} has more than one result for line {line:,}: give it the results "
                    "of one run"
                )
            self._outcomes[line] = outcome
            if key is not None and outcome not in _MAY_BE_MENDED:
                # A hash, for a million keys would take much more room.
                self._keys[line] = _NO_ID if key.startswith("sha256:") else hash(key)
        self._again = {line for line, outcome in self._outcomes.items() if outcome in again}
        self.counts = Counter(
            outcome for outcome in self._outcomes.values() if outcome not in again
        )

    def wants(self, line: int) -> bool:
        """Whether the order there failed, and may be sent again."""
        return line in self._again

    def check(self, source: Input) -> Iterator[Item]:
        """Read the input ahead, and yield the orders that are to be sent again.

        Raises:
            ConfigurationError: when the results are those of another input.
        """
        found = 0
        for line, order in source.ahead():
            if line not in self._outcomes:
                self.without += 1
                continue
            found += 1
            key = self._keys.get(line)
            if key is not None and key not in _keys_of(order):
                self._refuse(source, f"{source.place} {line:,} is another order")
            if line in self._again:
                yield order
        if missing := len(self._outcomes) - found:
            self._refuse(source, f"{missing:,} of its orders are not there")

    def _refuse(self, source: Input, why: str) -> None:
        raise ConfigurationError(
            f"the results in {self.shown} are not those of {source.shown}: {why}. Give the same "
            "input, read in the same way (--map, --since, --workflow-id, ...); nothing in it may "
            "be changed but what was invalid or rejected"
        )

    def _read(self, name: str) -> Iterator[tuple[int, Outcome, str | None]]:
        try:
            with open(name, encoding="utf-8") as file:  # noqa: PTH123 - a name as it was given
                for number, text in enumerate(file, start=1):
                    try:
                        yield _result(json.loads(text))
                    except (ValueError, KeyError, TypeError):
                        if not text.endswith("\n"):
                            return  # the run was killed while it wrote it
                        raise ConfigurationError(
                            f"{self.shown}, line {number:,}: it is no result as --results "
                            "writes them"
                        ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{self.shown} is no file of results: no UTF-8") from None
        except OSError as error:
            raise ConfigurationError(f"{self.shown} can't be read: {error.strerror}") from error


def _result(found: Any) -> tuple[int, Outcome, str | None]:
    line, outcome, key = found["line"], Outcome(found["outcome"]), found["key"]
    if type(line) is not int or not isinstance(key, str | None):
        raise TypeError
    return line, outcome, key


def _keys_of(order: Item) -> tuple[int, ...]:
    if not isinstance(order, Order):
        return ()  # there it was one
    if order.order_id is None:
        return (_NO_ID,)
    if order.workflow_id is None:
        return hash(str(order.order_id)), hash(f"{order.order_id}@")
    return (hash(f"{order.order_id}@{order.workflow_id}"),)

"""Which orders of a shop's export are not read, by the shop's table: its statuses and its flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from everlytic_async.sources._mapping import Compiler, Getter, computed, first_set, is_blank
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._preset import KEPT, FirstRow, Preset, normalize_status
from everlytic_async.sources._records import Layout, Record
from everlytic_async.sources._where import OTHER_WORDS, count_word

#: The fault of a row that is apart from its order, if that is all that is known of it.
ROW_APART = (
    "has neither a status nor a total, as a row that is apart from its order: sort the file by the "
    "id of the order, or export it again"
)
# How many verdicts are kept: a time of a cancellation is there once.
_MAX_KEPT = 1_000


class ShopRules:
    """Applies the table of one shop.

    Attributes:
        used: The columns, or keys, that it looks at.
        get_status: Takes the status of a row; None if there is no such column.
        unknown_statuses: How many orders were read whose status is not in the table, by status.
    """

    def __init__(self, preset: Preset, options: ReadOptions, layout: Layout) -> None:
        compiler = Compiler(layout.columns, options.notation)
        self._shop = preset.name
        self._include = options.include
        self._flags = [
            (compiler.getter(reason, spec), reason)
            for reason, spec in preset.skip.items()
            if not self._includes(reason)
        ]
        self._statuses = [
            (
                compiler.path(path),
                {word: KEPT if self._includes(why) else why for word, why in words.items()},
                KEPT in words.values(),
            )
            for path, words in preset.statuses.items()
        ]
        # The table says the same of equal cells: its verdicts are kept.
        self._verdicts: dict[Any, tuple[str | None, str | None]] = {}
        self._cells = compiler.values_used(holds_text=True) if layout.holds_text else None
        if not self._flags and len(self._statuses) == 1:
            self._cells = self._statuses[0][0]
        self._blank_flags: list[tuple[Getter, str]] = []
        self._get_start: Getter | None = None
        for reason, spec in preset.skip_without_status.items():
            get = compiler.getter(reason, _expand(spec, layout.names))
            if isinstance(spec, FirstRow) and {*spec.columns} & {*layout.names}:
                self._get_start = get
            if not self._includes(reason):
                self._blank_flags.append((get, reason))
        has_status = bool({*preset.statuses} & {*layout.names})
        self.get_status = self._statuses[0][0] if has_status else None
        self._path = next(iter(preset.statuses))
        chosen = {condition.path for condition in options.where}
        self._are_statuses_chosen = not chosen.isdisjoint(preset.statuses)
        self._lacks_statuses = not has_status and not chosen
        self.used = compiler.used
        self.unknown_statuses: dict[str, int] = {}

    def _includes(self, reason: str) -> bool:
        return reason in self._include or "all" in self._include

    def judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        """Why an order is left out, or `ROW_APART`; and its status if that is not in the table.

        Args:
            rows: The record of the order; or all its rows, in any order.
        """
        status = self._statuses[0][0](rows[0])
        if is_blank(status):
            return self._judge(rows)
        rows = rows[:1]  # it is the first row of the order, which has its columns
        if self._cells is None or not isinstance(status, str):
            return self._judge(rows)
        cells = self._cells(rows[0])
        if (verdict := self._verdicts.get(cells)) is None:
            verdict = self._judge(rows)
            if len(self._verdicts) >= _MAX_KEPT:
                self._verdicts.clear()
            if verdict[1] is None:  # a status that is not in the table may be of any length
                self._verdicts[cells] = verdict
        return verdict

    def _judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        if self._flags and (reason := _find_flag(self._flags, rows)):
            return reason, None
        unknown: str | None = None
        for get, words, reports in self._statuses:
            value = first_set(get, rows)
            found: str | None = None
            if value is None:
                found = self._judge_blank(rows)
            elif isinstance(value, str):
                found = words.get(value, words.get(normalize_status(value)))
                if found is None and reports:
                    unknown = value.strip()
            if found:
                return found, None
        return None, unknown

    def _judge_blank(self, rows: Sequence[Record]) -> str | None:
        """Why an order is left out none of whose rows has a status; or that they are apart."""
        if self.get_status is None:
            return None
        if reason := _find_flag(self._blank_flags, rows):
            return reason
        start = self._get_start
        return ROW_APART if start is not None and not any(map(start, rows)) else None

    def count_unknown(self, status: str) -> None:
        """Count an order that is read although its status is not in the table."""
        count_word(self.unknown_statuses, status)

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        found = self.unknown_statuses
        if found and not self._are_statuses_chosen:
            words = ", ".join(f"{word} ({count:,})" for word, count in found.items())
            warning = (
                f"orders with a status that {self._shop} orders don't usually have were read: "
                f"{words}"
            )
            if named := [word for word in found if word != OTHER_WORDS and "," not in word]:
                condition = shlex.quote(f"{self._path}!={','.join(named)}")
                warning += f". If nobody should get an e-mail about them: --where {condition}"
            yield warning
        if self._lacks_statuses:
            yield (
                f"there is no '{self._path}', which tells orders from abandoned checkouts and from "
                "those that were cancelled, refunded or not paid: all are read. Export it too, or "
                "choose the orders with --where"
            )


def _expand(spec: Any, names: Sequence[str]) -> Any:
    if not isinstance(spec, FirstRow):
        return spec
    return computed(_starts_order, spec.key, *[name for name in spec.columns if name in names])


def _starts_order(key: Any, *cells: Any) -> bool:
    return not is_blank(key) and (not cells or not all(map(is_blank, cells)))


def _find_flag(flags: Iterable[tuple[Getter, str]], rows: Sequence[Record]) -> str | None:
    for get, reason in flags:
        for row in rows:
            value = get(row)
            if value and not is_blank(value):
                return reason
    return None

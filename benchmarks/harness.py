"""What every benchmark shares: child processes, runs in pairs, tables, goals, and the command.

A measured process gets a fixed core, where there are two or more, and a malloc that neither maps
nor trims for single orders. Whatever is compared runs in pairs, in turn; the ratio is taken within
a pair, and its median and quartiles are shown. So what slows the machine down slows both.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import distributions
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryFile
from typing import Any, Self

import attrs
import click

#: The directory that `benchmarks` is imported from.
ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
#: The module of every measured process, and of every server.
CLIENT, SERVER = "benchmarks._child", "benchmarks.server"
_TIMEOUT_S = 10.0
# glibc adapts both to what a process allocates, so that one contestant pays a system call for an
# order and the next does not. The first is the largest that glibc accepts.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}

#: What one run came to, by name: it is saved as it is.
Figures = dict[str, Any]


class BenchmarkError(click.ClickException):
    """The measurement itself failed: there is no figure to compare with a goal."""

    exit_code = 2


# ----------------------------------------------------------------------------------- processes


def environment() -> dict[str, str]:
    """The environment of a measured process: no proxy between it and the server on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("proxy")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # each import would compile again
    return kept


def _pin(pid: int, *, measured: bool) -> None:
    """Give the measured process the last core, and its server the others."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(pid, cores[-1:] if measured else cores[:-1])


class Child:
    """A process of ours, as a context manager: settings in as JSON, figures out as JSON lines.

    Args:
        module: `CLIENT` or `SERVER`.
        settings: What it is to do.
        pinned: Whether it gets a core of its own.
        environ: More variables of its environment.
    """

    def __init__(
        self,
        module: str,
        settings: dict[str, Any],
        *,
        pinned: bool = False,
        environ: Mapping[str, str] = MALLOC,
    ) -> None:
        self._name = settings.get("mode", module)
        # A file and not a pipe: nobody reads it meanwhile, and a full pipe stops its writer.
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - `__exit__` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**environment(), **environ},
            text=True,
        )
        if pinned:
            _pin(self._process.pid, measured=module == CLIENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors, self._process as process:
            process.terminate()
            try:
                process.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def read(self) -> Figures:
        """The next line that it prints."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            figures: Figures = json.loads(line)
            return figures
        raise BenchmarkError(
            f"{self._name} ended with {self._process.wait()} and without its figures:\n"
            f"{self._error_output()}"
        )

    def close_input(self) -> None:
        """Close its standard input: a server stops, a client that waits starts."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def finish(self) -> Figures:
        """Let it come to its end; its last figures."""
        self.close_input()
        figures = self.read()
        try:
            status = self._process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self._name} printed its figures, but does not end") from None
        if errors := self._error_output():
            raise BenchmarkError(f"{self._name} ended with {status}:\n{errors}")
        return figures

    def _error_output(self) -> str:
        self._errors.seek(0)
        return self._errors.read().strip()


def measure(settings: dict[str, Any], **options: Any) -> Figures:
    """Run one client to its end; its figures."""
    with Child(CLIENT, settings, **options) as process:
        return process.finish()


def measure_together(clients: Sequence[dict[str, Any]]) -> list[Figures]:
    """Run several clients that wait for each other before they start; the figures of each."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CLIENT, settings)) for settings in clients]
        for child in children:
            child.read()
        for child in children:
            child.close_input()
        return [child.finish() for child in children]


@attrs.define
class Service:
    """A server in a process of its own; it has its counts once it has stopped."""

    url: str
    counts: Figures = attrs.Factory(dict)

    def check(self, orders: int) -> None:
        """Compare the orders that it took with those that were sent."""
        if self.counts["accepted"] != orders:
            raise BenchmarkError(f"{orders} orders were sent, but the server took {self.counts}")


@contextmanager
def service(*, pinned: bool = False, **settings: Any) -> Iterator[Service]:
    """Run the server; the settings are those of `benchmarks.server`."""
    with Child(SERVER, settings, pinned=pinned) as process:
        scheme = "https" if settings.get("certificate") else "http"
        running = Service(f"{scheme}://127.0.0.1:{process.read()['port']}")
        yield running
        running.counts = process.finish()


# --------------------------------------------------------------------------------------- pairs


@attrs.frozen
class Comparison:
    """Runs of several contestants, each measured next to a run of the base.

    Attributes:
        base: The name of the one that the others are compared with.
        pairs: Of each of the others what its runs came to, each with the base's run next to it.
    """

    base: str
    pairs: dict[str, list[tuple[Figures, Figures]]]

    @classmethod
    def measure(
        cls, base: str, others: Sequence[str], rounds: int, once: Callable[[str], Figures]
    ) -> Comparison:
        """In every round run each of the others and the base, and every second time the reverse."""
        result = cls(base, {name: [] for name in others})
        for number in range(rounds):
            for name in others:
                pair: dict[str, Figures] = {}
                for each in (base, name) if number % 2 == 0 else (name, base):
                    progress(f"round {number + 1} of {rounds}: {each}")
                    pair[each] = once(each)
                result.pairs[name].append((pair[name], pair[base]))
        return result

    @property
    def runs(self) -> dict[str, list[Figures]]:
        """All runs of each contestant, the base's first."""
        runs = {self.base: [theirs for pairs in self.pairs.values() for _, theirs in pairs]}
        return runs | {name: [ours for ours, _ in pairs] for name, pairs in self.pairs.items()}

    def values(self, name: str, figure: str) -> list[float]:
        """One figure of each run of a contestant."""
        return [run[figure] for run in self.runs[name]]

    def ratios(self, name: str, figure: str) -> list[float]:
        """The ratio of each pair, contestant to base."""
        if name == self.base:
            return [1.0]
        return [ours[figure] / theirs[figure] for ours, theirs in self.pairs[name]]


def spread(values: Sequence[float], digits: str = ",.0f") -> str:
    """Median and quartiles, as ``1.12 (1.09 - 1.15)``."""
    middle = f"{median(values):{digits}}"
    if len(values) == 1:
        return middle
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{middle} ({low:{digits}} - {high:{digits}})"


# -------------------------------------------------------------------------------------- results


@attrs.frozen
class Goal:
    """A promise, and the figure that keeps or breaks it: at most the bound, or at least."""

    name: str
    value: float
    bound: float
    unit: str = ""
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        relation = "at most" if self.at_most else "at least"
        return (
            f"{'met    ' if self.met else 'NOT MET'}  {self.name}: "
            f"{self.value:.3g}{self.unit} ({relation} {self.bound:g}{self.unit})"
        )


@attrs.frozen
class Report:
    """What a benchmark found: a table with notes below it, and every value to be saved."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    goals: Sequence[Goal]
    figures: Figures
    notes: Sequence[str] = ()

    def table(self) -> str:
        """The table as Markdown."""
        columns = list(zip(self.headings, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "| " + " | ".join(map(str.ljust, row, widths)) + " |"
            for row in (self.headings, ["-" * width for width in widths], *self.rows)
        ]
        return "\n".join([f"{self.title}:", "", *lines])

    def show(self) -> None:
        """Print the table, the notes, and whether each goal is met."""
        click.echo("\n".join([self.table(), "", *self.notes]))
        for goal in self.goals:
            click.secho(str(goal), fg="green" if goal.met else "red", bold=not goal.met)

    def write(self, path: Path) -> None:
        """Put the table in a document, between its two marks."""
        begin, end = (f"<!-- {of}{self.figures['benchmark']} -->\n" for of in ("", "end of "))
        before, has_begin, rest = path.read_text("utf-8").partition(begin)
        _, has_end, after = rest.partition(end)
        if not has_begin or not has_end:
            raise BenchmarkError(f"{path} has no lines {begin.strip()} and {end.strip()}")
        path.write_text(f"{before}{begin}\n{self.table()}\n\n{end}{after}", "utf-8")

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Write figures, goals and the machine as JSON."""
        goals = [{**attrs.asdict(goal), "met": goal.met} for goal in self.goals]
        machine = {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "versions": {each.name: each.version for each in distributions()},
        }
        saved = {**self.figures, "settings": settings, "goals": goals, "machine": machine}
        path.write_text(json.dumps(saved, indent=2) + "\n")


def progress(text: str) -> None:
    """Show how far the benchmark is, on a terminal only; an empty text wipes the line."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


# ------------------------------------------------------------------------------------- commands


def count(name: str, default: int, help_text: str | None = None) -> Callable[..., Any]:
    """An option that takes a number from 1 on."""
    return click.option(
        name, type=click.IntRange(1), default=default, show_default=True, help=help_text
    )


def only(known: Iterable[str]) -> Callable[..., Any]:
    """An option that names some of what can be measured, and may be repeated."""
    return click.option(
        "--only", type=click.Choice(list(known)), multiple=True, default=list(known)
    )


def benchmark(help_text: str | None) -> Callable[[Callable[..., Report]], click.Command]:
    """Make a command of a function that measures: it prints, saves, and exits with 0, 1 or 2."""

    def decorate(function: Callable[..., Report]) -> click.Command:
        @click.option(
            "--json",
            "json_path",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Save figures, goals and the machine to this file.",
        )
        @click.option(
            "--write",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Put the table in this document, between the two marks with this name.",
        )
        @functools.wraps(function)
        def command(*, json_path: Path | None, write: Path | None, **settings: Any) -> None:
            report = function(**settings)
            progress("")
            report.show()
            if write is not None:
                report.write(write)
            if json_path is not None:
                report.save(json_path, settings)
            raise SystemExit(0 if all(goal.met for goal in report.goals) else 1)

        return click.command(help=help_text)(command)

    return decorate

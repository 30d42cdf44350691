"""The settings: the address and the hashes of an account, and what else a TOML file may hold.

Never from the argument list, which every user of the machine can read. The rule has two halves:

- A complete environment wins. Else the address and both hashes come from one table together: an
  address never gets the hashes of another place.
- A table comes from the file that ``--config`` names, and then from no other. Without it, from the
  user's own file, else from ``./everlytic.toml``, which may have come with somebody's export:
  `announce` says what is taken from it.

What an account holds is checked by the client; what ``[mapping]``, ``[nats]`` and ``[queue]`` hold,
by those who read them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import click

from everlytic_async.cli._exit import say
from everlytic_async.errors import ConfigurationError

__all__ = [
    "DEFAULT_STORE",
    "NO_FILE",
    "QUEUE_TABLES",
    "Account",
    "announce",
    "configured_stores",
    "find_account",
    "find_table",
    "load_account",
    "load_ledger",
    "load_stores",
    "reject_unknown",
    "resolve_store",
]

#: ``--config none``: read no settings file.
NO_FILE = "none"
_FILE = "everlytic.toml"
_TABLE, _MAPPING, _WORKER, _STORES = "everlytic", "mapping", "worker", "stores"
_LEDGER = "ledger"
#: The tables that a settings file may have.
_TABLES = (_TABLE, _MAPPING, "nats", "queue", _WORKER)
#: Those about a queue.
QUEUE_TABLES = ("nats", "queue", _WORKER)
#: What the only store is called in the queue, where nobody gives it a name.
DEFAULT_STORE = "default"
_ENVIRONMENT = "the environment"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0
# What tomllib quotes may be a hash.
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"|\(.*\) twice")
_TOML_ERROR = re.compile(
    r"(?P<cause>.*?) ?\(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)$", re.DOTALL
)


@attrs.frozen
class Account:
    """The settings that name the install and the store.

    Attributes:
        base_url: The address of the install.
        store_hash: The store's hash.
        customer_hash: The customer's hash.
        origin: Where they come from, for a person.
    """

    base_url: str
    store_hash: str = attrs.field(repr=False)
    customer_hash: str = attrs.field(repr=False)
    origin: str = _ENVIRONMENT

    @property
    def host(self) -> str:
        """The host of the install, with its port where one is named."""
        return urlsplit(self.base_url.strip()).netloc.rpartition("@")[2]

    @contextmanager
    def naming_origin(self) -> Iterator[None]:
        """Have an error of the client name the file that a setting came from, not a variable."""
        try:
            yield
        except ConfigurationError as error:
            if self.origin == _ENVIRONMENT:
                raise
            message = str(error)
            for name in _SETTINGS:
                message = message.replace(f"{name} ({_variable(name)})", f"{name} in {self.origin}")
            raise ConfigurationError(message) from None


_SETTINGS = ("base_url", "store_hash", "customer_hash")


def load_account(config: str | None) -> Account:
    """Load the account: from the environment if it is complete there, else from one table.

    Args:
        config: What ``--config`` says: a file, `NO_FILE`, or None for the files in their places.
    """
    account = find_account(config)
    if account is None:
        places = " or ".join(map(str, _places())) if config in (None, NO_FILE) else config
        raise ConfigurationError(
            f"no {', no '.join(_missing(_environment()))}{_blank()}. "
            f"Set all three in the environment:\n  {', '.join(map(_variable, _SETTINGS))}\n"
            f"or in the table [{_TABLE}] of {places}:\n"
            f"  {', '.join(_SETTINGS)}\n"
            "The hashes are on the store's page in Everlytic. To try without an account: "
            "send --sandbox FILE"
        )
    return account


def find_account(config: str | None) -> Account | None:
    """As `load_account`, but None where there is none in the environment or a file."""
    environment = _environment()
    table, path = find_table(config, _TABLE)
    where = f"[{_TABLE}] of {path}"
    reject_unknown(table, (*_SETTINGS, _LEDGER), where)
    in_file = bool(table.keys() & set(_SETTINGS))
    if not _missing(environment):
        if in_file and config is not None:
            say(f"Note: the account is that of the environment, which is complete: not {where}.")
        return Account(**environment)
    if not in_file:
        return None
    account = _account(table, where, origin=str(path))
    if unused := [_variable(name) for name in _SETTINGS if environment[name] is not None]:
        say(
            f"Note: {', '.join(unused)} in the environment {'is' if len(unused) == 1 else 'are'} "
            f"not used: only all three together are. The account is that of {path}."
        )
    return account


def announce(config: str | None, *tables: str) -> None:
    """Say what is taken from ``./everlytic.toml``, where nobody named it.

    Args:
        config: As of `load_account`.
        tables: The tables that the command reads. ``everlytic`` does not count where a complete
            environment wins, unless it names the ledger.
    """
    here = _places()[1]
    taken = []
    for name in tables:
        table, path = find_table(config, name)
        if path != here or config is not None:
            continue
        if name != _TABLE or _missing(_environment()) or _LEDGER in table:
            taken.append(f"[{name}]")
    if taken:
        say(
            f"Settings: {', '.join(taken)} from ./{here} in this directory "
            f"(--config {NO_FILE} ignores it)"
        )


def load_ledger(config: str | None) -> Path | None:
    """The ledger that the settings name; a relative path counts from their file."""
    table, path = find_table(config, _TABLE)
    name = table.get(_LEDGER)
    if path is None or name is None:
        return None
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"{_LEDGER} in [{_TABLE}] of {path} must be the path of a file, in quotes"
        )
    return Path(os.path.abspath(path)).parent / Path(name).expanduser()  # noqa: PTH100 - as named


def load_stores(config: str | None, names: Sequence[str]) -> dict[str, Account]:
    """Load the accounts of several stores, by the names that the queue has for them.

    Each has a table ``[worker.stores.NAME]``; the environment has one account and does not say
    whose. Where there is no such table, there is one store, with the account of `load_account`.

    Args:
        config: As of `load_account`.
        names: The stores; none for all that the file has.
    """
    tables, path = _stores(config)
    if not tables:
        if len(names) > 1:
            raise ConfigurationError(
                "several stores have their hashes in tables of a settings file: "
                f"{', '.join(map(_store_table, names))}"
            )
        return {name: load_account(config) for name in names or (DEFAULT_STORE,)}
    if missing := [_store_table(name) for name in names if name not in tables]:
        raise ConfigurationError(
            f"{path} has no table {', no table '.join(missing)}; it has {', '.join(tables)}"
        )
    return {
        name: _account(tables[name], f"{_store_table(name)} of {path}", origin=str(path))
        for name in names or tables
    }


def configured_stores(config: str | None) -> tuple[str, ...]:
    """The names of the stores that the file has tables for: none where there is but one store."""
    return tuple(_stores(config)[0])


def resolve_store(config: str | None, name: str | None) -> str:
    """The store that is named, else the only one that there is."""
    stores = (name,) if name is not None else configured_stores(config) or (DEFAULT_STORE,)
    if len(stores) > 1:
        raise ConfigurationError(
            f"there are several stores: name one of {', '.join(stores)} by --store"
        )
    return stores[0]


# --------------------------------------------------------------------------------- environment


def _variable(name: str) -> str:
    return f"EVERLYTIC_{name.upper()}"


def _environment() -> dict[str, Any]:
    return {name: os.environ.get(_variable(name)) for name in _SETTINGS}


def _missing(values: Mapping[str, Any]) -> list[str]:
    return [name for name in _SETTINGS if not (values.get(name) or "").strip()]


def _blank() -> str:
    blank = [
        name for name, value in _environment().items() if value is not None and not value.strip()
    ]
    return f" ({', '.join(blank)}: set in the environment, but blank)" if blank else ""


# --------------------------------------------------------------------------------------- files


def _places() -> tuple[Path, Path]:
    """The user's own file; and the one in the working directory, which counts after it."""
    return Path(click.get_app_dir("everlytic-async")) / _FILE, Path(_FILE)


def find_table(config: str | None, name: str) -> tuple[dict[str, Any], Path | None]:
    """A table as it stands in the first file that has it, and that file; else an empty one."""
    if config == NO_FILE:
        return {}, None
    paths = [path for path in _places() if path.is_file()] if config is None else [Path(config)]
    for path in paths:
        tables = _read(path)
        if name in tables:
            return tables[name], path
    return {}, None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a settings file."""
    try:
        text = _read_bytes(path).decode("utf-8-sig")
        # A constant of a mapping may be a price: no floats.
        document = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(
            f"the settings in {path} can't be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Without its frames, whose locals are the text; and without what it quotes.
        raise ConfigurationError(f"{path}{_syntax_error(error, text)}") from None
    except ConfigurationError:
        raise
    except (ValueError, ArithmeticError):  # more digits than Python or Decimal takes
        raise ConfigurationError(f"{path} can't be read: a number in it is too long") from None
    except RecursionError:
        raise ConfigurationError(f"{path} can't be read: it is nested too deeply") from None
    if (place := _find_nul(document)) is not None:  # no path and no other setting can have one
        raise ConfigurationError(f"{path}: {place} holds a NUL character")
    tables = {name: document[name] for name in _TABLES if name in document}
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigurationError(
            f"{path} has no table [{_TABLE}] to hold the settings, and no table [{_MAPPING}]"
        )
    if len(tables) < len(document):
        others = ", ".join(sorted(document.keys() - tables.keys()))
        known = ", ".join(f"[{name}]" for name in _TABLES)
        raise ConfigurationError(f"{path} has more than the tables {known}: {others}")
    return tables


def _read_bytes(path: Path) -> bytes:
    # Else opening a pipe would wait until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        found = os.fstat(descriptor)
        _check_owner(path, found)
        content = file.read()
    if not content and stat.S_ISFIFO(found.st_mode):
        raise ConfigurationError(f"{path} is a pipe that nobody writes to")
    return content


def _find_nul(value: object, place: str = "") -> str | None:
    """The dotted name of a text that holds a NUL character, or has one in its name."""
    if isinstance(value, str):
        return place if "\0" in value else None
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, inner in items:
        below = f"{place}.{name}" if place else f"{name}"
        found = below.replace("\0", "?") if "\0" in below else _find_nul(inner, below)
        if found is not None:
            return found
    return None


def _syntax_error(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Where a TOML file is wrong and why, with nothing of what stands there."""
    found = _TOML_ERROR.match(str(error))
    if found is None:
        return " is not a TOML file"
    cause = _QUOTED.sub("…", found["cause"])
    if found["line"] is None:
        return f", line {len(text.splitlines())} (the last): {cause}"
    return f", line {found['line']}, column {found['column']}: {cause}"


def _check_owner(path: Path, found: os.stat_result) -> None:
    """See that nobody else decides where the orders and the hashes go."""
    if stat.S_ISFIFO(found.st_mode):
        return  # a pipe of the user's own shell, as in --config <(...)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path} is not a file")
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise ConfigurationError(
            f"the settings in {path} belong to another user, who could send your orders and "
            "hashes anywhere: make a copy of your own, and read it before you use it"
        )
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise ConfigurationError(
            f"the settings in {path} can be written by others "
            f"({stat.filemode(found.st_mode)}), who could send your orders and hashes anywhere: "
            f"chmod 600 {path}"
        )


def _store_table(name: str) -> str:
    return f"[{_WORKER}.{_STORES}.{name}]"


def _stores(config: str | None) -> tuple[dict[str, dict[str, Any]], Path | None]:
    """The tables of the stores, by their names, and their file."""
    table, path = find_table(config, _WORKER)
    stores = table.get(_STORES, {})
    others = sorted(table.keys() - {_STORES})
    if others or not isinstance(stores, dict):
        raise ConfigurationError(
            f"[{_WORKER}] of {path} holds tables {_store_table('NAME')} and nothing else"
            + (f": not {', '.join(others)}" if others else "")
        )
    for name, store in stores.items():
        where = f"{_store_table(name)} of {path}"
        if not isinstance(store, dict):
            raise ConfigurationError(f"{where} is not a table")
        reject_unknown(store, _SETTINGS, where)
    return stores, path


def reject_unknown(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a key that is not a setting."""
    if unknown := sorted(table.keys() - set(known)):
        raise ConfigurationError(
            f"{where} has what is not a setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(known)}"
        )


def _account(table: Mapping[str, Any], where: str, *, origin: str) -> Account:
    """The account of a table."""
    values = {name: table.get(name) for name in _SETTINGS}
    odd = [name for name, value in values.items() if not isinstance(value, str | None)]
    if odd:
        raise ConfigurationError(f"{', '.join(odd)} must be text, in quotes, in {where}")
    if missing := _missing(values):
        raise ConfigurationError(
            f"no {', no '.join(missing)} in {where}{_blank()}. The address and both hashes must "
            "come from one place together: complete the table, or set all three in the environment"
        )
    return Account(**values, origin=origin)  # type: ignore[arg-type] # they are text

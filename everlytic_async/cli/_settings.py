"""The settings: the address and the hashes of an account, and what else a TOML file may hold.

Never from the argument list, which every user of the machine can read. The rule has two halves:

- A complete environment wins. Else the address and both hashes come from one table together: an
  address never gets the hashes of another place.
- A table comes from the file that ``--config`` names, and then from no other. Without it, from the
  user's own file, else from ``./everlytic.toml``, which may have come with somebody's export:
  `Settings` says what is taken from it.

What an account holds is checked by the client; what ``[mapping]``, ``[nats]`` and ``[queue]`` hold,
by those who read them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import click

from everlytic_async.cli._exit import note
from everlytic_async.errors import ConfigurationError

#: ``--config none``: read no settings file.
NO_FILE = "none"
#: The tables about a queue.
QUEUE_TABLES = ("nats", "queue", "worker")
#: Those about how an input is read.
READING_TABLES = ("mapping", "where", "input")
#: Of a list in another table.
WHERE_IS_MISSING = "if it says which orders to read, the line [where] is missing above it"
#: What the only store is called in the queue, where nobody gives it a name.
DEFAULT_STORE = "default"
_FILE = "everlytic.toml"
_TABLES = ("everlytic", *READING_TABLES, *QUEUE_TABLES)
_ACCOUNT = ("base_url", "store_hash", "customer_hash")
_ENVIRONMENT = "the environment"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0
# What tomllib quotes may be a hash.
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"|\(.*\) twice")


@attrs.frozen
class Account:
    """The settings that name the install and the store; `origin` is where they come from."""

    base_url: str
    store_hash: str = attrs.field(repr=False)
    customer_hash: str = attrs.field(repr=False)
    origin: str = _ENVIRONMENT

    @property
    def host(self) -> str:
        """The host of the install, with its port where one is named."""
        return urlsplit(self.base_url.strip()).netloc.rpartition("@")[2]

    def name_origin(self, message: str) -> str:
        """What the client says of a setting, with the file that it came from for a variable."""
        if self.origin != _ENVIRONMENT:
            for name in _ACCOUNT:
                message = message.replace(f"{name} ({_variable(name)})", f"{name} in {self.origin}")
        return message


@attrs.frozen
class Table:
    """A table as it stands in a settings file; empty and without a path where no file has it."""

    name: str
    values: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    path: Path | None = None

    def __str__(self) -> str:
        return f"[{self.name}] of {self.path}"

    def check_names(self, known: Collection[str]) -> None:
        """Refuse a key that is not a setting."""
        if unknown := sorted(self.values.keys() - set(known)):
            is_list = all(isinstance(self.values[name], list) for name in unknown)
            hint = f": {WHERE_IS_MISSING}" if is_list else ""
            raise ConfigurationError(
                f"{self} has what is not a setting: {', '.join(unknown)}{hint}. "
                f"The settings are {', '.join(known)}"
            )

    def texts(self, *known: str) -> dict[str, str]:
        """Its settings, each of them one of these, and a text."""
        self.check_names(known)
        if odd := [name for name, value in self.values.items() if not isinstance(value, str)]:
            raise ConfigurationError(f"{', '.join(odd)} must be text, in quotes, in {self}")
        return dict(self.values)

    def account(self, *others: str) -> Account:
        """The account that it holds, beside other settings."""
        values = self.texts(*_ACCOUNT, *others)
        if missing := _missing(values):
            raise ConfigurationError(
                f"no {', no '.join(missing)} in {self}{_blank()}. The address and both hashes must "
                "come from one place together: complete the table, or set all three in the "
                "environment"
            )
        return Account(**{name: values[name] for name in _ACCOUNT}, origin=str(self.path))


class Settings:
    """What the settings files hold, read once: that of ``--config``, else those in their places.

    `used` are the tables that the command uses: see `_announce`.
    """

    def __init__(self, config: str | None, *used: str) -> None:
        paths = _places() if config is None else () if config == NO_FILE else (Path(config),)
        self._config = config
        self._files = {path: _read(path) for path in paths if config is not None or path.is_file()}
        self._announce(used)

    def table(self, name: str) -> Table:
        """A table of the first file that has it; else an empty one."""
        for path, tables in self._files.items():
            if name in tables:
                return Table(name, tables[name], path)
        return Table(name)

    def tables(self) -> list[Table]:
        """The tables that the files have."""
        return [table for table in map(self.table, _TABLES) if table.path is not None]

    def _announce(self, names: Sequence[str]) -> None:
        """Say which of these tables are taken from ``./everlytic.toml``, where nobody named it.

        ``everlytic`` does not count where a complete environment wins, unless it names the ledger.
        """
        taken = [self.table(name) for name in names if self._config is None]
        lines = [
            f"[{table.name}]"
            for table in taken
            if table.path == Path(_FILE)
            and (table.name != "everlytic" or _missing(_environment()) or "ledger" in table.values)
        ]
        if lines:
            note(
                f"Settings: {', '.join(lines)} from ./{_FILE} in this directory "
                f"(--config {NO_FILE} ignores it)"
            )

    def account(self) -> Account:
        """The account: of the environment if it is complete there, else of one table."""
        account = self.find_account()
        if account is None:
            is_implicit = self._config in (None, NO_FILE)
            places = " or ".join(map(str, _places())) if is_implicit else self._config
            raise ConfigurationError(
                f"no {', no '.join(_missing(_environment()))}{_blank()}. "
                f"Set all three in the environment:\n  {', '.join(map(_variable, _ACCOUNT))}\n"
                f"or in the table [everlytic] of {places}:\n"
                f"  {', '.join(_ACCOUNT)}\n"
                "The hashes are on the store's page in Everlytic. To try without an account: "
                "send --sandbox FILE"
            )
        return account

    def find_account(self) -> Account | None:
        """As `account`, but None where there is none in the environment or a file."""
        environment, table = _environment(), self.table("everlytic")
        table.check_names((*_ACCOUNT, "ledger"))
        in_file = bool(table.values.keys() & set(_ACCOUNT))
        if not _missing(environment):
            if in_file and self._config is not None:
                note(
                    f"Note: the account is that of the environment, which is complete: not {table}."
                )
            return Account(**environment)
        if not in_file:
            return None
        account = table.account("ledger")
        if unused := [_variable(name) for name in environment]:
            note(
                f"Note: {', '.join(unused)} in the environment "
                f"{'is' if len(unused) == 1 else 'are'} not used: only all three together are. "
                f"The account is that of {table.path}."
            )
        return account

    @property
    def ledger(self) -> Path | None:
        """The ledger that the settings name; a relative path counts from their file."""
        table = self.table("everlytic")
        name = table.values.get("ledger")
        if table.path is None or name is None:
            return None
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"ledger in {table} must be the path of a file, in quotes")
        directory = Path(os.path.abspath(table.path)).parent  # noqa: PTH100 - as named
        return directory / Path(name).expanduser()

    def stores(self) -> dict[str, Table]:
        """The tables ``[worker.stores.NAME]``, by name: none where there is but one store."""
        table = self.table("worker")
        stores = table.values.get("stores", {})
        others = sorted(table.values.keys() - {"stores"})
        if others or not isinstance(stores, dict):
            raise ConfigurationError(
                f"{table} holds tables [worker.stores.NAME] and nothing else"
                + (f": not {', '.join(others)}" if others else "")
            )
        found = {}
        for name, values in stores.items():
            found[name] = store = Table(f"worker.stores.{name}", values, table.path)
            if not isinstance(values, dict):
                raise ConfigurationError(f"{store} is not a table")
            store.check_names(_ACCOUNT)
        return found

    def store_accounts(self, names: Sequence[str]) -> dict[str, Account]:
        """The accounts of several stores, by the names that the queue has for them.

        Each has a table ``[worker.stores.NAME]``; the environment has one account and does not say
        whose. Where there is no such table, there is one store, with the account of `account`.
        `names` are the stores; none for all that the file has.
        """
        stores = self.stores()
        if not stores and len(names) <= 1:
            return {name: self.account() for name in names or (DEFAULT_STORE,)}
        if missing := [f"[worker.stores.{name}]" for name in names if name not in stores]:
            raise ConfigurationError(
                f"no table {', no table '.join(missing)} in the settings, which have "
                f"{', '.join(stores) or 'no such table'}"
            )
        return {name: stores[name].account() for name in names or stores}

    def only_store(self, name: str | None) -> str:
        """The store that is named, else the only one that there is."""
        stores = (name,) if name is not None else tuple(self.stores()) or (DEFAULT_STORE,)
        if len(stores) > 1:
            raise ConfigurationError(
                f"there are several stores: name one of {', '.join(stores)} by --store"
            )
        return stores[0]


# --------------------------------------------------------------------------------- environment


def _variable(name: str) -> str:
    return f"EVERLYTIC_{name.upper()}"


def _environment() -> dict[str, str]:
    names = {name: _variable(name) for name in _ACCOUNT}
    return {name: os.environ[each] for name, each in names.items() if each in os.environ}


def _missing(values: Mapping[str, str]) -> list[str]:
    return [name for name in _ACCOUNT if not values.get(name, "").strip()]


def _blank() -> str:
    blank = [name for name, value in _environment().items() if not value.strip()]
    return f" ({', '.join(blank)}: set in the environment, but blank)" if blank else ""


# --------------------------------------------------------------------------------------- files


def _places() -> tuple[Path, Path]:
    """The user's own file; and the one in the working directory, which counts after it."""
    return Path(click.get_app_dir("everlytic-async")) / _FILE, Path(_FILE)


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
        raise ConfigurationError(f"{path} is not TOML: {_syntax_error(error, text)}") from None
    except ConfigurationError:
        raise
    except (ValueError, ArithmeticError, RecursionError):
        raise ConfigurationError(
            f"{path} can't be read: a number in it is too long, or it is nested too deeply"
        ) from None
    if not document:  # such as what `check --suggest > everlytic.toml` is written to
        return {}
    tables = {name: document[name] for name in _TABLES if name in document}
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigurationError(
            f"{path} has no table [everlytic] to hold the settings, and no table [mapping]"
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


def _syntax_error(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Where a TOML file is wrong and why, with nothing of what stands there."""
    end = f"at line {len(text.splitlines())}, the last"
    return _QUOTED.sub("…", str(error).replace("at end of document", end))


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

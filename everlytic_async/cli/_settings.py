"""Whose orders they are: the address and the hashes, from the environment or a TOML file.

Never from the argument list, which every user of the machine can read. What the settings hold is
checked by the client; here is only where they come from. The file may hold a mapping of columns,
too, which the readers check; and what ``_nats`` takes from it on queues.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import click
import typed_settings

from everlytic_async.errors import ConfigurationError

__all__ = [
    "DEFAULT_STORE",
    "Account",
    "load_account",
    "load_mapping",
    "load_stores",
    "load_table",
    "stores_of",
    "the_store",
]

_FILE = "everlytic.toml"
_TABLE, _MAPPING, _WORKER, _STORES = "everlytic", "mapping", "worker", "stores"
#: The tables that a file of settings may have.
_TABLES = (_TABLE, _MAPPING, "nats", "queue", _WORKER)
#: What the only store is called in the queue, where nobody gives it a name.
DEFAULT_STORE = "default"
_PREFIX = "EVERLYTIC_"


@attrs.frozen
class Account:
    """The settings that name the install and the store.

    Attributes:
        base_url: The address of the install.
        store_hash: The store's hash.
        customer_hash: The customer's hash.
    """

    # Any: typed-settings would turn a number into text, and repeat in its message what it can't.
    base_url: Any = None
    store_hash: Any = attrs.field(default=None, repr=False)
    customer_hash: Any = attrs.field(default=None, repr=False)


def load_account(config: str | None) -> Account:
    """Load the settings: each from the environment, else from the file.

    The file is `config`; else ``./everlytic.toml``; else the one in the user's own directory for
    settings. Only one file is read, so that an address never meets the hashes of another store.

    Raises:
        ConfigurationError: with all that is missing, or what is wrong with the file.
    """
    path = _find(config)
    table = {} if path is None else _read(path).get(_TABLE, {})
    _only_settings(table, f"the table [{_TABLE}] of {path}")
    account = typed_settings.load_settings(
        Account,
        [
            # Not its FileLoader: a `!` in a path means something to it.
            typed_settings.loaders.DictLoader(table),
            typed_settings.EnvLoader(_PREFIX),
        ],
    )
    _check(account)
    return account


def load_stores(config: str | None, names: Sequence[str]) -> dict[str, Account]:
    """Load the accounts of several stores, by the names that the queue has for them.

    Each has a table ``[worker.stores.NAME]`` in the file, and there alone is looked: what the
    environment says is of one store, and it does not say which. Where the file has no such table,
    there is one store, and its account is that of `load_account`.

    Args:
        config: As of `load_account`.
        names: The stores; none for all that the file has.

    Raises:
        ConfigurationError: a store has no account, or what is wrong with the file.
    """
    path = _find(config)
    tables = {} if path is None else _stores_in(path)
    if not tables:
        if len(names) > 1:
            raise ConfigurationError(
                f"several stores have their hashes in tables of a file of settings: "
                f"{', '.join(f'[{_WORKER}.{_STORES}.{name}]' for name in names)}"
            )
        return {name: load_account(config) for name in names or (DEFAULT_STORE,)}
    missing = [name for name in names if name not in tables]
    if missing:
        raise ConfigurationError(
            f"{path} has no table "
            f"{', no table '.join(f'[{_WORKER}.{_STORES}.{name}]' for name in missing)}, "
            f"but for {', '.join(tables)}"
        )
    accounts = {name: Account(**tables[name]) for name in names or tables}
    for name, account in accounts.items():
        _check(account, f"[{_WORKER}.{_STORES}.{name}] of {path}")
    return accounts


def stores_of(config: str | None) -> tuple[str, ...]:
    """The names of the stores that the file has tables for: none where there is but one store.

    Raises:
        ConfigurationError: what is wrong with the file.
    """
    path = _find(config)
    return () if path is None else tuple(_stores_in(path))


def the_store(config: str | None, name: str | None) -> str:
    """The one store that is meant: the one that is named, else the only one that there is.

    Raises:
        ConfigurationError: there are several.
    """
    if name is not None:
        return name
    stores = stores_of(config) or (DEFAULT_STORE,)
    if len(stores) > 1:
        raise ConfigurationError(
            f"there are several stores: name one of {', '.join(stores)} by --store"
        )
    return stores[0]


def load_table(config: str | None, name: str) -> dict[str, Any]:
    """Load a table of the same file as it stands there; an empty one where there is none.

    Raises:
        ConfigurationError: when the file can't be read, or is none.
    """
    path = _find(config)
    return {} if path is None else _read(path).get(name, {})


def load_mapping(config: str | None) -> tuple[dict[str, Any], Path | None]:
    """Load what the same file says of the columns of the input, in its table ``[mapping]``.

    Returns:
        The table, and the file that it stands in; an empty one, and None, where there is none.

    Raises:
        ConfigurationError: when the file can't be read, or is none.
    """
    path = _find(config)
    table = None if path is None else _read(path).get(_MAPPING)
    return ({}, None) if table is None else (table, path)


def _places() -> tuple[Path, Path]:
    return Path(_FILE), Path(click.get_app_dir("everlytic-async")) / _FILE


def _find(config: str | None) -> Path | None:
    if config is not None:
        return Path(config)
    return next((path for path in _places() if path.is_file()), None)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file of settings."""
    try:
        # A constant of a mapping may be a price: no floats.
        document = tomllib.loads(path.read_text("utf-8-sig"), parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(
            f"the settings in {path} can't be read: {error.strerror}"
        ) from error
    except ValueError as error:
        # Not its message: it may quote the line, and so a hash.
        raise ConfigurationError(f"{path} is not a TOML file in UTF-8") from error
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


def _stores_in(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of the stores, by their names."""
    table = _read(path).get(_WORKER, {})
    stores = table.get(_STORES, {})
    others = sorted(table.keys() - {_STORES})
    if others or not isinstance(stores, dict):
        raise ConfigurationError(
            f"[{_WORKER}] of {path} holds tables [{_WORKER}.{_STORES}.NAME] and nothing else"
            + (f": not {', '.join(others)}" if others else "")
        )
    for name, store in stores.items():
        where = f"[{_WORKER}.{_STORES}.{name}] of {path}"
        if not isinstance(store, dict):
            raise ConfigurationError(f"{where} is no table")
        _only_settings(store, where)
    return stores


def _only_settings(table: dict[str, Any], where: str) -> None:
    known = [field.name for field in attrs.fields(Account)]
    unknown = sorted(key for key in table if key not in known)
    if unknown:
        raise ConfigurationError(
            f"{where} has what is no setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(known)}"
        )


def _check(account: Account, where: str | None = None) -> None:
    """See that an account is complete; `where` is its place, where there is but one."""
    values = attrs.asdict(account)
    odd = [name for name, value in values.items() if not isinstance(value, str | None)]
    of = "" if where is None else f" in {where}"
    if odd:
        raise ConfigurationError(f"{', '.join(odd)} must be text, in quotes{of}")
    missing = [name for name, value in values.items() if value is None or not value.strip()]
    if missing and where is not None:
        raise ConfigurationError(f"no {', no '.join(missing)}{of}")
    if missing:
        blank = [name for name in missing if f"{_PREFIX}{name.upper()}" in os.environ]
        note = f" ({', '.join(blank)}: set in the environment, but blank)" if blank else ""
        here, own = _places()
        raise ConfigurationError(
            f"no {', no '.join(missing)}{note}. Set it in the environment:\n"
            f"  {', '.join(_PREFIX + name.upper() for name in missing)}\n"
            f"or in the table [{_TABLE}] of ./{here} or {own}:\n"
            f"  {', '.join(missing)}\n"
            "The hashes are on the store's page in Everlytic. To try without an account: "
            "send --sandbox FILE"
        )

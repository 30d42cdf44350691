"""Whose orders they are: the address and the hashes, from the environment or a TOML file.

Never from the argument list, which every user of the machine can read. What the settings hold is
checked by the client; here is only where they come from. The file may hold a mapping of columns,
too, which the readers check.
"""

from __future__ import annotations

import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import click
import typed_settings

from everlytic_async.errors import ConfigurationError

__all__ = ["Account", "load_account", "load_mapping"]

_FILE = "everlytic.toml"
_TABLE, _MAPPING = "everlytic", "mapping"
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
    account = typed_settings.load_settings(
        Account,
        [
            # Not its FileLoader: a `!` in a path means something to it.
            typed_settings.loaders.DictLoader({} if path is None else _account_in(path)),
            typed_settings.EnvLoader(_PREFIX),
        ],
    )
    _check(account)
    return account


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
    tables = {name: document[name] for name in (_TABLE, _MAPPING) if name in document}
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigurationError(
            f"{path} has no table [{_TABLE}] to hold the settings, and no table [{_MAPPING}]"
        )
    if len(tables) < len(document):
        others = ", ".join(sorted(document.keys() - tables.keys()))
        raise ConfigurationError(
            f"{path} has more than the tables [{_TABLE}] and [{_MAPPING}]: {others}"
        )
    return tables


def _account_in(path: Path) -> dict[str, Any]:
    table = _read(path).get(_TABLE, {})
    known = [field.name for field in attrs.fields(Account)]
    unknown = sorted(key for key in table if key not in known)
    if unknown:
        raise ConfigurationError(
            f"the table [{_TABLE}] of {path} has what is no setting: {', '.join(unknown)}. "
            f"The settings are {', '.join(known)}"
        )
    return table


def _check(account: Account) -> None:
    values = attrs.asdict(account)
    odd = [name for name, value in values.items() if not isinstance(value, str | None)]
    if odd:
        raise ConfigurationError(f"{', '.join(odd)} must be text, in quotes")
    missing = [name for name, value in values.items() if value is None or not value.strip()]
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

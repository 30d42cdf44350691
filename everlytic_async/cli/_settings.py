"""Whose orders they are: the address and the hashes, from the environment or a TOML file.

Never from the argument list, which every user of the machine can read. What the settings hold is
checked by the client; here is only where they come from.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import attrs
import click
import typed_settings

from everlytic_async.errors import ConfigurationError

__all__ = ["Account", "load_account"]

_FILE = "everlytic.toml"
_TABLE = "everlytic"
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
            typed_settings.loaders.DictLoader({} if path is None else _read(path)),
            typed_settings.EnvLoader(_PREFIX),
        ],
    )
    _check(account)
    return account


def _places() -> tuple[Path, Path]:
    return Path(_FILE), Path(click.get_app_dir("everlytic-async")) / _FILE


def _find(config: str | None) -> Path | None:
    if config is not None:
        return Path(config)
    return next((path for path in _places() if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            f"the settings in {path} can't be read: {error.strerror}"
        ) from error
    except ValueError as error:
        # Not its message: it may quote the line, and so a hash.
        raise ConfigurationError(f"{path} is not a TOML file in UTF-8") from error
    table = document.get(_TABLE)
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path} has no table [{_TABLE}] to hold the settings")
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

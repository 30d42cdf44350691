"""The documentation names all that there is: public names, outcomes, errors, settings."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs
import pytest
from documentation import DOCS, PAGES, README, ROOT

import everlytic_async
from everlytic_async import (
    EverlyticClient,
    Outcome,
    Pacing,
    RetryPolicy,
    Timeouts,
    errors,
    ledger,
    sandbox,
    worker,
)
from everlytic_async.cli._commands import app
from everlytic_async.cli._nats import NAMES

_DIRECTIVE = re.compile(r"^\.\. auto(?:class|exception):: ([\w.]+)", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[\w-]+)?\)")
_VARIABLE = re.compile(r"\bEVERLYTIC_[A-Z_]*[A-Z]\b")


def _text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference() -> None:
    documented = _DIRECTIVE.findall(_text("reference/python.md"))
    public = {
        *everlytic_async.__all__,
        *(f"everlytic_async.sandbox.{name}" for name in sandbox.__all__),
        *(f"everlytic_async.ledger.{name}" for name in ledger.__all__),
        *(f"everlytic_async.worker.{name}" for name in worker.__all__),
    } - {
        "everlytic_async.ledger.Ledger",  # by their shorter names
        "everlytic_async.ledger.SqliteLedger",
        *(
            f"everlytic_async.ledger.{name}"
            for name in ("merge_entries", "storage_key", "storage_keys")
        ),
    }
    assert sorted(public) == sorted(documented)


@pytest.mark.parametrize("page", ["explanation/guarantees.md", "how-to/on-call.md"])
def test_every_outcome_is_explained(page: str) -> None:
    missing = [outcome.name for outcome in Outcome if f"`{outcome.name}`" not in _text(page)]
    assert not missing


def test_every_error_is_explained_to_the_engineer_on_call() -> None:
    rows = re.findall(r"^\| `(\w+Error)`", _text("how-to/on-call.md"), re.MULTILINE)
    assert {*errors.__all__} - {"EverlyticError"} == {*rows}


def test_every_argument_of_the_client_is_listed() -> None:
    section = _text("reference/settings.md").split("## Client\n")[1].split("\n###")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    address = {"base_url", "store_hash", "customer_hash"}  # from the environment
    arguments = inspect.signature(EverlyticClient).parameters
    assert [name for name in arguments if name not in address] == rows


@pytest.mark.parametrize("policy", [RetryPolicy, Pacing, Timeouts])
def test_every_field_of_a_policy_is_listed_with_its_default(policy: type) -> None:
    section = _text("reference/settings.md").split(f"### {policy.__name__}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE)
    assert [(field.name, str(field.default)) for field in attrs.fields(policy)] == rows


def test_every_setting_of_a_queue_is_listed_with_its_default() -> None:
    section = _text("reference/settings.md").split("## Queue\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `?([\w-]+)`? \|", section, re.MULTILINE)
    fields = [field for field in attrs.fields(worker.QueueSettings) if field.name != "store"]
    assert [(field.name, str(field.default).removesuffix(".0")) for field in fields] == rows


def test_every_figure_for_prometheus_is_listed() -> None:
    section = _text("how-to/observe.md").split("## Prometheus\n")[1].split("\n## ")[0]
    source = (Path(worker.__file__).parent / "_metrics.py").read_text()
    made = {*re.findall(r'"(everlytic_[a-z_]+)"', source)}
    assert len(made) == 7
    assert {name for name in made if f"`{name}`" not in section} == {
        name for name in made if f"`{name}_total`" in section
    }
    for name in ("waiting", "_in_flight", "_redelivered", "_dead"):
        assert name in section


def test_every_option_of_a_queue_is_among_its_settings() -> None:
    section = _text("reference/settings.md")
    options = {option for parameter in app.commands["enqueue"].params for option in parameter.opts}
    named = {option for option in options if "nats" in option or option == "--embedded"}
    assert len(named) == 9
    assert {option for option in named if f"`{option}`" not in section} == set()


def test_every_environment_variable_is_listed_and_no_other() -> None:
    package = Path(everlytic_async.__file__).parent
    read = {
        name for module in package.rglob("*.py") for name in _VARIABLE.findall(module.read_text())
    } | {f"EVERLYTIC_NATS_{name.upper()}" for name in NAMES}
    listed = {*_VARIABLE.findall(_text("reference/settings.md"))}
    assert read == listed


def test_map_of_the_house_names_every_room_and_no_file_that_is_not_there() -> None:
    package = Path(everlytic_async.__file__).parent
    file = re.compile(r"`([\w/]+(?:\.py|/))`")
    named = {*file.findall(_text("explanation/architecture.md"))}
    steps = {*file.findall(_text("explanation/life-of-an-order.md"))}
    missing = [
        name for name in named | steps if not ((package / name).exists() or (ROOT / name).exists())
    ]
    assert steps
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert not missing
    unnamed = (modules - {"_version.py"} | rooms) - named
    assert not unnamed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).is_file()]
    assert not missing


def test_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link).resolve() for link in _LINK.findall(README.read_text(encoding="utf-8"))}
    assert {*PAGES} - {README, DOCS / "index.md"} <= linked

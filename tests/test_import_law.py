"""The import law: data flows one way, imports point down, and each library has one importer.

The two tables below are the law. What they name is what stands in ``everlytic_async/``: a module
``x.py`` or a package ``x/`` is ``x``, and inside of a package the law asks for nothing but that
private modules stay private. Imports for type checkers alone are free.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import everlytic_async

ROOT = Path(everlytic_async.__file__).parent
PACKAGE = everlytic_async.__name__

#: From the bottom up: a module imports from the layers below its own, never from beside or above.
LAYERS = (
    {"_checks", "_direct_post", "_hosts", "_retry_after", "_version", "_waiting", "errors"},
    {"_nats"},
    {"orders", "outcomes", "policies"},
    {"_encoding", "_rate", "_response", "_strict_json", "events", "ledger"},
    {"_endpoint"},
    {"_secrets"},
    {"_request", "_retry", "_trouble"},
    {"_failures", "_pacer"},
    {"_transport"},
    {"_stop_rules"},
    {"_sender"},
    {"_ledgers", "_order_reader"},
    {"batch"},
    {"client"},
    {"otel", "sandbox", "sources", "worker"},
    {"cli"},
    {"__main__"},
)
#: Those that may import less of the package than lies below them.
ONLY: dict[str, set[str]] = {
    "__init__": {"_version"},  # it names modules as text, and loads them when they are asked for
    "__main__": {"cli"},
    "_direct_post": {"_waiting"},
    "_rate": set(),
    "ledger": {"_nats", "_waiting", "errors", "outcomes", "policies"},
    "otel": {"_endpoint", "_version", "errors", "events"},
    "sandbox": set(),  # so that a mistake of the encoder can't cancel itself
    "sources": {"_checks", "_strict_json", "errors", "orders"},
}
#: Packages that may import the private modules of the top level: parts of the core that are too
#: large for one module. For all others what begins with _ is closed.
INSIDERS = {"ledger", "sources", "worker"}
#: Which modules import a library, or a part of one. attrs is for all.
IMPORTERS: dict[str, set[str]] = {
    "aiohttp": {"_direct_post", "_failures", "_request", "_transport"},
    "aiohttp.web": {"sandbox", "worker"},
    "backports": {"sources"},
    "cattrs": {"_encoding"},
    "click": {"cli"},
    "compression": {"sources"},  # of the standard library, from 3.14 on
    "jinja2": {"cli"},
    "multidict": {"_direct_post", "_request", "_response", "sandbox"},
    "nats": {"_nats", "ledger", "worker"},
    "opentelemetry": {"otel"},
    "openpyxl": {"sources"},
    "orjson": {"_encoding", "_response", "sources"},
    "plotly": {"cli"},
    "prometheus_client": {"worker"},
    "pyarrow": {"sources"},
    "rich": {"cli"},
    "rich_click": {"cli"},
    "tenacity": {"_retry"},
    "yarl": {"_direct_post", "_endpoint", "_secrets", "_transport", "sandbox"},
}
FOR_ALL = {"attrs", *sys.stdlib_module_names}


def place_of(name: str) -> int:
    return next(place for place, layer in enumerate(LAYERS) if name in layer)


def units() -> set[str]:
    """What stands in the package: modules, and packages as one."""
    return {
        path.stem if path.is_file() else path.name
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


@cache
def sources() -> dict[str, str]:
    """The text of every module, by its dotted name; a package's own is ``name.__init__``."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted(ROOT.rglob("*.py"))
    }


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@cache
def imported(module: str, source: str) -> tuple[str, ...]:
    """The full dotted name of whatever a module imports, at any depth."""
    return tuple(_imported(module, source))


def _imported(module: str, source: str) -> Iterator[str]:
    package = f"{PACKAGE}.{module}".rpartition(".")[0]
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and is_for_type_checkers(node):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            absolute = importlib.util.resolve_name(base, package)
            yield from (f"{absolute}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function, name = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if function in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield str(name.value)


def breaches(module: str, source: str) -> Iterator[str]:
    """Where a module, named as in `sources`, breaks the law."""
    for name in imported(module, source):
        if name.partition(".")[0] == PACKAGE:
            yield from within(module, name)
        else:
            yield from without(module, name)


def within(module: str, name: str) -> Iterator[str]:
    """The breaches of one import of the package itself."""
    unit = module.partition(".")[0]
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "*":
        yield f"{module} imports the whole package: import what you need from its module"
        return
    if parts[1] in everlytic_async.__all__:  # by its public path
        parts = f"{getattr(everlytic_async, parts[1]).__module__}.{parts[1]}".split(".")
    private = next((place for place, part in enumerate(parts) if part.startswith("_")), None)
    opened = unit in INSIDERS and private == 1
    siblings = f"{PACKAGE}.{module}".split(".")[:-1]
    if private is not None and parts[:private] != siblings and not opened:
        yield f"{module} imports {name}: what begins with _ is for its siblings only"
    other = parts[1]
    if other == unit:
        return
    if unit in ONLY and other not in ONLY[unit]:
        allowed = ", ".join(sorted(ONLY[unit])) or "nothing"
        yield f"{module} imports {name}: of the package it may import {allowed}"
    elif unit not in ONLY and place_of(other) >= place_of(unit):
        yield f"{module} imports {name}: imports point down, and {other} is not below {unit}"


def without(module: str, name: str) -> Iterator[str]:
    """The breaches of one import of a library."""
    if name.partition(".")[0] in FOR_ALL:
        return
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    importers = set().union(*(IMPORTERS.get(prefix, set()) for prefix in prefixes))
    if module.partition(".")[0] not in importers:
        allowed = (
            " and ".join(sorted(importers)) or "nobody (IMPORTERS in the test may be extended)"
        )
        yield f"{module} imports {name}: {allowed} may"


def test_every_module_has_its_place_in_the_law() -> None:
    placed = {name for layer in LAYERS for name in layer} | {"__init__"}
    new, gone = sorted(units() - placed), sorted(placed - units())
    assert new == [], (
        f"{', '.join(new)}: give each new module a place in LAYERS, above all that it imports and "
        "below all that import it; where it may import less than that, list what in ONLY"
    )
    assert gone == [], f"{', '.join(gone)}: gone from the package, so take it out of LAYERS"
    assert sum(map(len, LAYERS)) == len(set().union(*LAYERS)), "a module has two places"


def test_every_module_keeps_the_law() -> None:
    found = {module: list(breaches(module, source)) for module, source in sources().items()}
    assert {module: broken for module, broken in found.items() if broken} == {}


def test_every_library_of_the_law_is_imported_where_the_law_says() -> None:
    found = {
        (module.partition(".")[0], name)
        for module, source in sources().items()
        for name in imported(module, source)
    }
    for library, importers in IMPORTERS.items():
        users = {unit for unit, name in found if f"{name}.".startswith(f"{library}.")}
        assert importers <= users, f"{library}: take out who no longer imports it"


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("errors", "from everlytic_async.outcomes import BatchReport", "is not below"),
        ("errors", "def f():\n    from .outcomes import BatchReport", "is not below"),
        ("errors", "if TYPE_CHECKING:\n    pass\nelse:\n    from . import cli", "is not below"),
        ("orders", "from everlytic_async import Pacing", "is not below"),
        ("orders", "import everlytic_async._encoding as encoding", "is not below"),
        ("batch", "try:\n    from everlytic_async.client import X\nexcept A: pass", "is not below"),
        ("batch", "import_module('everlytic_async.client')", "is not below"),
        ("batch", "import everlytic_async", "the whole package"),
        ("__init__", "from everlytic_async.orders import Order", "it may import _version"),
        ("_rate", "from everlytic_async.policies import Pacing", "it may import nothing"),
        ("sandbox._checks", "from ..orders import Order", "it may import nothing"),
        ("sandbox._checks", "from .. import _encoding", "for its siblings only"),
        ("cli._send", "from everlytic_async._sender import Sender", "for its siblings only"),
        ("worker._worker", "from everlytic_async.sandbox._checks import X", "siblings only"),
        ("client", "import aiohttp", "_request and _transport may"),
        ("client", "from aiohttp import web", "_transport and sandbox and worker may"),
        ("_sender", "from cattrs.preconf.orjson import make_converter", "_encoding may"),
        ("client", "import importlib\nimportlib.import_module('click')", "cli may"),
        ("batch", "import numpy", "nobody"),
    ],
)
def test_a_breach_is_found(module: str, source: str, message: str) -> None:
    assert message in "\n".join(breaches(module, source))

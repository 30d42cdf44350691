"""The sandbox stands alone: it imports nothing of the rest of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import everlytic_async.sandbox

PACKAGE = "everlytic_async"
OWN = f"{PACKAGE}.sandbox"
MODULES = sorted(Path(everlytic_async.sandbox.__file__).parent.rglob("*.py"))


def imported(source):
    """The modules, absolute, that a module of the sandbox imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" if base == PACKAGE else base for alias in node.names)


def strays(source):
    """Those of them that lie in the package but not in the sandbox."""
    return {
        name
        for name in imported(source)
        if name.startswith("..")
        or (name.split(".")[0] == PACKAGE and name != OWN and not name.startswith(f"{OWN}."))
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_sandbox_imports_nothing_else_of_the_package(module):
    assert strays(module.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import everlytic_async",
        "import everlytic_async._wire as wire",
        "from everlytic_async import Order",
        "from everlytic_async._wire import PATH",
        "from everlytic_async.sandboxes import Faults",
        "from .. import errors",
        "from ..orders import Order",
        "def later():\n    from everlytic_async.orders import Order",
    ],
)
def test_the_scan_finds_an_import_of_the_rest_of_the_package(source):
    assert strays(source)


def test_the_scan_reads_every_module():
    assert {"__init__.py", "_checks.py", "_faults.py", "_server.py"} <= {
        module.name for module in MODULES
    }


def test_the_public_names_are_those_that_are_exported():
    assert sorted(everlytic_async.sandbox.__all__) == ["Faults", "Sandbox"]

"""The public surface: the names that users may rely on, described, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import everlytic_async
from support.processes import run_python

ROOT = Path(everlytic_async.__file__).parent
#: The names that users may rely on. To add one: in `everlytic_async/__init__.py` (twice: for type
#: checkers and in `__all__`), and in the reference of the documentation, which must list them all.
PUBLIC = set(everlytic_async.__all__)
EXTRAS = {
    "click",
    "jinja2",
    "nats",
    "opentelemetry",
    "plotly",
    "prometheus_client",
    "pyarrow",
    "rich",
    "rich_click",
    "uvloop",
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(source: Path) -> str:
    parts = source.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# -------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_leads_to_what_is_called_so(name: str) -> None:
    value = getattr(everlytic_async, name)
    assert inspect.isclass(value)
    assert value.__name__ == name
    home = importlib.import_module(value.__module__)
    assert name in home.__all__


def test_a_star_import_brings_all_public_names_and_no_others() -> None:
    names: dict[str, object] = {}
    exec("from everlytic_async import *", names)  # noqa: S102 - the statement is the subject
    assert names.keys() - {"__builtins__"} == PUBLIC <= set(dir(everlytic_async))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'everlytic_async' has no attribute 'Oder'"):
        everlytic_async.Oder  # noqa: B018 - the access is the subject


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    report = {
        (alias.asname, f"{node.module}.{alias.name}")
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # A class is imported from where its package exports it.
    homes = {name: getattr(everlytic_async, name).__module__.partition("._")[0] for name in PUBLIC}
    assert report == {(name, f"{home}.{name}") for name, home in homes.items()}


def public_modules() -> Iterator[ModuleType]:
    yield everlytic_async
    for module in pkgutil.walk_packages([str(ROOT)], "everlytic_async."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            yield importlib.import_module(module.name)


def test_every_public_module_says_what_it_exports_and_has_it() -> None:
    for module in public_modules():
        names = getattr(module, "__all__", None)
        assert names, f"{module.__name__} has no __all__: list its public names"
        assert sorted(set(names)) == sorted(names), f"{module.__name__}.__all__ names one twice"
        missing = [name for name in names if not hasattr(module, name)]
        assert missing == [], f"{module.__name__}.__all__ names what it has not"


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "py.typed").is_file()


# ----------------------------------------------------------------------------------- descriptions


def undescribed(tree: ast.Module) -> Iterator[str]:
    """The module, and the public classes, functions and methods in it, without a docstring."""
    if not ast.get_docstring(tree):
        yield "the module"
    pending: list[tuple[str, ast.AST]] = [("", node) for node in tree.body]
    while pending:
        path, node = pending.pop()
        if isinstance(node, ast.If | ast.Try):
            pending += [(path, inner) for inner in ast.iter_child_nodes(node)]
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") or any("overload" in ast.dump(d) for d in node.decorator_list):
            continue
        # A command of the command line says what it does in its help.
        helps = any(
            keyword.arg == "help"
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call)
            for keyword in decorator.keywords
        )
        if not helps and not ast.get_docstring(node):
            yield f"{path}{node.name}"
        if isinstance(node, ast.ClassDef):
            pending += [(f"{path}{node.name}.", inner) for inner in node.body]


def test_every_module_and_all_that_is_public_in_it_is_described() -> None:
    found = {
        name_of(path): list(undescribed(ast.parse(path.read_text("utf-8")))) for path in sources()
    }
    assert {module: names for module, names in found.items() if names} == {}


def test_the_search_for_missing_descriptions_finds_them() -> None:
    bare = ast.parse(
        "class A:\n"
        "    def f(self): 'described'\n"
        "    async def g(self): ...\n"
        "    def _h(self): ...\n"
        "class _B:\n"
        "    def f(self): ...\n"
        "if True:\n"
        "    def h(): ...\n"
    )
    assert sorted(undescribed(bare)) == ["A", "A.g", "h", "the module"]


# ------------------------------------------------------------------------- what an import costs

# Printed: what was loaded, and what was done apart from loading code.
WATCH = """
import json, sys, threading
actions = []
def note(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_s",
                         "os.spawn", "os.remove", "os.rename", "os.mkdir", "shutil.", "sqlite3.",
                         "tempfile.", "urllib.", "ftplib.", "smtplib.", "webbrowser.")):
        actions.append(event)
    elif event == "open":
        path, mode, flags = args
        writes = isinstance(mode, str) and set(mode) & set("wax+") or not mode and flags & 0o3
        if writes or not str(path).endswith((".py", ".pyc", ".so", ".pyd", ".dll", ".zip")):
            actions.append(f"{'write' if writes else 'read'} {path}")
before = set(sys.modules)
sys.addaudithook(note)
%s
actions += [f"thread {thread.name}" for thread in threading.enumerate()[1:]]
loaded = sorted({name.partition(".")[0] for name in sys.modules.keys() - before})
modules = sorted(name for name in sys.modules if name.startswith("everlytic_async"))
print(json.dumps({"actions": actions, "loaded": loaded, "modules": modules}))
"""


def watched(statement: str) -> dict[str, list[str]]:
    """What a fresh interpreter loads and does for a statement."""
    report: dict[str, list[str]] = json.loads(run_python("-B", "-c", WATCH % statement))
    return report


def test_importing_the_package_loads_no_other_and_does_nothing() -> None:
    report = watched("import everlytic_async")
    assert report["modules"] == ["everlytic_async", "everlytic_async._version"]
    assert set(report["loaded"]) - set(sys.stdlib_module_names) == {"everlytic_async"}
    assert report["actions"] == []


@pytest.mark.parametrize("module", ["", ".sandbox", ".sources"])
def test_using_every_public_name_loads_no_extra_and_changes_nothing(module: str) -> None:
    report = watched(f"from everlytic_async{module} import *")
    assert set(report["loaded"]) & EXTRAS == set()
    # What aiohttp reads, such as the system's table of MIME types, is its own business.
    assert [action for action in report["actions"] if not action.startswith("read ")] == []


def test_the_client_is_loaded_only_when_it_is_asked_for() -> None:
    report = watched("from everlytic_async import Order, RetryPolicy")
    assert not {"aiohttp", "tenacity", "cattrs"} & set(report["loaded"])


def test_the_sandbox_does_not_load_the_client() -> None:
    report = watched("from everlytic_async.sandbox import Sandbox")
    others = [name for name in report["modules"] if ".sandbox" not in name]
    assert others == ["everlytic_async", "everlytic_async._version"]
    assert "tenacity" not in report["loaded"]


@pytest.mark.parametrize(
    ("statement", "action"),
    [
        ("import socket; socket.create_server(('127.0.0.1', 0)).close()", "socket.bind"),
        ("import os; open(os.devnull, 'w').close()", "write"),
        ("import sys, subprocess; subprocess.run([sys.executable, '-c', ''])", "subprocess.Popen"),
        ("import threading; threading.Timer(0.1, print).start()", "thread"),
        ("import os; open(os.devnull).close()", "read"),
    ],
)
def test_the_watch_notices_what_is_done(statement: str, action: str) -> None:
    assert any(report.startswith(action) for report in watched(statement)["actions"])

"""How Sphinx builds these pages."""

from importlib.metadata import version as version_of
from typing import Any

from sphinx.application import Sphinx

project = "everlytic-async"
author = "the everlytic-async authors"
version = release = version_of("everlytic-async")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"everlytic-async {version}"
pygments_style = "default"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `Name` in a docstring links to it where it is documented, and is code where it is not.
default_role = "autolink"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Hook": "everlytic_async.events.Hook"}
autodoc_class_signature = "mixed"
autosummary_generate = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Other projects' names: their documentation is not fetched, so that a build needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(aiohttp|asyncio|collections|contextlib|datetime|decimal|enum|os)\..*"),
    (r"py:.*", r"(nats|opentelemetry|ssl|types|typing)\..*"),
    (r"py:.*", r"everlytic_async\..*\._nats_bucket\.Bucket"),
    (r"py:.*", r"everlytic_async\.client\.ClientSettings"),
    (r"py:.*", r"everlytic_async\.sources\._(options\.ReadOptions|where\.Condition)"),
    (r"py:.*", r"(Any|Self|Decimal|Iterable|AsyncIterable|Mapping|Sequence|TracebackType)"),
]


def _keep_colons(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Napoleon takes what is before the first colon of a field's first line for its type."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # an empty comment


def _show_public_bases(
    _app: Sphinx, _name: str, _obj: object, _options: object, bases: list[Any]
) -> None:
    """A private class in between is nobody's business: its own base is shown instead."""
    bases[:] = [base.__base__ if base.__name__.startswith("_") else base for base in bases]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-bases", _show_public_bases)

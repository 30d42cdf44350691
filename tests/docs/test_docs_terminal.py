"""The picture of a run in the README shows what the command prints now."""

from __future__ import annotations

import runpy

import pytest
from documentation import DOCS, README


@pytest.mark.slow  # it sends at 10 orders a second, so that there is something to see
def test_picture_of_a_run_is_up_to_date() -> None:
    """`python docs/terminal.py` draws it again."""
    script = runpy.run_path(str(DOCS / "terminal.py"))
    assert script["draw"]() == script["PICTURE"].read_text("utf-8")


def test_picture_of_a_run_is_in_the_readme_and_loads_nothing() -> None:
    assert "](docs/terminal.svg)" in README.read_text("utf-8")
    picture = (DOCS / "terminal.svg").read_text("utf-8")
    assert "url(" not in picture.replace("url(#", "")
    assert [each for each in ("href", "@import", "<script") if each in picture] == []

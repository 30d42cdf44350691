"""What is published: the source distribution, and the wheel that is built of it alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import attrs
import pytest
from documentation import ROOT

pytestmark = [pytest.mark.install, pytest.mark.slow]


@attrs.frozen
class Built:
    """The names in both files, and what an index shows of the wheel."""

    source: list[str]
    wheel: list[str]
    shown: Message


@pytest.fixture
def built(checkout: Path, tmp_path: Path) -> Built:
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path / "dist", checkout],
        capture_output=True,
        timeout=300,
        check=True,
    )
    [wheel] = (tmp_path / "dist").glob("*.whl")
    [source] = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as unpacked, tarfile.open(source) as archive:
        names = unpacked.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        return Built(
            [name.partition("/")[2] for name in archive.getnames()],
            names,
            Parser().parsestr(unpacked.read(metadata).decode()),
        )


def test_what_is_published_is_whole_licensed_and_links_to_nothing_that_is_not_there(
    built: Built, checkout: Path
) -> None:
    assert built.shown["License-Expression"] == "MIT"
    assert built.shown.get_all("License-File") == ["docs/LICENSE"]
    assert any(name.endswith(".dist-info/licenses/docs/LICENSE") for name in built.wheel)
    assert built.shown.get_all("Project-URL")

    text = built.shown.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    # What takes the place of a link is in the source distribution.
    paths = set(re.findall(r"\(`(docs/[^`#]+)", text))
    assert paths == set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text("utf-8")))
    assert paths <= set(built.source)

    assert {name.partition("/")[0] for name in built.wheel if ".dist-info/" not in name} == {
        "everlytic_async"
    }
    assert "everlytic_async/py.typed" in built.wheel
    tracked = {
        str(path.relative_to(checkout))
        for path in checkout.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked - set(built.source) == set()

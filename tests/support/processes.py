"""The environment of the Python processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path

#: In PYTHONPATH it makes orders go by `ClientSession.post`.
SESSION_POST = Path(__file__).parent / "session_post"


def python_path(*directories: Path) -> str:
    """A value of PYTHONPATH: these directories, and what is in it already."""
    return os.pathsep.join([*map(str, directories), *filter(None, [os.environ.get("PYTHONPATH")])])

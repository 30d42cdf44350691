"""What all tests share: how hypothesis looks for counter-examples."""

from __future__ import annotations

import math
import os
import sys

import pytest
from hypothesis import settings

# No deadline: a shared machine stalls. In CI the same examples every time, for a run to be
# repeatable; elsewhere new ones, for a bug to be found.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: half as many again as cores, for many tests wait for processes."""
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    return math.ceil(1.5 * (cores or 1))

"""What all tests share: how hypothesis looks for counter-examples, and what is run when."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable

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


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Run what is marked as slow only where ``-m`` speaks of it."""
    if "slow" in config.getoption("markexpr", ""):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="takes long: .ci/run runs it, and -m slow"))

"""What all tests share: how hypothesis looks for counter-examples, and what runs when."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import aiohttp
import pytest
from hypothesis import settings

from support.processes import SESSION_POST, python_path
from support.servers import hold_port

#: Versions whose undocumented names `everlytic_async._direct_post` is known to work with.
KNOWN_AIOHTTP = {"3.14.4", "3.14.5"}

# These modules take every worker longer to compile than to run a hundred tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No deadline: a shared machine stalls. In CI the same examples every time, so that a run can be
# repeated; elsewhere new ones, so that bugs are found.
_IN_CI = bool(os.environ.get("CI"))
settings.register_profile("short", deadline=None, derandomize=_IN_CI, max_examples=25)
settings.register_profile("slow", deadline=None, derandomize=_IN_CI, max_examples=300)


def _runs_slow(config: pytest.Config) -> bool:
    return "slow" in config.getoption("markexpr", "")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Orders go to an endpoint in one of two ways; the tests run over both, one after the other."""
    parser.addoption(
        "--session-post",
        action="store_true",
        help="send orders by ClientSession.post, as where somebody has instrumented aiohttp",
    )


@pytest.fixture
async def direct_post(pytestconfig: pytest.Config, caplog: pytest.LogCaptureFixture) -> None:
    """Skip a test that is about the direct way where it is closed.

    A client finds out whether this aiohttp still allows it. With a known one it has to.
    """
    if pytestconfig.getoption("session_post"):
        pytest.skip("about the direct way")
    from support.delivery import make_client  # noqa: PLC0415 - after aiohttp was patched

    async with make_client():
        closed = [line for line in caplog.messages if "failed a check" in line]
    if closed and aiohttp.__version__ not in KNOWN_AIOHTTP:
        pytest.skip(closed[0])
    assert not closed


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback that refuses connections, until the test listens on it."""
    with hold_port() as port:
        yield port


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Warn of an aiohttp that is newer than this project."""
    version = aiohttp.__version__
    if version not in KNOWN_AIOHTTP:
        terminalreporter.write_sep("=", f"WARNING: aiohttp {version} is not known yet", yellow=True)
        terminalreporter.write_line(
            "If all tests pass, add it to KNOWN_AIOHTTP in tests/conftest.py. If those about the "
            "direct way are skipped, orders go by ClientSession.post, at twice the CPU."
        )


def pytest_configure(config: pytest.Config) -> None:
    """Try many examples only where there is time for it; let child processes be interrupted."""
    if config.getoption("session_post"):
        os.environ["PYTHONPATH"] = python_path(SESSION_POST)
        sys.path.insert(0, str(SESSION_POST))
        sys.modules.pop("sitecustomize", None)  # the machine's own
        importlib.import_module("sitecustomize")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell started us in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile("slow" if _runs_slow(config) else "short")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: twice as many as cores, for tests wait as long as they compute."""
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    return 2 * (cores or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have a worker that is done take tests from another one: those that wait stand together."""
    from xdist.scheduler import WorkStealingScheduling  # noqa: PLC0415 - a plug-in, perhaps absent

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests live to the end: the garbage collector need not look at them again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before what `-m` does not select is left out
def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Run tests marked as slow only with ``-m slow``, which runs the property tests once more."""
    for item in items:
        if _runs_slow(config):
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker("slow")
        elif item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="slow: run by .ci/run and with -m slow"))

"""The README's quick start works where a stranger runs it: in a fresh copy of the tracked files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT, difference, quick_start


def test_quick_start_has_exactly_two_commands_of_one_line() -> None:
    commands = quick_start()
    assert len(commands) == 2
    assert all("\n" not in command and command.strip() for command in commands)


@pytest.mark.slow
@pytest.mark.install
def test_first_command_sends_the_example_orders_on_a_fresh_machine(
    checkout: Path, tmp_path: Path
) -> None:
    # Keep pip's settings (its cache, its index), and nothing else of this test run.
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "http_proxy", "https_proxy")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.upper() in kept or name.startswith("PIP_")
    }
    orders = (checkout / "docs/examples/orders.jsonl").read_text("utf-8").splitlines()

    done = subprocess.run(
        ["bash", "-c", quick_start()[0]],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(orders) >= 25
    assert done.stdout.startswith(f"{len(orders)} orders from ")
    assert difference(quick_start("text")[0], done.stdout) is None


@pytest.fixture
def ci(tmp_path: Path) -> Path:
    """A checkout's `.ci/run`, alone in a directory."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    return tmp_path / ".ci/run"


def test_ci_runs_the_second_command_as_the_readme_has_it(ci: Path, tmp_path: Path) -> None:
    fake = 'printf "%s " the tests of && basename "$PWD"'
    readme = (ROOT / "README.md").read_text("utf-8")
    (tmp_path / "README.md").write_text(readme.replace(quick_start()[1], fake), encoding="utf-8")

    done = subprocess.run([ci, "tests"], capture_output=True, encoding="utf-8", check=True, cwd="/")

    assert f"the README's own: {fake}" in done.stdout
    assert f"\nthe tests of {tmp_path.name}\n" in done.stdout


def test_ci_fails_when_the_second_command_fails_or_is_missing(ci: Path, tmp_path: Path) -> None:
    for quick in ("```bash\ntrue\n```\n```bash\nfalse\n```\n", "```bash\ntrue\n```\n"):
        (tmp_path / "README.md").write_text(f"## Quick start\n{quick}## Next\n```bash\ntrue\n```\n")
        done = subprocess.run([ci, "tests"], capture_output=True, check=False)
        assert done.returncode == 1


def test_ci_passes_over_a_python_that_is_not_here_or_does_not_work(
    ci: Path, tmp_path: Path
) -> None:
    for directory in (".venv/bin", "shims"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    shim = tmp_path / "shims/python3.98"
    shim.write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    shim.chmod(0o755)
    versions = ("{}.{}".format(*sys.version_info[:2]), "3.98", "3.99")
    (tmp_path / "pyproject.toml").write_text(
        "".join(f'    "Programming Language :: Python :: {version}",\n' for version in versions)
    )

    done = subprocess.run(
        [ci, "pythons"],
        env={"PATH": f"{tmp_path / 'shims'}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )

    said = [line.partition(" (")[0] for line in done.stdout.splitlines() if line]
    assert said == [
        "=== Python 3.98 is not installed here: NOT TESTED",
        "=== Python 3.99 is not installed here: NOT TESTED",
        "=== all passed",
    ]

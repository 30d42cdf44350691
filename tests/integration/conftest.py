"""After each test here no task is pending; a certificate authority; a port that never accepts."""

from collections.abc import Iterator

import pytest

from support.servers import full_backlog
from support.tasks import no_task_left
from support.tls import authority

__all__ = ["authority", "no_task_left"]


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A port of loopback at which connecting takes for ever."""
    with full_backlog() as port:
        yield port

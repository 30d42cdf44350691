"""Real NATS servers for the tests: one, and a cluster of three whose leader can be killed.

A ``conftest.py`` that imports `nats_url`, `nats_server` or `nats_cluster` has them as fixtures.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from everlytic_async.errors import QueueError
from everlytic_async.worker import NatsServer

__all__ = ["NatsCluster", "connected", "kill", "nats_cluster", "nats_server", "nats_url", "until"]

# Below what the system gives to outgoing connections: a node that was killed finds its ports free.
_PORTS = range(12_000, 30_000)
# Only a failure takes this long: the machine may have other work.
_LIMIT_S = 180.0


async def until(
    condition: Callable[[], object], what: str = "it", limit_s: float = _LIMIT_S
) -> Any:
    """Ask until the answer is true; errors of a server that is not ready mean: not yet."""
    ends = time.monotonic() + limit_s
    while True:
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
        except (TimeoutError, OSError, JetStreamError, nats.errors.Error) as error:
            answer, why = None, repr(error)
        else:
            why = repr(answer)
        if answer:
            return answer
        assert time.monotonic() < ends, f"{what}: not within {limit_s:g} seconds; last: {why}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(*servers: str, **options: Any) -> AsyncIterator[Client]:
    """A client's connection that says nothing and does not give up."""

    async def silent(_error: Exception) -> None:
        pass  # a server that is killed is what is being tested

    settings: dict[str, Any] = {
        "error_cb": silent,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.05,
        **options,
    }
    connection = await nats.connect(list(servers), **settings)
    try:
        yield connection
    finally:
        await connection.close()


async def kill(server: NatsServer) -> None:
    """End it by SIGKILL, as a machine that loses power would; it may be started again."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.close()


class NatsCluster:
    """Three servers with JetStream on loopback.

    Attributes:
        nodes: The servers, by name.
    """

    def __init__(self, nodes: dict[str, NatsServer]) -> None:
        self.nodes = nodes

    @property
    def urls(self) -> list[str]:
        """All their addresses."""
        return [node.url for node in self.nodes.values()]

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path) -> AsyncIterator[NatsCluster]:
        """A cluster that is ready, as long as it is needed."""
        async with AsyncExitStack() as stack:
            for left in reversed(range(5)):
                attempt = AsyncExitStack()
                nodes = cls._nodes(directory)
                try:
                    # A node is ready for clients when it knows who leads: not before there are two.
                    async with asyncio.TaskGroup() as group:
                        for node in nodes.values():
                            attempt.push_async_callback(node.close)
                            group.create_task(node.start())
                except ExceptionGroup as errors:
                    await attempt.aclose()
                    taken, rest = errors.split(QueueError)
                    if rest is not None or taken is None or not left:
                        raise
                else:
                    stack.push_async_exit(attempt)
                    break
            cluster = cls(nodes)
            await cluster.healthy()
            yield cluster

    @staticmethod
    def _nodes(directory: Path) -> dict[str, NatsServer]:
        names = ("one", "two", "three")
        ports = dict(zip(names, _free_ports(3), strict=True))
        routes = [f"nats://127.0.0.1:{port}" for port in ports.values()]
        return {
            name: NatsServer(
                directory / name,
                config={
                    "server_name": name,
                    "cluster": {
                        "name": "tests",
                        "listen": f"127.0.0.1:{ports[name]}",
                        "routes": routes,
                    },
                },
            )
            for name in names
        }

    async def healthy(self) -> None:
        """Wait until every node can be reached, and every stream has a leader and all replicas."""
        for name, node in self.nodes.items():
            if node.pid is None:
                continue
            async with connected(node.url) as connection:
                await until(lambda: self._is_ready(connection, name), f"node {name}")  # noqa: B023 - awaited here

    async def _is_ready(self, connection: Client, name: str) -> bool:
        stream = connection.jetstream(timeout=2.0)
        running = sum(node.pid is not None for node in self.nodes.values())
        # What can be made with all replicas proves that they all take part.
        probe = f"probe-{name}"
        await stream.add_stream(name=probe, subjects=[probe], num_replicas=running)
        await stream.publish(probe, b"")
        await stream.delete_stream(probe)
        for info in await stream.streams_info():
            cluster = info.cluster
            if cluster is None or not cluster.leader:
                return False
            living = [peer for peer in cluster.replicas or () if self.nodes[str(peer.name)].pid]
            if not all(peer.current and not peer.offline for peer in living):
                return False
        return True

    async def leader(self, stream: str) -> str:
        """The name of the node that leads a stream."""

        async def named() -> str | None:
            living = [node.url for node in self.nodes.values() if node.pid is not None]
            async with connected(*living) as connection:
                info = await connection.jetstream(timeout=2.0).stream_info(stream)
                found = info.cluster and info.cluster.leader
                return found if found and self.nodes[found].pid is not None else None

        return str(await until(named, f"the leader of {stream}"))

    async def kill_leader(self, stream: str) -> str:
        """End the leader of a stream by SIGKILL; its name."""
        name = await self.leader(stream)
        await kill(self.nodes[name])
        return name

    async def restart(self, name: str) -> None:
        """Start a node that was killed, and wait until all are in step."""
        await self.nodes[name].start()
        await self.healthy()


def _free_ports(count: int) -> list[int]:
    """Ports of loopback at which nobody listens at this moment."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, 1_000):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The address of a server that many tests share: names of streams must be the test's own."""
    # A loop of its own, for every test has another one.
    loop = asyncio.new_event_loop()
    with TemporaryDirectory() as directory, closing(loop):
        server = NatsServer(directory)
        loop.run_until_complete(server.start())
        try:
            yield server.url
        finally:
            loop.run_until_complete(server.close())


@pytest.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    """A server of the test's own, with nothing in it."""
    with TemporaryDirectory() as directory:
        async with NatsServer(directory) as server:
            yield server


@pytest.fixture
async def nats_cluster() -> AsyncIterator[NatsCluster]:
    """A cluster of three of the test's own."""
    with TemporaryDirectory() as directory:
        async with NatsCluster.running(Path(directory)) as cluster:
            yield cluster

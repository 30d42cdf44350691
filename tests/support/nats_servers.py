"""Real NATS servers for the tests: one, and a cluster of three whose leader can be killed.

A ``conftest.py`` that imports `nats_url`, `nats_server` or `nats_cluster` has them as fixtures.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
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

from everlytic_async.worker import NatsServer
from support.servers import hold_port

__all__ = ["NatsCluster", "connected", "kill", "nats_cluster", "nats_server", "nats_url", "until"]

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
            ports = [stack.enter_context(hold_port()) for _ in range(6)]
            cluster = cls(cls._nodes(directory, ports))
            # A node is ready for clients when it knows who leads: not before there are two.
            async with asyncio.TaskGroup() as group:
                for node in cluster.nodes.values():
                    stack.push_async_callback(node.close)
                    group.create_task(node.start())
            await cluster.healthy()
            yield cluster

    @staticmethod
    def _nodes(directory: Path, ports: list[int]) -> dict[str, NatsServer]:
        names = ("one", "two", "three")
        listen = [f"127.0.0.1:{port}" for port in ports[3:]]
        routes = [f"nats://{address}" for address in listen]
        nodes = {}
        for name, port, address in zip(names, ports[:3], listen, strict=True):
            cluster = {"name": "tests", "listen": address, "routes": routes}
            config = {"server_name": name, "cluster": cluster}
            nodes[name] = NatsServer(directory / name, port=port, config=config)
        return nodes

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
            loop.run_until_complete(kill(server))  # nobody needs what it would still write


@pytest.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    """A server of the test's own, with nothing in it."""
    with TemporaryDirectory() as directory, hold_port() as port:
        async with NatsServer(directory, port=port) as server:
            yield server


@pytest.fixture
async def nats_cluster() -> AsyncIterator[NatsCluster]:
    """A cluster of three of the test's own."""
    with TemporaryDirectory() as directory:
        async with NatsCluster.running(Path(directory)) as cluster:
            yield cluster

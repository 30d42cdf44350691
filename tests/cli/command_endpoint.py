"""An endpoint that answers each order as its id asks, in a thread."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: By the first letter of an order's id; all others are accepted.
STATUSES = {"r": 422, "u": 500, "n": 429}
PAGE = b"<!doctype html><title>Log in</title>"


class Endpoint(ThreadingHTTPServer):
    """Attributes:
    received: The order ids, as they came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @classmethod
    @contextmanager
    def serve(cls) -> Iterator[Endpoint]:
        """One that listens as long as the context lasts."""
        with cls() as endpoint:
            thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield endpoint
            finally:
                endpoint.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        order_id = order.get("order_id", "")
        self.server.received.append(order_id)
        is_page = order_id.startswith("h")
        body = PAGE if is_page else b'{"status": "success"}'
        self.send_response(STATUSES.get(order_id[:1], 200))
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def listening(
    tls: ssl.SSLContext | None = None, answer: bytes = b""
) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers what comes first, if anything, and then speaks TLS; what it got."""
    received: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        with connection:
            if answer:
                received.append(connection.recv(65_536))
                connection.sendall(answer)
            if tls is None:
                return
            try:
                with tls.wrap_socket(connection, server_side=True) as secure:
                    received.append(secure.recv(65_536))
            except OSError:  # it was not trusted, or the client went away
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.settimeout(10)
            handle(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], received
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()

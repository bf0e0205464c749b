"""`/metrics` and `/healthz` over HTTP.

Responsible for: the port, the threads that answer, and how many there may be. Must not know: what is counted.

Rules:
1. The port is taken before the node starts, so that a wrong one is an error at the start and not in the middle.
2. The event loop and the store thread are never waited for; a scrape waits `CENSUS_SECONDS` at most, a health check
   not at all.
3. Clients cost little: few at once, a few seconds each, and only two short requests are answered.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from disbatch_host.errors import UsageError
from disbatch_host.metrics.census import CensusTaker
from disbatch_host.metrics.counters import Metrics

CENSUS_SECONDS = 2.0  # Prometheus waits ten
CONNECTIONS_MAX = 16


class MetricsServer:
    """Serves what `metrics` counts and `census` knows, from `start` to `stop`."""

    def __init__(
        self, host: str, port: int, *, metrics: Metrics, census: CensusTaker, silent_client_seconds: float
    ) -> None:
        """Take the port. An empty host: every address of this machine. A connection that is silent for
        `silent_client_seconds` is closed. Raises UsageError if the port is not available."""
        self._census = census
        self._server = _Server(_bound(host, port), metrics, census, silent_client_seconds)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        address, own_port = self._server.socket.getsockname()[:2]
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{own_port}/metrics"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave the port. Stopping twice is fine."""
        self._census.stop()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _bound(host: str, port: int) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4][:2], family=found[0][0])
    except OSError as error:
        where = f"{host or 'all addresses'}, port {port}"
        if error.errno == errno.EADDRINUSE:
            why = "it is in use; another node on this machine? each needs a port of its own"
        elif isinstance(error, socket.gaierror):
            why = f"no such address: {error.strerror}"
        else:
            why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--metrics: {where} cannot be served: {why}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that is slow must not hold up the end of a node

    def __init__(
        self, listening: socket.socket, metrics: Metrics, census: CensusTaker, silent_client_seconds: float
    ) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.metrics = metrics
        self.census = census
        self.silent_client_seconds = silent_client_seconds
        self.one_scrape = threading.Lock()
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or talks nonsense, is not worth a message."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "disbatch-host"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(self.server.silent_client_seconds)
        super().setup()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            census = self.server.census.ask(CENSUS_SECONDS)
            with self.server.one_scrape:
                body, content_type = self.server.metrics.exposition(self.headers.get("Accept", ""), census)
            self._answer(HTTPStatus.OK, body, content_type)
        elif path == "/healthz":
            status, words = self._health()
            self._answer(status, words.encode(), "text/plain; charset=utf-8")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /metrics and /healthz\n", "text/plain; charset=utf-8")

    do_HEAD = do_GET

    def _health(self) -> tuple[HTTPStatus, str]:
        silent, bound = self.server.metrics.silent_seconds, self.server.metrics.dead_after_seconds
        if silent is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "the node has not started yet\n"
        loss = self.server.metrics.loss
        if loss is not None:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"the store is lost: {loss}\n"
        if silent > bound:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"the store was last reached {silent:.0f} s ago\n"
        return HTTPStatus.OK, "ok\n"

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: a line every few seconds is of no use to anyone."""

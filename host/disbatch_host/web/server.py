"""The process: its socket, its signals, and how it ends.

Responsible for: serving the application over HTTP/1.1 with uvicorn. Must not know: routes.

Rules:
1. A connection that sends nothing, or half a header, is closed after `HEADER_SECONDS`.
2. SIGTERM closes the door, and tells every stream at once; answers under way have `STOP_SECONDS`.
3. The address is taken before anything else, so that a wrong one is one line and exit code 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from disbatch_host.errors import UsageError
from disbatch_host.settings.forms import Address
from disbatch_host.web.guard import HEADER_BYTES

HEADER_SECONDS = 5.0
STOP_SECONDS = 10
_BACKLOG = 512
_SOCKET_MODE = 0o600


def bound(where: Address | Path) -> socket.socket:
    """A socket that listens there. Raises UsageError."""
    if isinstance(where, Path):
        return _bound_to_path(where)
    try:
        found = socket.getaddrinfo(where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "it is in use; another server?"
        elif isinstance(error, socket.gaierror):
            why = f"no such address: {error.strerror}"
        else:
            why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"--listen: {where.host or 'all addresses'}, port {where.port} cannot be served: {why}"
        ) from error


def _bound_to_path(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
                path.unlink()  # of a server that was killed
        before = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(f"--listen: unix:{path} cannot be served: {error.strerror or error}") from error
    return listening


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class _Protocol(H11Protocol):
    """Closes a connection whose request does not come (rule 1)."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            # Head and body of an answer are two writes: else the second waits 40 ms until the first has arrived.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch_header()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None:  # for an answer that cannot be completed
            self.scope["state"]["cut_off"] = self.transport.abort
        self._watch_header()

    def _watch_header(self) -> None:
        """Whatever comes of a header, it has so long from the moment when it could begin."""
        if self.conn.their_state is not h11.IDLE:
            self._forget_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpServer(uvicorn.Server):
    """Serves an application until SIGTERM or SIGINT, or `stop`. `on_stop` is called then, in the event loop's thread;
    `on_started` once requests are answered."""

    def __init__(self, app: Any, *, on_stop: Callable[[], object], on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=STOP_SECONDS,
            timeout_keep_alive=int(HEADER_SECONDS),
        )  # fmt: skip
        super().__init__(config)
        self._on_stop = on_stop
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not what it does there: it would send the signal again once it has stopped, and a stop is no failure.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.stop()

    def stop(self) -> None:
        self._on_stop()
        self.should_exit = True

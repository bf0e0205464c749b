"""Many readers of streams of one server, in a thread that does nothing else: what they get is counted, not looked at.

Must not know: what is measured.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Self

_BLOCK = 2**18
_LOOK_SECONDS = 0.05
_BUFFER = 4096  # of the slow one; the kernel doubles it
_GAP = b"event: gap"


class Readers:
    """Within the block they read; the slow one, if there is one, 1,000 bytes a second."""

    def __init__(self, port: int, paths: list[str], *, slow: str | None = None) -> None:
        """`paths`: one reader each. Twenty at most are one user, as the server allows."""
        self._selector = selectors.DefaultSelector()
        self._sockets = [_open(port, path, f"user{number // 20}") for number, path in enumerate(paths)]
        self._slow = None if slow is None else _open(port, slow, "slow", buffer=_BUFFER)
        self.slow_has_gap = False
        self._seen = b""  # the last that the slow one has seen
        self._is_hurrying = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="readers", daemon=True)
        self.bytes: dict[int, int] = {}  # by reader, by number
        self.gaps = 0  # of those who are not slow

    def __enter__(self) -> Self:
        for number, one in enumerate(self._sockets):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ, number)
        if self._slow is not None:
            self._slow.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for one in (*self._sockets, *(() if self._slow is None else (self._slow,))):
            one.close()
        self._selector.close()

    def wait_for_all(self, within_seconds: float) -> None:
        """Until each has got something."""
        deadline = time.monotonic() + within_seconds
        while len(self.bytes) < len(self._sockets):
            assert time.monotonic() < deadline, f"{len(self.bytes)} of {len(self._sockets)} readers got anything"
            time.sleep(_LOOK_SECONDS)

    def _read(self) -> None:
        slow_at = time.monotonic()
        while not self._is_over.is_set():
            for key, _ in self._selector.select(_LOOK_SECONDS):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(_BLOCK)
                if not data:
                    self._selector.unregister(key.fileobj)
                    continue
                self.bytes[key.data] = self.bytes.get(key.data, 0) + len(data)
                self.gaps += data.count(_GAP)
            if self._slow is not None and time.monotonic() > slow_at:
                slow_at = time.monotonic() + (0.0 if self._is_hurrying.is_set() else 1.0)
                with contextlib.suppress(BlockingIOError):
                    data = self._slow.recv(_BLOCK if self._is_hurrying.is_set() else 1000)
                    self.slow_has_gap = self.slow_has_gap or _GAP in self._seen + data
                    self._seen = data[-len(_GAP) :]

    def wait_for_gap(self, within_seconds: float) -> None:
        """The slow one reads on, as fast as it can, until it comes to its gap."""
        self._is_hurrying.set()
        deadline = time.monotonic() + within_seconds
        while not self.slow_has_gap:
            assert time.monotonic() < deadline, "the slow reader was not told what it has missed"
            time.sleep(_LOOK_SECONDS)


def _open(port: int, path: str, user: str, *, buffer: int | None = None) -> socket.socket:
    one = socket.socket()
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.settimeout(60)
    one.connect(("127.0.0.1", port))
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-User: {user}\r\n\r\n".encode())
    return one

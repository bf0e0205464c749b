"""The network between a node and its database: a forwarder on a port of its own that can be cut as networks are."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

_BLOCK = 2**16
_LOOK_SECONDS = 0.05  # how soon the thread sees that something else is wanted of it


class Proxy:
    """Forwards every connection to `target` of this machine. Its ways to fail may be called from any thread, and hold
    for the connections that there are as well as for new ones."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._from_target: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_refusing = False
        self._is_black_hole = False
        self._cut_answers = 0  # of so many of the next answers that matter only the beginning arrives
        self._cut_after: bytes = b""
        self.answers_cut = 0
        self.noticed = 0  # how often somebody has run into `refuse` or `swallow`
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="proxy", daemon=True)

    def drop_all(self) -> None:
        """Every connection ends now, as when a firewall restarts."""
        with self._lock:
            for one in [*self._from_target]:
                self._close(one)

    def refuse(self) -> None:
        """As `drop_all`, and new connections are closed at once."""
        with self._lock:
            self._is_refusing = True
        self.drop_all()

    def swallow(self) -> None:
        """A black hole: connections are accepted and kept, nothing comes through in either direction."""
        with self._lock:
            self._is_black_hole = True

    def cut_answers(self, count: int, *, to: bytes) -> None:
        """The next `count` times that a request with `to` in it has gone through, a few bytes of the answer come back
        and the connection ends: the server has done it, and nobody hears of it."""
        with self._lock:
            self._cut_answers, self._cut_after, self.answers_cut = count, to, 0

    def mend(self) -> None:
        """Everything comes through again. What was swallowed is gone, and with it the connections that waited."""
        with self._lock:
            was_black_hole, self._is_black_hole, self._is_refusing, self._cut_answers = (
                self._is_black_hole, False, False, 0,
            )  # fmt: skip
        if was_black_hole:
            self.drop_all()

    def _work(self) -> None:
        marked: set[socket.socket] = set()  # connections to the target whose next answer is cut
        while not self._is_closed.is_set():
            for key, _ in self._selector.select(_LOOK_SECONDS):
                with self._lock:
                    if key.data is None:
                        self._accept()
                    elif key.fileobj in self._peers:
                        self._forward(key.fileobj, marked)  # type: ignore[arg-type]
        with self._lock:
            for one in [*self._from_target]:
                self._close(one)
            self._selector.close()
            self._listener.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._is_refusing:
            self.noticed += 1
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=2)
        except OSError:
            client.close()  # nobody is there
            return
        for one, other in ((client, server), (server, client)):
            one.settimeout(10)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ, one)
        self._from_target.add(server)

    def _forward(self, source: socket.socket, marked: set[socket.socket]) -> None:
        destination = self._peers[source]
        try:
            data = source.recv(_BLOCK)
            if data and self._is_black_hole:
                self.noticed += 1
            elif data:
                if source in marked:
                    marked.discard(source)
                    self.answers_cut += 1
                    destination.sendall(data[: len(data) // 2])
                    data = b""
                else:
                    if source not in self._from_target and self._cut_answers and self._cut_after in data:
                        self._cut_answers -= 1
                        marked.add(destination)
                    destination.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(source)

    def _close(self, one: socket.socket) -> None:
        other = self._peers.pop(one, None)
        for each in (one, other):
            if each is not None:
                self._peers.pop(each, None)
                self._from_target.discard(each)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        self._thread.join(10)

"""Nodes without the third of a second in which Python starts and loads what a node needs: a process has loaded all of
it, and is copied for each node that a test starts.

A copy is a process like any other: with a session, a working directory, an environment and descriptors of its own. What
it lacks is its own command line and first environment in /proc, so a test that is about these starts its node afresh,
as does one that runs it through another command; with DISBATCH_TESTS_AS_PROCESS=1 all do.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_LONGEST_REQUEST = 1 << 17
_IS_ALLOWED = os.environ.get("DISBATCH_TESTS_AS_PROCESS") != "1"


class Started(Protocol):
    """A process that a test has started: what `subprocess.Popen` and a copy have in common."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start_node(
    options: Sequence[str],
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
    pace: Mapping[str, float] | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Started | None:
    """A node with these options of the command line and what its pace has of its own, which writes to the files; in
    this process's directory and environment unless told otherwise. None where nodes are to be started afresh."""
    if not _IS_ALLOWED:
        return None
    node = {"options": list(options), "pace": pace and dict(pace), "environment": dict(environment or os.environ)}
    here = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _origin().copy(node, [stdout.fileno(), stderr.fileno(), here])
    finally:
        os.close(here)


def end() -> None:
    """To be called when the tests have ended; it costs nothing where no node was started."""
    if _origin.cache_info().currsize:
        _origin().end()
        _origin.cache_clear()


class Copy:
    """A node that is a child of the origin, for the process that asked for it."""

    def __init__(self, origin: _Origin, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._origin = origin
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"node of pid {self.pid}", timeout or 0)
        return code

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and _is_readable(self._pidfd, seconds):
            self.returncode = self._origin.exit_code_of(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _is_readable(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


class _Origin:
    """The process that is copied; it ends with the process that has started it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "helpers.forked", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def copy(self, node: Mapping[str, Any], descriptors: Sequence[int]) -> Copy:
        """`descriptors`: those of its stdout, stderr and directory."""
        socket.send_fds(self._socket, [json.dumps(node).encode()], descriptors)
        return Copy(self, self._answer())

    def exit_code_of(self, pid: int) -> int:
        """Of one that has ended."""
        self._socket.send(json.dumps({"ended": pid}).encode())
        return self._answer()

    def end(self) -> None:
        self._socket.close()
        self._process.wait()

    def _answer(self) -> int:
        answer = self._socket.recv(100)
        assert answer, "the process that nodes are copied from has ended"
        return int(answer)


@functools.cache
def _origin() -> _Origin:
    return _Origin()


def _next_node(requests: socket.socket) -> dict[str, Any] | None:
    """In the origin: None when nobody asks any more. In a copy: what it is to be."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
        if not message:
            return None
        request: dict[str, Any] = json.loads(message)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif answer := os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            stdout, stderr, directory = descriptors
            os.setsid()
            os.fchdir(directory)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.closerange(min(descriptors), max(descriptors) + 1)
            return request
        requests.send(str(answer).encode())


def _be(request: dict[str, Any]) -> int:
    from disbatch_host.cli.main import main
    from helpers import paced_node

    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = ["disbatch-host", *request["options"]]
    if request["pace"] is not None:
        return paced_node.main(json.dumps(request["pace"]), request["options"])
    main()
    return 0


def _serve(descriptor: int) -> int:
    # All that a node on either store loads, and nothing that it begins: no thread, no event loop.
    import jsonschema  # noqa: F401

    import disbatch_host.cli.commands.run
    import disbatch_host.node.node
    import disbatch_host.store.mongo.store
    import disbatch_host.store.sqlite.store  # noqa: F401
    from helpers import paced_node  # noqa: F401

    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        request = _next_node(requests)
    return 0 if request is None else _be(request)


if __name__ == "__main__":
    sys.exit(_serve(int(sys.argv[1])))

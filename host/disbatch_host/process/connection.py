"""A connection to disbatch-supervisor: to one of this process's own over a socket pair, or to the one in a directory.

Responsible for: frames on a socket without ever waiting, starting the program, finding it, who the other side is. Must
not know: what the frames mean, when a supervisor is needed.

Rules:
1. Neither side ever waits in a send: where the socket takes no more, the rest goes with `receive`, which reads as well.
2. Socket calls go through a descriptor of the directory: its path may be longer than the address of a socket may be.
3. The program is the one of this package, by its path, never by a search.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from disbatch_host.process.frames import Frame, SupervisorBye, SupervisorHello
from disbatch_host.process.framing import FrameReader, encode
from disbatch_host.process.link import LinkClosedError

SOCKET = "socket"  # the names in the directory
KEY = "key"
ENDS = "ends"
LOCK = "supervisor.lock"
READ_SIZE = 2**18
RECEIVE_MAX = 2**22  # bytes that one `receive` takes at most: the caller has other things to do
START_SECONDS = 10.0  # for the program to listen, or to say why not
END_SECONDS = 10.0  # for a supervisor to kill its runs and end

_PEER = struct.Struct("3i")  # pid, uid, gid


class SupervisorError(Exception):
    """The program is not there, or does not work here; the message says why."""


class SocketLink:
    """See `link.Link`."""

    def __init__(
        self, connection: socket.socket, process: subprocess.Popen[bytes] | None = None, *, pid: int = 0
    ) -> None:
        """`process`: a supervisor that ends with this connection; it is waited for in `close`. `pid`: of another."""
        connection.setblocking(False)
        self.keeps_output = process is None  # for the next node
        self._socket = connection
        self._process = process
        self.pid = pid if process is None else process.pid
        # Of the other side, if that outlives the connection: only it tells whether that has ended.
        self._pidfd = os.pidfd_open(pid) if pid else -1
        self._reader = FrameReader()
        self._poll = select.epoll()
        self._poll.register(connection, select.EPOLLIN)
        self._out = bytearray()
        self._waits_to_write = False
        self._last_words = ""
        self._is_closed = False

    def fileno(self) -> int:
        return self._poll.fileno()

    def send(self, frame: Frame) -> None:
        self._out += encode(frame)

    def flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                break
            except OSError:
                self._out.clear()  # `receive` finds the end, behind what the other side has said last
                break
            del self._out[:sent]
        self._watch_writing(bool(self._out))

    def receive(self) -> list[Frame]:
        self.flush()
        frames: list[Frame] = []
        received = 0
        while received < RECEIVE_MAX:
            try:
                data = self._socket.recv(READ_SIZE)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                if frames:
                    break  # these first; the next call says that it is over
                raise LinkClosedError(self._last_words or "the supervisor closed the connection")
            received += len(data)
            for frame in self._reader.feed(data):
                if isinstance(frame, SupervisorBye):
                    self._last_words = frame.words.decode("utf-8", "replace")
                frames.append(frame)
            if len(data) < READ_SIZE:
                break
        return frames

    @property
    def is_peer_gone(self) -> bool:
        """Whether the process that answers has ended: the end of the connection does not tell."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def due_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.hang_up()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is stopped, or not even a kill ends its runs
                self._process.wait(END_SECONDS)

    def hang_up(self) -> None:
        """End the connection, without waiting for anybody. Twice is fine."""
        self._poll.close()
        self._socket.close()

    def _watch_writing(self, waits: bool) -> None:
        if waits != self._waits_to_write:
            self._waits_to_write = waits
            self._poll.modify(self._socket, select.EPOLLIN | (select.EPOLLOUT if waits else 0))


def program_path() -> Path:
    """Where this package has the program, whether or not it is there."""
    return Path(__file__).parent / "native" / "bin" / "disbatch-supervisor"


def why_not_usable(program: Path | None = None) -> str | None:
    """Why the program cannot be used on this machine, in words; None if it can. Runs it."""
    program = program_path() if program is None else program
    if not program.exists():
        return "this installation has no disbatch-supervisor (it had no C compiler)"
    try:
        done = subprocess.run([program, "--self-test"], capture_output=True, timeout=START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} cannot be executed: {error}"
    return None if done.returncode == 0 else _words(done.stderr) or f"{program} ended with {done.returncode}"


def fingerprint(program: Path | None = None) -> bytes:
    """What a program inherits from this process now, to be compared with `SupervisorHello.fingerprint`; in the same
    words, since the program says it of itself as well. Raises SupervisorError."""
    return _run(program_path() if program is None else program, "--fingerprint")


def is_as_now(hello: SupervisorHello, program: Path | None = None) -> bool:
    """Whether a supervisor is this program, and what it inherited is what this process has now. Raises
    SupervisorError."""
    own = _run(program_path() if program is None else program, "--version")
    return own.split()[-1:] == [hello.program_hash] and fingerprint(program) == hello.fingerprint


def paired(program: Path | None = None, *, environment: Mapping[str, str] | None = None) -> SocketLink:
    """A supervisor of this process's own: it ends, and its runs are killed, with the link. `environment`: its own, not
    that of its programs; by default it knows nothing of this process's. Raises SupervisorError."""
    if environment is None:
        environment = _environment()
    own, other = socket.socketpair()
    try:
        process = subprocess.Popen(
            [program_path() if program is None else program, "--connection", str(other.fileno())],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            # An interrupt typed at the terminal is not meant for it; but in this process's session, like all that it
            # starts for itself: children in others are what runs have left.
            process_group=0,
        )
    except OSError as error:
        own.close()
        raise SupervisorError(f"disbatch-supervisor cannot be executed: {error}") from error
    finally:
        other.close()
    return SocketLink(own, process)


def start_in(directory: Path, program: Path | None = None, *, environment: Mapping[str, str] | None = None) -> None:
    """Start a supervisor that outlives this process, and return once it listens in `directory`. `environment`: see
    `paired`. Raises SupervisorError, also where one lives there already."""
    program = program_path() if program is None else program
    _run(program, "--directory", str(directory), environment=_environment() if environment is None else environment)


def connect_in(directory: Path) -> tuple[SocketLink, bytes, int]:
    """The supervisor in a directory: a link, the key to say in HELLO, and its pid. Raises SupervisorError if another
    user answers, OSError (FileNotFoundError, ConnectionRefusedError, ...) if nobody does."""
    with _opened(directory) as descriptor:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
            pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if uid not in (os.geteuid(), 0) or pid == 0:
                raise SupervisorError(
                    f"process {pid} of user {uid} listens in {directory}: expected a supervisor of ours"
                )
            key = _read_in(descriptor, KEY)
        except BaseException:
            connection.close()
            raise
    return SocketLink(connection, pid=pid), key, pid


def connect_or_start(directory: Path, program: Path | None = None) -> tuple[SocketLink, bytes, int]:
    """See `connect_in`; one is started where there is none. A connection may meet one that is just ending: then this
    starts over. Raises SupervisorError and OSError."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return connect_in(directory)
        except (FileNotFoundError, ConnectionRefusedError):
            try:
                start_in(directory, program)
            except SupervisorError:
                if time.monotonic() > until:
                    raise


def is_inhabited(directory: Path) -> bool:
    """Whether a supervisor lives in a directory, whether it answers or not: it holds a lock as long as it lives."""
    try:
        lock = os.open(directory / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def read_ends(directory: Path) -> list[Frame]:
    """What earlier supervisors wrote of runs whose end nobody acknowledged: for each, the frames that a new connection
    would have heard. Raises FrameError."""
    try:
        with _opened(directory) as descriptor:
            data = _read_in(descriptor, ENDS)
    except FileNotFoundError:
        return []
    return list(FrameReader().feed(data))


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_in(directory: int, name: str) -> bytes:
    return Path(f"/proc/self/fd/{directory}/{name}").read_bytes()


def _environment() -> dict[str, str]:
    """Of a supervisor: what is in this process's may be secret, and it can be read for a moment."""
    return {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}


def _run(program: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Its stdout. Raises SupervisorError."""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, timeout=START_SECONDS, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SupervisorError(f"{program} cannot be executed: {error}") from error
    if done.returncode != 0:
        raise SupervisorError(_words(done.stderr) or f"{program} ended with {done.returncode}")
    return done.stdout


def _words(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip().removeprefix("disbatch-supervisor: ")

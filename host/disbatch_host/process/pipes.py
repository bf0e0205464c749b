"""The pipes between this host and one program: its stdin as it reads, its output in blocks.

Responsible for: writing without ever blocking, reporting truly how much the program has not read, reading what is
there. Must not know: which program it is, what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios

from disbatch_host.process.frames import Output
from disbatch_host.process.interface import Account
from disbatch_host.process.watching import Watching

PIPE_SIZE = 2**16  # bytes that a pipe holds by default
READ_SIZE = PIPE_SIZE  # bytes per read
BUSY_PIPE_SIZE = 2**20  # bytes; a stream that keeps its pipe full gets a larger one (the kernel's limit for users)


class StdinPipe:
    """This host's end of a program's stdin; nothing is written if the descriptor is below 0."""

    def __init__(self, descriptor: int, watching: Watching) -> None:
        self._descriptor = descriptor
        self._watching = watching
        self._to_write = memoryview(b"")
        self._close_when_written = False
        self._is_watched = False
        self._is_refused = False  # the program ended, or closed it, before it had read everything
        self.left_bytes = 0  # of those, not read when it ended or closed its stdin

    @property
    def is_refused(self) -> bool:
        """Whether it ended, or closed its stdin, before everything was written to it; a pipe takes some in any case."""
        return self._is_refused

    def write(self, data: bytes, *, close: bool) -> None:
        """Write as the program reads, then close it if asked to. Returns at once."""
        if self._descriptor < 0:
            self._is_refused = self._is_refused or bool(data)
            return
        self._to_write = memoryview(bytes(self._to_write) + data) if self._to_write else memoryview(data)
        self._close_when_written = close
        self._on_writable()  # most documents fit into the pipe at once
        if self._descriptor >= 0 and self._to_write and not self._is_watched:
            self._is_watched = True
            self._watching.writable(self._descriptor, self._on_writable)

    @property
    def is_waiting(self) -> bool:
        """Whether the program has to read before the rest can be written."""
        return bool(self._to_write)

    @property
    def unread_bytes(self) -> int:
        """How many bytes the program has not read by now; once it has ended or closed its stdin, `left_bytes`."""
        return self.left_bytes if self._descriptor < 0 else _unread(self._descriptor) + len(self._to_write)

    def end(self) -> None:
        """The program ended."""
        if self._to_write:
            self._is_refused = True
        if self._descriptor >= 0:
            self.left_bytes = _unread(self._descriptor) + len(self._to_write)
            self._close()

    def _on_writable(self) -> None:
        try:
            while self._to_write:
                self._to_write = self._to_write[os.write(self._descriptor, self._to_write) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            # The program does not want its stdin; that is allowed (plugin contract).
            self._is_refused = True
            self.left_bytes = _unread(self._descriptor) + len(self._to_write)
            self._close()
            return
        self._forget()
        if self._close_when_written:
            self._close()

    def _forget(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._watching.forget(self._descriptor)

    def _close(self) -> None:
        self._forget()
        os.close(self._descriptor)
        self._descriptor = -1
        self._to_write = memoryview(b"")


class OutputPipe:
    """This host's end of one stream that a program writes to."""

    __slots__ = ("_is_large", "descriptor", "is_watched", "offset", "stream")

    def __init__(self, stream: Output, descriptor: int) -> None:
        self.stream = stream
        self.descriptor = descriptor  # below 0 once it is closed
        self.offset = 0  # bytes read so far
        self.is_watched = False
        self._is_large = False

    def read(self) -> bytes | None:
        """A block; b"" at the end; None if there is nothing now."""
        try:
            return os.read(self.descriptor, READ_SIZE)
        except BlockingIOError:
            return None

    def enlarge(self) -> None:
        """The program keeps it full."""
        if not self._is_large:
            self._is_large = True
            # Fails if the user's share of pipe memory is used up; the usual size works as well, only slower.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, BUSY_PIPE_SIZE)

    def close(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1


def open_pipes(
    account: Account | None, *, has_stdin: bool = True
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Pipes for 0 to 3: this host's ends (never blocking) and those of the child, which will run as `account`. Without
    `has_stdin`, 0 is /dev/null, and this host's end of it is -1."""
    opened: list[int] = []
    try:
        for number in range(4):
            if number == 0 and not has_stdin:
                opened += (-1, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
                continue
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            # Written first where the host writes, so that both tuples are in the order of the descriptors.
            opened += (write_end, read_end) if number == 0 else (read_end, write_end)
            os.set_blocking(opened[-2], False)
            if account is not None:
                # After a change of user, only the owner of the pipe can open /dev/stdout and /dev/fd/3.
                os.fchown(opened[-1], account.uid, account.gid)
    except BaseException:
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)
        raise
    return (
        (opened[0], opened[2], opened[4], opened[6]),
        (opened[1], opened[3], opened[5], opened[7]),
    )


def _unread(descriptor: int) -> int:
    """How many unread bytes a pipe holds."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0

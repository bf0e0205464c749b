"""One child process from its start to its end: pipes, deadlines, signals, and what is left of its group.

Responsible for: feeding stdin while reading everything else, stopping on time, telling truly how it ended, leaving no
process of its group behind. Must not know: tasks, plugins, what the bytes mean.

Rules:
1. Everything happens in the thread of the event loop; nothing here blocks.
2. Reading is in blocks, whatever the lines; writing goes on beside reading, so neither side can hang; a program that
   does not read its stdin loses nothing.
3. Signals go to the process group. The first process is reaped last, after the final kill of its group: as long as it
   is a zombie its number, and with it the group's, cannot be given to anybody else.
4. The end of the first process is the end of the run. A background child that holds the pipes gets `DRAIN_SECONDS`
   more, then the group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import signal
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass, field

from disbatch_host.process.interface import Command, Deadlines, ProcessEnd, StartError, StopReason, Stream
from disbatch_host.process.poller import Poller
from disbatch_host.process.spawner import Spawner

PIPE_SIZE = 2**16  # bytes that a pipe holds by default
READ_SIZE = PIPE_SIZE  # bytes a read
BUSY_PIPE_SIZE = 2**20  # bytes; a stream that keeps its pipe full gets a larger one (the kernel's limit for users)
LOOK_SECONDS = 0.05  # between two looks at a process that no descriptor tells of
DRAIN_SECONDS = 2.0  # plugin contract: for how long a background child may hold the output


@dataclass(slots=True)
class _Pipe:
    stream: Stream
    descriptor: int
    is_large: bool = field(default=False)


class Child:
    """A program that runs. Made by `Child.start`; calls `receive` with what it writes, `closed` for a stream that
    it has closed (which may be the beginning of its end), and `ended` once."""

    def __init__(
        self,
        command: Command,
        deadlines: Deadlines,
        poller: Poller,
        spawner: Spawner,
        *,
        receive: Callable[[Stream, bytes], None],
        ended: Callable[[ProcessEnd], None],
        closed: Callable[[Stream], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._deadlines = deadlines
        self._poller = poller
        self._spawner = spawner
        self._receive = receive
        self._ended = ended
        self._closed = closed
        self.pid = 0
        self._pidfd = -1
        self._stdin = -1
        self._to_write = memoryview(b"")
        self._close_stdin_when_written = False
        self._is_stdin_watched = False
        self._stdin_unread = False
        self._stdin_bytes = 0  # all that it was to be given
        self._stdin_left_bytes = 0
        self._pipes: dict[int, _Pipe] = {}
        self._last_activity = 0.0
        self._idle_limit: float | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._stopped: StopReason | None = None
        self._killed = False
        self._leader_status: tuple[int, int] | None = None  # (si_code, si_status) once it has ended
        self._is_over = False

    async def start(self) -> None:
        """Start the program. Raises StartError, with nothing left open, where it cannot be."""
        async with self._spawner.turn:
            try:
                host_side, child_side = _open_pipes(self._command)
            except OSError as error:
                raise StartError(f"cannot make pipes for it: {error.strerror}", errno=error.errno) from error
            try:
                self.pid = await self._spawner.spawn(self._command, child_side)
            except BaseException:
                for descriptor in host_side:
                    os.close(descriptor)
                raise
        self._stdin = host_side[0]
        for descriptor, stream in zip(host_side[1:], Stream, strict=True):
            self._pipes[descriptor] = pipe = _Pipe(stream, descriptor)
            self._poller.watch_readable(descriptor, functools.partial(self._on_readable, pipe))
        self._watch_leader()
        self.limit(self._deadlines)

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended."""
        return self._leader_status is None

    @property
    def stopped(self) -> StopReason | None:
        """Why this host stops it, where it does."""
        return self._stopped

    def limit(self, deadlines: Deadlines) -> None:
        """From now on these are its deadlines, counted from now; those before are void. For a process that does one
        thing after another."""
        self._deadlines = deadlines
        for timer in (self._timeout_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._last_activity = self._loop.time()
        if deadlines.timeout_seconds is not None:
            self._timeout_timer = self._loop.call_later(deadlines.timeout_seconds, self.stop, StopReason.TIMEOUT)
        self._idle_limit = deadlines.idle_timeout_seconds
        if self._idle_limit is not None:
            self._watch_idleness()

    # --- stdin

    def close_stdin(self) -> None:
        """End of file for its stdin, after everything that is still to be written."""
        self.write(b"", close=True)

    def write(self, data: bytes, *, close: bool) -> None:
        """Write to the program's stdin as it reads, then close it if asked to. Returns at once."""
        self._stdin_bytes += len(data)
        if self._stdin < 0:
            self._stdin_unread = self._stdin_unread or bool(data)
            return
        self._to_write = memoryview(bytes(self._to_write) + data) if self._to_write else memoryview(data)
        self._close_stdin_when_written = close
        self._on_writable()  # most documents fit into the pipe at once
        if self._stdin >= 0 and self._to_write and not self._is_stdin_watched:
            self._is_stdin_watched = True
            self._poller.watch_writable(self._stdin, self._on_writable)

    def _on_writable(self) -> None:
        try:
            while self._to_write:
                self._to_write = self._to_write[os.write(self._stdin, self._to_write) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            # It does not want its stdin; that is its right (plugin contract).
            self._stdin_unread = True
            self._stdin_left_bytes = _unread(self._stdin) + len(self._to_write)
            self._close_stdin()
            return
        self._forget_stdin()
        if self._close_stdin_when_written:
            self._close_stdin()

    def _forget_stdin(self) -> None:
        if self._is_stdin_watched:
            self._is_stdin_watched = False
            self._poller.forget(self._stdin)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._forget_stdin()
            os.close(self._stdin)
            self._stdin = -1
            self._to_write = memoryview(b"")

    # --- stdout, stderr, events

    def _on_readable(self, pipe: _Pipe) -> None:
        data = _read(pipe.descriptor)
        if data is None:
            return
        if not data:
            self._close_pipe(pipe)
            if self._closed is not None and not self._is_over:
                self._closed(pipe.stream)
            self._finish_when_drained()
            return
        if len(data) == READ_SIZE and not pipe.is_large:
            pipe.is_large = True
            _enlarge(pipe.descriptor)
        self._last_activity = self._loop.time()
        self._receive(pipe.stream, data)

    def _close_pipe(self, pipe: _Pipe) -> None:
        del self._pipes[pipe.descriptor]
        self._poller.forget(pipe.descriptor)
        os.close(pipe.descriptor)

    def read_output(self) -> None:
        """Read now what is in stdout and stderr: all that was written before something else was heard."""
        self._read_what_is_there(Stream.STDOUT, Stream.STDERR)

    def _read_what_is_there(self, *streams: Stream) -> None:
        """All that is in the pipes now: at most what they hold, so that a busy background child cannot keep us."""
        for pipe in [one for one in self._pipes.values() if not streams or one.stream in streams]:
            for _ in range(BUSY_PIPE_SIZE // READ_SIZE + 1):
                data = _read(pipe.descriptor)
                if data is None:
                    break
                if not data:
                    self._close_pipe(pipe)
                    break
                self._receive(pipe.stream, data)

    # --- stopping

    def stop(self, reason: StopReason) -> None:
        """Stop it: the stop signal to its group now, SIGKILL after the grace. The first reason stays. Does nothing
        once the first process has ended: then it was not this call that stopped it."""
        if self._stopped is not None or self._leader_status is not None or self.pid == 0:
            return
        self._stopped = reason
        self._signal_group(self._deadlines.stop_signal)
        self._kill_timer = self._loop.call_later(self._deadlines.kill_grace_seconds, self.kill, reason)

    def kill(self, reason: StopReason) -> None:
        """SIGKILL to its group, now."""
        if self._leader_status is not None or self.pid == 0:
            return
        self._stopped = self._stopped or reason
        self._killed = True
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # nobody is left in it
        except PermissionError:
            # Every process of the group has become another user's (a set-uid program); only root could do more.
            pass

    def _watch_idleness(self) -> None:
        assert self._idle_limit is not None
        quiet_seconds = self._loop.time() - self._last_activity
        if quiet_seconds >= self._idle_limit:
            self.stop(StopReason.IDLE_TIMEOUT)
        else:  # one timer a run, looked at again when the silence could have become long enough
            self._idle_timer = self._loop.call_later(self._idle_limit - quiet_seconds, self._watch_idleness)

    # --- the end

    def _watch_leader(self) -> None:
        """Hear of the end of the first process: by a pidfd, or by looking now and then where there is none. It runs
        already, so the want of a descriptor must not lose it."""
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._look_at_leader()
        else:
            self._poller.watch_readable(self._pidfd, self._on_leader_end)

    def _look_at_leader(self) -> None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._loop.call_later(LOOK_SECONDS, self._look_at_leader)
        else:
            self._on_leader_end()

    def _on_leader_end(self) -> None:
        if self._pidfd >= 0:
            self._poller.forget(self._pidfd)
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # rule 3: look, do not reap
        assert result is not None
        self._leader_status = (result.si_code, result.si_status)
        self._cancel_timers()
        if self._to_write:
            self._stdin_unread = True
        if self._stdin >= 0:
            self._stdin_left_bytes = _unread(self._stdin) + len(self._to_write)
            self._close_stdin()
        self._read_what_is_there()
        if self._pipes:
            self._drain_timer = self._loop.call_later(DRAIN_SECONDS, self._finish)
        else:
            self._finish()

    def _finish_when_drained(self) -> None:
        if not self._pipes and self._leader_status is not None:
            self._finish()

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        held_open = bool(self._pipes)
        self._signal_group(signal.SIGKILL)
        self._read_what_is_there()
        for pipe in list(self._pipes.values()):
            self._close_pipe(pipe)
        self._cancel_timers()
        _, status, usage = os.wait4(self.pid, 0)  # the leader is a zombie: returns at once
        if self._pidfd >= 0:
            os.close(self._pidfd)
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        self._ended(
            ProcessEnd(
                exit_code=None if died_of is not None else os.waitstatus_to_exitcode(status),
                signal=died_of,
                stopped=self._stopped,
                killed=self._killed,
                stdin_unread=self._stdin_unread and self._stdin_bytes > PIPE_SIZE,
                stdin_left_bytes=self._stdin_left_bytes,
                output_held_open=held_open,
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                peak_memory_bytes=usage.ru_maxrss * 1024,
            )
        )

    def _cancel_timers(self) -> None:
        for timer in (self._drain_timer, self._timeout_timer, self._idle_timer, self._kill_timer):
            if timer is not None:
                timer.cancel()


def _open_pipes(command: Command) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Pipes for 0 to 3: the ends of this host (never blocking) and those of the child."""
    opened: list[int] = []
    try:
        for number in range(4):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            # Written first where the host writes, so that both tuples come out in the order of the descriptors.
            opened += (write_end, read_end) if number == 0 else (read_end, write_end)
            os.set_blocking(opened[-2], False)
            if command.account is not None:
                # After a change of user /dev/stdout and /dev/fd/3 can be opened only by the owner of the pipe.
                os.fchown(opened[-1], command.account.uid, command.account.gid)
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return (
        (opened[0], opened[2], opened[4], opened[6]),
        (opened[1], opened[3], opened[5], opened[7]),
    )


def _read(descriptor: int) -> bytes | None:
    """A block, b"" at the end, None where nothing is there now."""
    try:
        return os.read(descriptor, READ_SIZE)
    except BlockingIOError:
        return None


def _unread(descriptor: int) -> int:
    """How many bytes wait in a pipe for whoever reads it."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0


def _enlarge(descriptor: int) -> None:
    # Fails where the user's share of pipe memory is used up; the usual size works as well, only slower.
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BUSY_PIPE_SIZE)

"""One child of this process from start to end: pipes, deadlines, signals, and the remaining processes of its group.

Responsible for: feeding stdin while reading everything else, stopping on time, reporting truly how it ended, leaving no
process of its group behind. Must not know: tasks, plugins, what the bytes mean.

Rules:
1. Everything happens in the thread of the event loop; nothing here blocks.
2. Reading is in blocks, whatever the lines; writing continues beside reading, so neither side can hang; a program that
   does not read its stdin loses nothing.
3. Signals go to the process group. The first process is reaped last, after the final kill of its group: as long as it
   is a zombie its number, and with it the group's, cannot be given to another process.
4. The end of the first process is the end of the run. A background child that holds the pipes gets `drain_seconds`
   more, then the group is killed.
5. Descriptor 3 is a different pipe from the output: between reading an event line and reporting it, everything that
   stdout and stderr hold is read and reported. So everything that was written before the line comes before it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping

from disbatch_host.process import facts
from disbatch_host.process.interface import (
    Deadlines,
    ProcessEnd,
    ProcessListener,
    Start,
    StartError,
    StopReason,
    Stream,
    Usage,
)
from disbatch_host.process.pipes import BUSY_PIPE_SIZE, READ_SIZE, OutputPipe, StdinPipe, open_pipes
from disbatch_host.process.poller import Poller
from disbatch_host.process.spawner import Spawner

LOOK_SECONDS = 0.05  # between two looks at a process that has no pidfd


class Child:
    """A `Process` of this host's own. `start` starts it; nothing is open before that."""

    def __init__(
        self,
        run: int,
        start: Start,
        listener: ProcessListener,
        poller: Poller,
        spawner: Spawner,
        *,
        drain_seconds: float,
        on_forgotten: Callable[[int], object],
    ) -> None:
        self._drain_seconds = drain_seconds
        self.run = run
        self.note = start.note
        self.pid = 0
        self._start = start
        self._listener = listener
        self._poller = poller
        self._spawner = spawner
        self._on_forgotten = on_forgotten
        self._loop = asyncio.get_running_loop()
        self._deadlines = start.deadlines
        self._pidfd = -1
        self._stdin: StdinPipe | None = None
        self._outputs: tuple[OutputPipe, ...] = ()
        self._open_outputs = 0
        self._last_activity = 0.0
        self._idle_limit: float | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._pid_started: int | None = None
        self._memory: facts.ProcessMemory | None = None
        self._cpu_seconds_before = 0.0  # the CPU time used up to the last `hand_over`
        self._stopped: StopReason | None = None
        self._stop_sent_at: float | None = None
        self._killed_after_seconds: float | None = None  # once SIGKILL was decided on
        self._leader_status: tuple[int, int] | None = None  # (si_code, si_status) once it has ended
        self._is_over = False

    async def start(self) -> None:
        """Start the program. Raises StartError, with nothing left open, if that is impossible."""
        async with self._spawner.turn:
            try:
                host_side, child_side = open_pipes(self._start.program.account, has_stdin=self._start.stdin is not None)
            except OSError as error:
                raise StartError(f"cannot make pipes for it: {error.strerror}", errno=error.errno) from error
            try:
                self.pid = await self._spawner.spawn(self._start, child_side)
            except BaseException:
                for descriptor in host_side:
                    if descriptor >= 0:
                        os.close(descriptor)
                raise
        self._stdin = StdinPipe(host_side[0], self._poller)
        self._outputs = tuple([OutputPipe(*one) for one in zip(Stream, host_side[1:], strict=True)])
        self._open_outputs = len(self._outputs)
        for pipe in self._outputs:
            self._poller.watch_readable(pipe.descriptor, functools.partial(self._on_readable, pipe))
        self._watch_leader()
        self.limit(self._deadlines)
        self._stdin.write(self._start.stdin or b"", close=not self._start.keeps_stdin_open)
        if self._killed_after_seconds is not None:
            self._signal_group(signal.SIGKILL)
        elif self._stopped is not None:
            self._send_stop_signal(self._stopped)

    @property
    def pid_started(self) -> int | None:
        if self._pid_started is None and self._leader_status is None:
            self._pid_started = facts.process_started(self.pid)
        return self._pid_started

    @property
    def is_running(self) -> bool:
        return self._leader_status is None

    @property
    def has_ended(self) -> bool:
        return self._is_over

    @property
    def stopped(self) -> StopReason | None:
        return self._stopped

    @property
    def unacknowledged(self) -> Mapping[Stream, int]:
        return {pipe.stream: left for pipe in self._outputs if (left := pipe.offset - pipe.acknowledged)}

    @property
    def stdin_left_bytes(self) -> int:
        return 0 if self._stdin is None else self._stdin.unread_bytes

    def limit(self, deadlines: Deadlines) -> None:
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

    def write(self, data: bytes) -> None:
        if self._stdin is not None:
            self._stdin.write(data, close=False)

    def close_stdin(self) -> None:
        if self._stdin is not None:
            self._stdin.write(b"", close=True)

    def hand_over(self, note: bytes, data: bytes, deadlines: Deadlines) -> None:
        self.note = note
        self._cpu_seconds_before = facts.cpu_seconds(self.pid)
        self.limit(deadlines)
        self.write(data)

    def usage(self) -> Usage:
        if self._is_over or self.pid == 0:
            return Usage(cpu_seconds=0.0, memory_bytes=0, peak_memory_bytes=0)
        if self._memory is None:
            self._memory = facts.ProcessMemory(self.pid)
        now, peak = self._memory.read()
        cpu_seconds = max(0.0, facts.cpu_seconds(self.pid) - self._cpu_seconds_before)
        return Usage(cpu_seconds=cpu_seconds, memory_bytes=now, peak_memory_bytes=peak)

    def acknowledge(self, offsets: Mapping[Stream, int]) -> None:
        for pipe in self._outputs:
            offset = offsets.get(pipe.stream, 0)
            if offset > pipe.offset:
                raise ValueError(f"{pipe.stream} was reported up to {pipe.offset}; {offset} cannot be acknowledged")
            pipe.acknowledged = max(pipe.acknowledged, offset)

    def forget(self) -> None:
        if not self._is_over:
            raise ValueError(f"run {self.run} has not ended; it cannot be forgotten")
        self._on_forgotten(self.run)

    def stop(self, reason: StopReason) -> None:
        if self._stopped is not None or self._leader_status is not None:
            return
        self._stopped = reason
        if self.pid:
            self._send_stop_signal(reason)

    def kill(self, reason: StopReason) -> None:
        if self._leader_status is not None:
            return
        self._stopped = self._stopped or reason
        if self._killed_after_seconds is None:
            self._killed_after_seconds = 0.0 if self._stop_sent_at is None else self._loop.time() - self._stop_sent_at
        if self.pid:
            self._signal_group(signal.SIGKILL)

    def _send_stop_signal(self, reason: StopReason) -> None:
        self._stop_sent_at = self._loop.time()
        self._signal_group(self._deadlines.stop_signal)
        self._kill_timer = self._loop.call_later(self._deadlines.kill_grace_seconds, self.kill, reason)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # no process is left in it
        except PermissionError:
            # Every process of the group now runs as another user (a set-uid program); only root could do more.
            pass

    def _watch_idleness(self) -> None:
        assert self._idle_limit is not None
        quiet_seconds = self._loop.time() - self._last_activity
        if quiet_seconds >= self._idle_limit:
            self.stop(StopReason.IDLE_TIMEOUT)
        else:  # one timer per run, looked at again when the silence could have become long enough
            self._idle_timer = self._loop.call_later(self._idle_limit - quiet_seconds, self._watch_idleness)

    def _on_readable(self, pipe: OutputPipe) -> None:
        data = pipe.read()
        if data is None:
            return
        if pipe.stream is Stream.EVENTS:  # rule 5
            for stream in self._read_what_is_there(self._outputs[:2]):
                self._listener.closed(stream)
        if not data:
            self._close_output(pipe)
            if not self._is_over:
                self._listener.closed(pipe.stream)
            if not self._open_outputs and self._leader_status is not None:
                self._finish()
            return
        if len(data) == READ_SIZE:
            pipe.enlarge()
        self._say(pipe, data)

    def _read_what_is_there(self, pipes: Iterable[OutputPipe]) -> list[Stream]:
        """Read everything that is in the pipes now, but no more than they hold: a busy background child must not keep
        us. Returns the streams that it found closed."""
        closed = []
        for pipe in pipes:
            for _ in range(BUSY_PIPE_SIZE // READ_SIZE + 1):
                data = pipe.read() if pipe.descriptor >= 0 else None
                if data is None:
                    break
                if not data:
                    self._close_output(pipe)
                    closed.append(pipe.stream)
                    break
                self._say(pipe, data)
        return closed

    def _say(self, pipe: OutputPipe, data: bytes) -> None:
        self._last_activity = self._loop.time()
        offset = pipe.offset
        pipe.offset = offset + len(data)
        self._listener.said(pipe.stream, offset, data)

    def _close_output(self, pipe: OutputPipe) -> None:
        self._open_outputs -= 1
        self._poller.forget(pipe.descriptor)
        pipe.close()

    def _watch_leader(self) -> None:
        """Learn of the end of the first process: from a pidfd, or where there is none by looking now and then. It runs
        already, so a lack of descriptors must not lose it."""
        try:
            self._pidfd = self.open_pidfd(self.pid)
        except OSError:
            self._look_at_leader()
        else:
            self._poller.watch_readable(self._pidfd, self._on_leader_end)

    @staticmethod
    def open_pidfd(pid: int) -> int:
        """Raises OSError where the machine is short of descriptors, or its kernel has none."""
        return os.pidfd_open(pid)

    def _look_at_leader(self) -> None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._loop.call_later(LOOK_SECONDS, self._look_at_leader)
        else:
            self._on_leader_end()

    def _on_leader_end(self) -> None:
        if self._pidfd >= 0:
            self._poller.forget(self._pidfd)
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # rule 3: look, do not reap
        assert result is not None and self._stdin is not None
        self._leader_status = (result.si_code, result.si_status)
        self._cancel_timers()
        self._stdin.end()
        self._read_what_is_there(self._outputs)
        if self._open_outputs:
            self._drain_timer = self._loop.call_later(self._drain_seconds, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._is_over:
            return
        assert self._stdin is not None
        self._is_over = True
        held_open = bool(self._open_outputs)
        self._signal_group(signal.SIGKILL)
        self._read_what_is_there(self._outputs)
        for pipe in self._outputs:
            if pipe.descriptor >= 0:
                self._close_output(pipe)
        self._cancel_timers()
        _, status, usage = os.wait4(self.pid, 0)  # the leader is a zombie: returns at once
        if self._pidfd >= 0:
            os.close(self._pidfd)
        if self._memory is not None:
            self._memory.close()
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        self._listener.ended(
            ProcessEnd(
                exit_code=None if died_of is not None else os.waitstatus_to_exitcode(status),
                signal=died_of,
                stopped=self._stopped,
                killed_after_seconds=self._killed_after_seconds if died_of == signal.SIGKILL else None,
                stdin_unread=self._stdin.is_unread,
                stdin_left_bytes=self._stdin.left_bytes,
                output_held_open=held_open,
                cpu_seconds=max(0.0, usage.ru_utime + usage.ru_stime - self._cpu_seconds_before),
                peak_memory_bytes=usage.ru_maxrss * 1024,
                peak_memory_is_bound=usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            )
        )

    def _cancel_timers(self) -> None:
        for timer in (self._drain_timer, self._timeout_timer, self._idle_timer, self._kill_timer):
            if timer is not None:
                timer.cancel()

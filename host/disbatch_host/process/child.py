"""One run as a child of this process, once it is started, to its end.

Responsible for: feeding its stdin, keeping its time limits, and telling truly how it ended. Must not know: how it is
started (`starters`), tasks, plugins, what the bytes mean, other runs.

Rules:
1. Nothing here blocks.
2. A program that does not read its stdin loses nothing; writing goes on beside reading, so neither side can hang.
3. The first process is reaped last: as long as it is a zombie its number, and with it that of its session and group,
   cannot be given to another process.
4. The end of the first process is the end of the run. What holds its output then gets `drain` more; then everything
   that is left of the run is ended (`clearing`).
"""

from __future__ import annotations

import functools
import os
import resource
import signal
from typing import Protocol

from disbatch_host.process import clearing, facts, family
from disbatch_host.process.clearing import Clearing
from disbatch_host.process.flags import How, Input
from disbatch_host.process.frames import ALIVE, Closed, End, Events, Frame, Output, Said, Start, Started, Stop, Task
from disbatch_host.process.framing import Left, packed_processes
from disbatch_host.process.outputs import Outputs
from disbatch_host.process.pipes import StdinPipe
from disbatch_host.process.spawn import Launch
from disbatch_host.process.watching import Timer, Watching

_UNWATCHED_SECONDS = 0.02  # the output of a run that is shorter is read at its end
_STARTED_SECONDS = 0.15  # then STARTED is told, unless it was wanted at once
_LOOK_SECONDS = 0.05  # between two looks at a process that has no pidfd
_URGENT_IDLE_SECONDS = 1.0  # of a silence limit that must not overlook output
_MICRO = 1_000_000


class Supervisor(clearing.Surroundings, Protocol):
    """What a child needs of the supervisor that has it."""

    def tell(self, frame: Frame) -> None:
        """A frame for the node."""

    def on_end(self, child: Child) -> None:
        """Its End was told; nothing of it is left but `child.left_over`."""


class Child:
    """One run, once it is started."""

    def __init__(
        self,
        pid: int,
        launch: Launch,
        frame: Start,
        supervisor: Supervisor,
        watching: Watching,
        mark: bytes,
        descriptors: tuple[int, int, int, int],
    ) -> None:
        """`descriptors`: this side of its pipes."""
        self.run = frame.run
        self.pid = pid
        self.mark = mark
        self.left_over: list[family.Member] = []  # once its End was told
        self.cpu_of_orphans = 0.0  # seconds; of those that were reaped for it
        self._launch = launch
        self._supervisor = supervisor
        self._watching = watching
        self._flags = frame.flags
        self._pid_started = 0
        self._pidfd = -1
        self._stdin = StdinPipe(descriptors[0], watching)
        self._outputs = Outputs(descriptors[1:], watching, self)
        self._clearing = Clearing(pid, mark, launch, watching, supervisor, self._on_clear)
        self._input_left = frame.total - len(frame.stdin)  # bytes of the input that STDIN will bring
        self._began = watching.now()
        self._idle_seconds = 0.0
        self._timeout: Timer | None = None
        self._idle: Timer | None = None
        self._first: Timer | None = None  # it is short until then; after that, when STARTED is told
        self._drain: Timer | None = None
        self._memory: facts.ProcessMemory | None = None
        self._cpu_before = 0.0  # seconds used up to the last TASK
        self._stopped = Stop.NOT
        self._leader_ended_at: float | None = None
        self._held_open = False
        self._is_over = False
        self._watch_leader()
        self._limit(frame.timeout, frame.idle_timeout)
        self._write(frame.stdin)
        if frame.flags & Input.TELL:
            self._tell_pid()
        is_urgent = frame.flags & Input.OPEN or self._stdin.is_waiting or 0 < self._idle_seconds < _URGENT_IDLE_SECONDS
        if is_urgent:
            self._be_no_longer_short()
        else:
            self._first = watching.after(_UNWATCHED_SECONDS, self._be_no_longer_short)

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended."""
        return self._leader_ended_at is None

    def take(self, task: Task) -> None:
        """Give it a task, or only other limits."""
        self._limit(task.timeout, task.idle_timeout)
        if task.total:
            self._cpu_before = facts.cpu_seconds(self.pid)
            self._began = self._watching.now()
            self._input_left += task.total - len(task.stdin)
            self._write(task.stdin)

    def write(self, data: bytes) -> None:
        """More of an input that was announced."""
        self._input_left = max(0, self._input_left - len(data))
        self._write(data)

    def close_stdin(self) -> None:
        """Once everything is written."""
        self._stdin.write(b"", close=True)

    def stop(self, reason: Stop) -> None:
        """The stop signal now, SIGKILL after the grace. The first reason stays. Nothing once the first process has
        ended, because then it was not this that stopped it."""
        if self._stopped is Stop.NOT and self.is_running:
            self._stopped = reason
            self._clearing.stop()

    def kill(self, reason: Stop) -> None:
        """SIGKILL to everything of it now."""
        if self.is_running and self._stopped is Stop.NOT:
            self._stopped = reason
        self._clearing.kill()

    def on_block(self, stream: Output, offset: int, data: bytes) -> None:
        """See `outputs.Listener`."""
        if stream is Output.EVENTS:
            self._supervisor.tell(self._events(offset, data))
        else:
            self._supervisor.tell(Said(self.run, stream, offset, data))

    def on_close(self, stream: Output) -> None:
        """See `outputs.Listener`."""
        if self.is_running:
            self._supervisor.tell(Closed(self.run, stream))
        elif self._outputs.are_closed and not self._is_over:
            self._settle()

    def _tell_started(self) -> None:
        if self.is_running:
            self._supervisor.tell(Started(self.run, self.pid, self._when_started()))

    def _tell_pid(self) -> None:
        """At once: when a short run started is hardly ever asked for, and costs a look."""
        started = self._when_started() if self._flags & Input.OPEN else 0
        self._supervisor.tell(Started(self.run, self.pid, started))

    def _when_started(self) -> int:
        if not self._pid_started and self.is_running:
            self._pid_started = facts.process_started(self.pid) or 0
        return self._pid_started

    def _be_no_longer_short(self) -> None:
        self._outputs.watch()
        self._first = self._watching.after(_STARTED_SECONDS - _UNWATCHED_SECONDS, self._tell_started)

    def _write(self, data: bytes) -> None:
        is_last = not self._flags & Input.OPEN and not self._input_left
        self._stdin.write(data, close=is_last)

    def _limit(self, timeout: int, idle_timeout: int) -> None:
        for timer in (self._timeout, self._idle):
            if timer is not None:
                timer.cancel()
        self._outputs.last_activity = self._watching.now()
        if timeout:
            self._timeout = self._watching.after(timeout / _MICRO, functools.partial(self.stop, Stop.TIMEOUT))
        self._idle_seconds = idle_timeout / _MICRO
        if idle_timeout:
            self._watch_idleness()

    def _watch_idleness(self) -> None:
        left = self._idle_seconds - (self._watching.now() - self._outputs.last_activity)
        if left <= 0:
            self.stop(Stop.IDLE_TIMEOUT)
        else:  # one timer, looked at again when the silence could have become long enough
            self._idle = self._watching.after(left, self._watch_idleness)

    def _events(self, offset: int, data: bytes) -> Events:
        cpu = memory = peak = stdin_left = 0
        if self._flags & Input.OPEN and self.is_running:
            if self._memory is None:
                self._memory = facts.ProcessMemory(self.pid)
            memory, peak = self._memory.read()
            cpu = _micro(facts.cpu_seconds(self.pid) - self._cpu_before)
            stdin_left = self._stdin.unread_bytes + self._input_left
        stdout, stderr, _ = self._outputs.ends
        return Events(self.run, offset, stdout, stderr, self._stopped, cpu, memory, peak, stdin_left, data)

    def _watch_leader(self) -> None:
        """Learn of the end of the first process: from a pidfd, or where there is none by looking now and then. It runs
        already, so a lack of descriptors must not lose it."""
        try:
            self._pidfd = self.open_pidfd(self.pid)
        except OSError:
            self._look_at_leader()
        else:
            self._watching.readable(self._pidfd, self._on_leader_end)

    @staticmethod
    def open_pidfd(pid: int) -> int:
        """Raises OSError where the machine is short of descriptors, or its kernel has none."""
        return os.pidfd_open(pid)

    def _look_at_leader(self) -> None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._watching.after(_LOOK_SECONDS, self._look_at_leader)
        else:
            self._on_leader_end()

    def _on_leader_end(self) -> None:
        self._forget_pidfd()
        if self._is_over:
            return  # it was left over
        self._leader_ended_at = self._watching.now()
        self._clearing.leader_ended()
        for timer in (self._timeout, self._idle, self._first):
            if timer is not None:
                timer.cancel()
        self._stdin.end()
        self._outputs.read()
        if self._outputs.are_closed:
            self._settle()
        else:
            self._outputs.watch()
            self._drain = self._watching.after(self._launch.drain_seconds, self._stop_draining)

    def _stop_draining(self) -> None:
        self._held_open = True
        self._settle()

    def _settle(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
        self._clearing.settle()

    def _on_clear(self, left_over: list[family.Member]) -> None:
        self._is_over = True
        if self.is_running:
            left_over = [family.Member(self.pid, self._when_started()), *left_over]
            self._stdin.end()
        self._outputs.read()
        self._outputs.close()
        for timer in (self._timeout, self._idle, self._first, self._drain):
            if timer is not None:
                timer.cancel()
        if self._memory is not None:
            self._memory.close()
        self.left_over = left_over
        self._supervisor.tell(self._end())
        self._supervisor.on_end(self)

    def _end(self) -> End:
        if self.is_running:
            status, cpu, peak, peak_is_bound = ALIVE, facts.cpu_seconds(self.pid), 0, True
        else:
            _, status, usage = os.wait4(self.pid, 0)  # it is a zombie: returns at once
            cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
            peak_is_bound = usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now = self._watching.now()
        ended_at = now if self._leader_ended_at is None else self._leader_ended_at
        ends, flags = self._outputs.ends, 0
        if self._held_open:
            flags |= How.HELD_OPEN
        if self._stdin.is_refused:
            flags |= How.STDIN_REFUSED
        if peak_is_bound:
            flags |= How.PEAK_IS_BOUND
        return End(
            run=self.run,
            pid=self.pid,
            pid_started=self._pid_started,
            status=status,
            stopped=self._stopped,
            flags=flags,
            killed_after=self._killed_after(status),
            cpu=_micro(cpu + self.cpu_of_orphans - self._cpu_before),
            peak=peak,
            stdin_left=self._stdin.left_bytes + self._input_left,
            seconds=_micro(ended_at - self._began),
            age=_micro(now - ended_at),
            left_running=self._clearing.left_running,
            stdout_at=ends.stdout,
            stdout_end=ends.stdout,
            stderr_at=ends.stderr,
            stderr_end=ends.stderr,
            events_at=ends.events,
            events_end=ends.events,
            stdout=b"",
            stderr=b"",
            events=b"",
            left_over=_packed([one.described() for one in self.left_over]),
            ended=_packed(self._clearing.ended),
        )

    def _killed_after(self, status: int) -> int:
        killed_at, stopped_at = self._clearing.killed_at, self._clearing.stopped_at
        was_killed = status != ALIVE and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed_at is None or not was_killed:
            return -1
        return 0 if stopped_at is None else _micro(killed_at - stopped_at)

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._watching.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


_NOBODY = packed_processes([])


def _packed(processes: list[Left]) -> bytes:
    return packed_processes(processes) if processes else _NOBODY


def _micro(seconds: float) -> int:
    return max(0, round(seconds * _MICRO))

"""The seam between the runs of a node and the processes that carry them out.

Responsible for: the terms in which the rest of the host talks about processes, and the verbs of the process host, which
starts programs, reads their pipes, keeps their time limits and ends their process groups. Must not know: how that is
done, tasks, plugins.

The verbs are messages to and from a process host that may be another program:

    ProcessHost.start       →  the process, or StartError: nothing was executed
    ProcessHost.runs        →  all its runs, each with its number, note and offsets
    ProcessListener.said    ←  bytes of a stream, with the offset of the first one
    ProcessListener.closed  ←  the program closed a stream
    ProcessListener.ended   ←  how it ended
    Process.acknowledge     →  the store has these streams up to these offsets
    Process.forget          →  the store has the end
    Process.follow          →  its output is to be told as it comes
    Process.close_stdin, stdin_left_bytes, hand_over, limit, stop, kill, usage

Rules:
1. A run is a number, which only rises during the life of a process host. The note of the run tells what the number
   stands for: opaque bytes that come back as they were given.
2. Output is reported at least once: a process host may repeat output that was not acknowledged, with its offset. So the
   listener skips bytes that it has had, and acknowledges those that are durable.
3. A run stays in `runs` until its end is acknowledged by `forget`, so that an end is never lost.
4. Everything written to stdout and stderr before an event line is reported before that line.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from disbatch_host.errors import PluginError


class Stream(StrEnum):
    """The streams that a child writes to: descriptors 1, 2 and 3."""

    STDOUT = "stdout"
    STDERR = "stderr"
    EVENTS = "events"


class StopReason(StrEnum):
    """Why a process was stopped; the only values of `ProcessEnd.stopped` besides None."""

    TIMEOUT = "timeout"
    IDLE_TIMEOUT = "idle_timeout"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    LOST = "lost"  # somebody else owns the task now
    REPLACED = "replaced"  # a worker that cannot go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Limits in seconds after which a process is stopped; None means no limit."""

    timeout_seconds: float | None = None  # from start to end
    idle_timeout_seconds: float | None = None  # longest silence on stdout, stderr and events
    kill_grace_seconds: float = 10.0  # from the stop signal to SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM


class LeftOver(NamedTuple):
    """A process of a run that was there when its first one had ended."""

    pid: int
    pid_started: int | None  # None: it has ended meanwhile
    uid: int
    program: str  # its name, as the kernel has it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """How a process ended. Exactly one of `exit_code` and `signal` is given, unless that is not known."""

    exit_code: int | None
    signal: int | None
    stopped: StopReason | None  # why it was stopped, if it was
    # From its stop signal to SIGKILL, if that is what ended it; 0 if it was killed without being asked to stop.
    killed_after_seconds: float | None
    # It ended, or closed its stdin, before it had read everything. Reported only for more than a pipe holds: for less,
    # it would depend on which side was faster.
    stdin_unread: bool
    stdin_left_bytes: int  # written to its stdin and not read; 0 if its stdin was closed
    output_held_open: bool  # somebody else still held its output after DRAIN_SECONDS
    cpu_seconds: float  # user and system, with the children that it waited for; since the last `hand_over`, if any
    # Largest resident size of any one process of it, as the kernel counts it: from the fork on, so a program that stays
    # smaller than the process that started it shows the size of that one.
    peak_memory_bytes: int
    peak_memory_is_bound: bool  # it is not larger than the process that started it, so the peak means only "at most"
    memory_by_group: bool = False  # its limit of address space was one of what all its processes use together
    hit_memory_limit: bool = False  # and because of that the kernel has ended processes of it
    # The supervisor of its runs ended before it: it was killed, and nothing else is known of its end.
    is_unseen: bool = False
    why_unseen: str = ""  # what is known of the end of its supervisor
    left_over: tuple[LeftOver, ...] = ()  # that could not be ended: another user's, or in uninterruptible sleep
    ended_with_it: tuple[LeftOver, ...] = ()  # what it had left, and was asked to end after its first process
    left_running: int = 0  # processes of it that go on (`Program.leave_running`)
    seconds: float = 0.0  # from its start, or the last `hand_over`, to the end of its first process
    age_seconds: float = 0.0  # from that end to this report

    @property
    def killed(self) -> bool:
        """Whether SIGKILL had to end it."""
        return self.killed_after_seconds is not None


class Usage(NamedTuple):  # made for each task of a worker process, at a quarter of what a frozen dataclass costs
    """The resources that a running process uses; zeros if it is gone."""

    cpu_seconds: float  # all its threads, without its children; since the last `hand_over`, if any
    memory_bytes: int  # resident now
    peak_memory_bytes: int


_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


class StartError(PluginError):
    """A program could not be started; the message says which, and why."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self._errno = errno

    @property
    def is_busy(self) -> bool:
        """Its file is being written at this moment; it may start a moment later."""
        return self._errno == errno.ETXTBSY

    @property
    def is_too_late(self) -> bool:
        """It could not be begun before what was known of it was too old (`Trust`)."""
        return self._errno == errno.ETIME

    @property
    def is_too_large(self) -> bool:
        """Its words and variables take more than the system allows."""
        return self._errno == errno.E2BIG

    @property
    def is_machines_fault(self) -> bool:
        """The machine had no descriptor, process, memory or disk space left: not this program's fault, and any other
        would fail as well."""
        return self._errno in _SHORTAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of a program. Programs of one plugin share nearly all of them, so those are encoded once."""

    variables: Mapping[str, str] = field(repr=False)
    encoded: tuple[bytes, ...] = field(repr=False)  # as exec takes them: NAME=value

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Environment:
        """An environment of these variables."""
        return cls(dict(variables), _encoded(variables))

    def extended(self, more: Mapping[str, str]) -> Environment:
        """With these as well; variables of the same name are replaced."""
        variables = {**self.variables, **more}
        if len(variables) != len(self.variables) + len(more):
            return Environment.of(variables)
        return Environment(variables, self.encoded + _encoded(more))


def _encoded(variables: Mapping[str, str]) -> tuple[bytes, ...]:
    return tuple([os.fsencode(f"{name}={value}") for name, value in variables.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything that is the same for all processes of one plugin; made once."""

    argv: Sequence[str]  # argv[0] is the path of the program
    directory: Path
    environment: Environment = field(repr=False)
    limits: Mapping[int, int] = field(default_factory=dict)  # resource.RLIMIT_… → value, soft and hard alike
    account: Account | None = None
    umask: int = 0o022  # file mode mask
    leave_running: bool = False  # after an end that nobody asked for, what has left its session may go on
    max_output_bytes: int = 0  # of each of stdout and stderr, that a process host keeps which outlives its node
    note: bytes = field(default=b"", repr=False)  # comes back with each `KeptRun`


class Trust(NamedTuple):
    """How long something may still be begun that was somebody's to begin at a moment: it may be another's by then."""

    asked_at: float  # when that was known, in seconds since boot, with the time that the machine was asleep
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process to start."""

    program: Program
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # besides the program's own
    words: Sequence[bytes] = field(default=(), repr=False)  # behind those of the program's argv
    work_directory: Path | None = None  # instead of the program's directory
    deadlines: Deadlines = field(default_factory=Deadlines)  # until `Process.limit` or `hand_over` sets others
    note: bytes = b""  # rule 1
    stdin: bytes | None = field(default=b"", repr=False)  # the input that it gets at once; None: /dev/null is its stdin
    keeps_stdin_open: bool = False  # more will come; else its stdin ends after that
    trust: Trust | None = None  # too late, it is not started: `StartError.is_too_late`

    @property
    def directory(self) -> Path:
        """The directory that it is started in."""
        return self.work_directory or self.program.directory

    @property
    def argv(self) -> list[str]:
        """All its words, as they are shown."""
        return [*self.program.argv, *(word.decode("utf-8", "replace") for word in self.words)]

    @property
    def environment(self) -> Environment:
        """All its variables."""
        return self.program.environment.extended(self.variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """A run that a process host has from an earlier node. Its note and that of its program are as they were given."""

    run: int
    note: bytes
    program_note: bytes
    pid: int  # 0: it has not been started yet
    pid_started: int | None
    age_seconds: float  # since its start
    has_ended: bool
    start_note: bytes = b""  # of its start, if `note` is that of the last `hand_over`
    task_age_seconds: float = 0.0  # since the last `hand_over`


class ProcessListener(Protocol):
    """Is told what becomes of one process, in the thread of the event loop and in the order of the events."""

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        """The program wrote `data`, which begins `offset` bytes into the stream. Bytes that nobody has kept are left
        out: then the offset is beyond the end of what was said before, and there may be no data."""

    def closed(self, stream: Stream) -> None:
        """The program closed a stream and may run on. Not called for streams that its end closes."""

    def ended(self, end: ProcessEnd) -> None:
        """Called once, after everything that it wrote."""


class StartListener(ProcessListener, Protocol):
    """Is told first what becomes of the start: of one of both, once."""

    def begun(self) -> None:
        """The program runs, and has its pid."""

    def not_started(self, error: StartError) -> None:
        """Nothing was executed, and nothing is left behind."""


class Process(Protocol):
    """One run at a process host."""

    @property
    def run(self) -> int:
        """Its number."""

    @property
    def note(self) -> bytes:
        """The note of its start, or of the last `hand_over`."""

    @property
    def pid(self) -> int:
        """0 before it has been started."""

    @property
    def pid_started(self) -> int | None:
        """When it started, in clock ticks since boot: together with the pid this identifies it. None if it had ended
        before anybody asked."""

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended yet."""

    @property
    def has_ended(self) -> bool:
        """Whether its listener was told of its end: nothing of its group is left."""

    @property
    def stopped(self) -> StopReason | None:
        """Why it is being stopped, if it is."""

    @property
    def unacknowledged(self) -> Mapping[Stream, int]:
        """How many bytes of each stream were reported and not acknowledged; without the streams that have none."""

    @property
    def stdin_left_bytes(self) -> int:
        """How many of the bytes for its stdin it has not read by now, or had not when it ended; 0 once this host has
        written all and closed it."""

    def follow(self) -> bool:
        """From now on, have its stdout and stderr told as they come, and not only with its end. Returns whether that
        makes a difference: whether anything may come that has been there before."""

    def close_stdin(self) -> None:
        """Close its stdin once everything that is still to be written has been written."""

    def hand_over(self, note: bytes, data: bytes, deadlines: Deadlines, trust: Trust | None = None) -> None:
        """Give a running process something to do: `data` to its stdin, with time limits that start now. CPU time
        counts from here. Where that is too late (`trust`), it is ended without having been given a byte of it."""

    def limit(self, deadlines: Deadlines) -> None:
        """Replace its deadlines by these, counted from now."""

    def stop(self, reason: StopReason) -> None:
        """Stop it: the stop signal to its group now, SIGKILL after the grace. The first reason stays. Does nothing once
        the first process has ended, because then it was not this call that stopped it. A process that is being started
        is stopped as soon as it runs."""

    def kill(self, reason: StopReason) -> None:
        """SIGKILL to its group, now."""

    def usage(self) -> Usage:
        """The resources that it uses now."""

    def acknowledge(self, offsets: Mapping[Stream, int], *, with_end: bool = False) -> None:
        """The store has everything up to these offsets of the streams: it will not be reported again. A smaller offset
        than before changes nothing. `with_end`: and the end of all tasks that were handed over before that; a process
        host that outlives this node keeps everything until then, so that another node can begin at the beginning.
        Raises ValueError for bytes that were never reported."""

    def forget(self) -> None:
        """The store has its end, or never will (the task is another node's): it leaves `ProcessHost.runs`. Doing it
        twice is fine. Raises ValueError if it has not ended."""


class ProcessHost(Protocol):
    """Starts programs, and keeps each until its end is acknowledged. Used in the thread of one event loop."""

    def begin(self, start: Start, listener: StartListener) -> Process:
        """Have a program started, and return at once; `listener` is told later. Raises StartError for what can be seen
        at once to be impossible."""

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        """Start a program, and wait until it runs. Raises StartError, with nothing left behind, if nothing was
        executed."""

    def runs(self) -> Sequence[Process]:
        """The runs that are being started, are running, or have ended and were not forgotten; in order of number."""

    def why_not_now(self) -> str | None:
        """Why nothing should be started now, in words; None if nothing speaks against it."""

    def close(self) -> None:
        """Close it once nothing is running. Closing twice is fine."""

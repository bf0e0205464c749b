"""The seam between the runs of a node and the processes that carry them out.

Responsible for: the terms in which the rest of the host speaks of processes, and the verbs of the process host, which
starts programs, reads their pipes, keeps their time limits and ends their process groups. Must not know: how that is
done, tasks, plugins.

The verbs are messages to and from a process host that may be another program:

    ProcessHost.start       →  the process, or StartError: nothing was executed
    ProcessHost.runs        →  everything that it has, each run with its number, note and offsets
    ProcessListener.said    ←  bytes of a stream, with the offset of the first one
    ProcessListener.closed  ←  the program has closed a stream
    ProcessListener.ended   ←  how it ended
    Process.acknowledge     →  the store has these streams up to these offsets
    Process.forget          →  the store has the end
    Process.write, close_stdin, hand_over, limit, stop, kill, usage

Rules:
1. A run is a number, which rises for the life of a process host. What the number stands for is in the note of the run:
   opaque bytes that come back as they were given.
2. Output is said at least once: a process host may say what was not acknowledged again, with its offset. So the
   listener leaves out what it has heard, and acknowledges what is durable.
3. A run stays in `runs` until its end is acknowledged by `forget`, so that an end is never lost.
4. Whatever was written to stdout and stderr before an event line is said before that line.
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
    """What a child writes to: descriptors 1, 2 and 3."""

    STDOUT = "stdout"
    STDERR = "stderr"
    EVENTS = "events"


class StopReason(StrEnum):
    """Why a process was stopped. Nothing else makes `ProcessEnd.stopped` anything but None."""

    TIMEOUT = "timeout"
    IDLE_TIMEOUT = "idle_timeout"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    LOST = "lost"  # somebody else owns the task by now
    REPLACED = "replaced"  # a worker that cannot go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """When and how a process is stopped. Seconds; None: never."""

    timeout_seconds: float | None = None  # from start to end
    idle_timeout_seconds: float | None = None  # longest silence on stdout, stderr and events
    kill_grace_seconds: float = 10.0  # from the stop signal to SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """How a process ended. Exactly one of `exit_code` and `signal` is given."""

    exit_code: int | None
    signal: int | None
    stopped: StopReason | None  # why it was stopped, where it was
    killed: bool  # it had to be SIGKILL
    # It ended, or closed its stdin, before it had read everything. Said only of more than a pipe holds: of less it
    # would depend on who was faster.
    stdin_unread: bool
    stdin_left_bytes: int  # of what was written to its stdin, how much it had not read; 0 where its stdin was closed
    output_held_open: bool  # somebody else still held its output after DRAIN_SECONDS
    cpu_seconds: (
        float  # user and system, with the children that it has waited for; since `hand_over`, where there was one
    )
    # Largest resident size of one process of it, as the kernel counts it: from the fork on, so a program that stays
    # smaller than the process that started it shows that one's size.
    peak_memory_bytes: int
    peak_memory_is_bound: bool  # it is not larger than the process that started it, so it says only "at most"


class Usage(NamedTuple):  # made for each task of a worker process, at a quarter of what a frozen dataclass costs
    """What a running process uses; zeros where it is gone."""

    cpu_seconds: float  # all its threads, without its children; since `hand_over`, where there was one
    memory_bytes: int  # resident now
    peak_memory_bytes: int


_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


class StartError(PluginError):
    """A program could not be started; the message says which and why."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self._errno = errno

    @property
    def is_busy(self) -> bool:
        """Its file is being written just now; a moment later it may start."""
        return self._errno == errno.ETXTBSY

    @property
    def is_machines_fault(self) -> bool:
        """No descriptor, process, memory or room on a disk was left: not this program's fault, and any other would
        fail as well."""
        return self._errno in _SHORTAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of a program. Programs of one plugin share nearly all of them, so they are encoded once."""

    variables: Mapping[str, str] = field(repr=False)
    encoded: tuple[bytes, ...] = field(repr=False)  # as exec takes them: NAME=value

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Environment:
        """An environment of these variables."""
        return cls(dict(variables), _encoded(variables))

    def extended(self, more: Mapping[str, str]) -> Environment:
        """With these as well; what is there under the same name is replaced."""
        variables = {**self.variables, **more}
        if len(variables) != len(self.variables) + len(more):
            return Environment.of(variables)
        return Environment(variables, self.encoded + _encoded(more))


def _encoded(variables: Mapping[str, str]) -> tuple[bytes, ...]:
    return tuple([os.fsencode(f"{name}={value}") for name, value in variables.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is the same for all processes of one plugin; made once."""

    argv: Sequence[str]  # argv[0] is the path of the program
    directory: Path
    environment: Environment = field(repr=False)
    limits: Mapping[int, int] = field(default_factory=dict)  # resource.RLIMIT_… → value, soft and hard alike
    account: Account | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process to be started."""

    program: Program
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # besides the program's own
    work_directory: Path | None = None  # in place of the program's directory
    deadlines: Deadlines = field(default_factory=Deadlines)  # until `Process.limit` or `hand_over` names others
    note: bytes = b""  # rule 1
    stdin: bytes = field(default=b"", repr=False)  # what it gets at once
    keeps_stdin_open: bool = False  # more comes; else its stdin ends after that

    @property
    def directory(self) -> Path:
        """Where it is started."""
        return self.work_directory or self.program.directory

    @property
    def environment(self) -> Environment:
        """All its variables."""
        return self.program.environment.extended(self.variables)


class ProcessListener(Protocol):
    """Hears what becomes of one process, in the thread of the event loop and in the order in which it happened."""

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        """`data` begins `offset` bytes after the beginning of the stream."""

    def closed(self, stream: Stream) -> None:
        """The program has closed a stream and may run on. Not said of the streams that its end closes."""

    def ended(self, end: ProcessEnd) -> None:
        """Once, after everything that it has said."""


class Process(Protocol):
    """One run at a process host."""

    @property
    def run(self) -> int:
        """Its number."""

    @property
    def note(self) -> bytes:
        """That of its start, or of the last `hand_over`."""

    @property
    def pid(self) -> int:
        """0 before it has been started."""

    @property
    def pid_started(self) -> int | None:
        """When it started, in clock ticks since boot: with the pid, what tells it from any other process. None where
        it had ended before anybody asked."""

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended."""

    @property
    def has_ended(self) -> bool:
        """Whether its listener has heard of its end: nothing of its group is left."""

    @property
    def stopped(self) -> StopReason | None:
        """Why it is being stopped, where it is."""

    @property
    def unacknowledged(self) -> Mapping[Stream, int]:
        """How many bytes of each stream were said and not acknowledged; without the streams that have none."""

    def write(self, data: bytes) -> None:
        """Write to its stdin as it reads. Returns at once."""

    def close_stdin(self) -> None:
        """End of file for its stdin, after everything that is still to be written."""

    def hand_over(self, note: bytes, data: bytes, deadlines: Deadlines) -> None:
        """Give a running process something to do: `data` to its stdin, with time limits that begin now. CPU time
        counts from here."""

    def limit(self, deadlines: Deadlines) -> None:
        """From now on these are its deadlines, counted from now; those before are void."""

    def stop(self, reason: StopReason) -> None:
        """Stop it: the stop signal to its group now, SIGKILL after the grace. The first reason stays. Does nothing
        once the first process has ended: then it was not this call that stopped it. One that is being started is
        stopped as soon as it runs."""

    def kill(self, reason: StopReason) -> None:
        """SIGKILL to its group, now."""

    def usage(self) -> Usage:
        """What it uses now."""

    def acknowledge(self, offsets: Mapping[Stream, int]) -> None:
        """The store has what was said of each of these streams before its offset: it is not said again. A smaller
        offset than before changes nothing. Raises ValueError for bytes that were never said."""

    def forget(self) -> None:
        """The store has its end, or never will (the task is another node's): it leaves `ProcessHost.runs`. Doing it
        twice is fine. Raises ValueError where it has not ended."""


class ProcessHost(Protocol):
    """Starts programs, and keeps each until its end is acknowledged. Used in the thread of one event loop."""

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        """Start a program. Raises StartError, with nothing left behind, where nothing was executed."""

    def runs(self) -> Sequence[Process]:
        """Those that are being started, run, or have ended and were not forgotten; in the order of their numbers."""

    def close(self) -> None:
        """When nothing runs any more. Closing twice is fine."""

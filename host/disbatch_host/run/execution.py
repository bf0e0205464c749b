"""The execution of a run, as the run sees it.

Responsible for: one interface for both modes, so that everything before and after (parameters, durable Running, output,
conclusion) is the same code; turning a process's end into the end of a run. Must not know: documents, stores, outcomes.

The life of an execution: `begin`, then `Course.started` and `Course.ended`, then `settle` once the end is durable; or
`begin`, then `Course.not_started`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from disbatch_host.documents.storable import storable
from disbatch_host.process.interface import (
    LeftOver,
    Process,
    ProcessEnd,
    ProcessHost,
    ProcessListener,
    Start,
    StartError,
    StopReason,
    Stream,
    Trust,
)
from disbatch_protocol.events import BadLine, Event
from disbatch_protocol.outcome import Reason, RunEnd

_NAMED_MAX = 20  # processes that ended with their run; those that did not are all named
BY_GROUP, BY_ADDRESS_SPACE = "cgroup", "address_space"  # `run.memory_limit`: what `limits.memory` counted
BUSY_PROGRAM_TRIES, BUSY_PROGRAM_SECONDS = 5, 0.2  # a program that is being replaced (ETXTBSY), as CNI does


class Assignment(NamedTuple):  # made for each task, at a quarter of what a frozen dataclass costs
    """The part of the task that its execution must know."""

    task_id: str
    queue: str
    attempt: int
    note: bytes  # for the process host: which run this is
    trust: Trust | None = None  # how long it may be begun
    # Made of its parameters, as the manifest wants it: argv behind the command, and the environment.
    words: Sequence[bytes] = ()
    variables: Mapping[str, str] | None = None


class Listener(Protocol):
    """Is told what a run writes while it is running."""

    def receive(self, stream: Stream, data: bytes) -> None:
        """Bytes of stdout and stderr, and of descriptor 3 as they came."""

    def miss(self, stream: Stream, count: int) -> None:
        """So many bytes, which come next, were kept by nobody."""

    def hear(self, heard: Event | BadLine) -> None:
        """One event, or bad line, from descriptor 3."""


class Course(Protocol):
    """Is told, in the thread of the event loop, how far an execution has come."""

    def started(self) -> None:
        """The program has the task, or is about to read it."""

    def not_started(self, error: Exception) -> None:
        """It could not be started (`StartError`), or something failed that nobody expected; nothing is left behind, and
        nothing more will come."""

    def ended(self, end: ExecutionEnd) -> None:
        """It has ended, and everything that it wrote was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEnd:
    """The end of an execution."""

    end: RunEnd
    facts: Mapping[str, Any] = field(repr=False)  # for `run` in the document
    killed_after_seconds: float | None = None  # see `ProcessEnd`
    fault: str | None = None  # the host's explanation, if exit code and signal do not tell
    was_not_reached: bool = False  # worker mode: the process was gone before it read the task
    is_process_lost: bool = False  # worker mode: the process ended by itself while it had the task
    hit_memory_limit: bool = False  # see `ProcessEnd`
    is_unseen: bool = False  # it was not stopped, and nobody saw its end: see `ProcessEnd`
    why_unseen: str = ""
    seconds: float | None = None  # from its start to its end, if that may have been at another time
    age_seconds: float = 0.0  # from its end until now


class Execution(Protocol):
    """Carries out one run."""

    @property
    def process_facts(self) -> dict[str, Any]:
        """The facts known of its process now, for `run` in the document; empty before there is one."""

    @property
    def pid_started(self) -> int | None:
        """When its process started (`Process.pid_started`): finding out may cost a system call, so only for a run that
        is not short."""

    @property
    def work_directory(self) -> str | None:
        """The run's own directory, if it has one that is kept after a failure."""

    @property
    def event_bytes(self) -> int:
        """How many bytes of descriptor 3 were heard, up to the end of the last whole line; 0 where a process host never
        forgets any of them before the end is stored."""

    def begin(self, task_input: bytes | None, listener: Listener, course: Course) -> None:
        """Begin with the task. `task_input`: as `starting.input_of` gives it. `course` may be told at once. Raises
        StartError, with nothing left behind, for what can be seen at once to be impossible."""

    def stop(self, reason: StopReason) -> None:
        """Ask it to end, with its grace; before its start: as soon as it has started."""

    def kill(self, reason: StopReason) -> None:
        """End it now."""

    def follow(self) -> bool:
        """See `Process.follow`."""

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        """The store has this many bytes, from the first on, of each of these streams. Events are acknowledged only by
        `settle`, unless there are very many: some of their effects (follow-up tasks, how an error is to be treated)
        reach the document only with the end."""

    def settle(self) -> None:
        """The store has the end of the run, or never will: nothing of it needs to be kept."""

    def clean_up(self, on_left: Callable[[str], None] | None = None) -> None:
        """Have the leftovers of a successful run removed, soon. `on_left` is told where something is left that cannot
        be."""


_NOTHING_HEARD = dict.fromkeys(Stream, 0)


class HeardSoFar:
    """How far each stream of a process has been read, so that repeated bytes count once."""

    __slots__ = ("_ends",)

    def __init__(self, begins_at: Mapping[Stream, int] = _NOTHING_HEARD) -> None:
        """`begins_at`: what comes before these offsets counts as heard."""
        self._ends = dict(begins_at)

    def new_part(self, stream: Stream, offset: int, data: bytes) -> tuple[int, bytes]:
        """The part of `data`, which begins at `offset` of the stream, that is new; and how many bytes are missing
        before it."""
        end = self._ends[stream]
        if offset < end:
            data = data[end - offset :]
            self._ends[stream] = end + len(data)
            return 0, data
        self._ends[stream] = offset + len(data)
        return offset - end, data

    def end(self, stream: Stream) -> int:
        """The end of the part of a stream that has been read."""
        return self._ends[stream]

    def offsets(self) -> dict[Stream, int]:
        """The end of the part of each stream that has been read."""
        return self._ends.copy()


async def start_program(processes: ProcessHost, start: Start, listener: ProcessListener) -> Process:
    """Start a program; again a moment later if its file is being written. Raises StartError."""
    for tries_left in reversed(range(BUSY_PROGRAM_TRIES)):
        try:
            return await processes.start(start, listener)
        except StartError as error:
            if not (error.is_busy and tries_left):
                raise
        await asyncio.sleep(BUSY_PROGRAM_SECONDS)
    raise AssertionError("unreachable: the last try returns or raises")


def is_unseen(process_end: ProcessEnd) -> bool:
    """Whether the task itself is lost. One that was being stopped has ended as it was to."""
    return process_end.is_unseen and process_end.stopped is None


def reason_of(process_end: ProcessEnd, by_exit: Reason) -> Reason:
    """Why a process ended: who stopped it, else its signal, else `by_exit`."""
    if process_end.stopped is not None:
        return Reason(process_end.stopped.value)
    if process_end.is_unseen:
        return Reason.LOST
    return by_exit if process_end.signal is None else Reason.SIGNALED


def facts_of(process_end: ProcessEnd) -> dict[str, Any]:
    """The facts about the process for `run`."""
    left: dict[str, Any] = {}
    if process_end.left_over:
        left["left_over"] = [_described(one) for one in process_end.left_over]
    if process_end.ended_with_it:
        left["ended_with_it"] = [_described(one) for one in process_end.ended_with_it[:_NAMED_MAX]]
    if process_end.left_running:
        left["left_running"] = process_end.left_running
    if process_end.is_unseen:
        return left
    facts: dict[str, Any] = {
        **left,
        "cpu_seconds": round(process_end.cpu_seconds, 6),
        "peak_memory_bytes": process_end.peak_memory_bytes,
    }
    # Only unusual facts are recorded (on the bound: docs/decisions/0004).
    if process_end.peak_memory_is_bound:
        facts["peak_memory_is_bound"] = True
    if process_end.stdin_unread:
        facts["stdin_unread"] = True
    if process_end.output_held_open:
        facts["output_held_open"] = True
    if process_end.killed:
        facts["killed"] = True
    if process_end.memory_by_group:
        facts["memory_limit"] = BY_GROUP
    return facts


def _described(process: LeftOver) -> dict[str, Any]:
    started = {} if process.pid_started is None else {"pid_started": process.pid_started}
    return {
        "pid": process.pid, **started, "user": _user_name(process.uid), "program": storable(process.program),
    }  # fmt: skip


@functools.cache  # a directory service may take its time
def _user_name(uid: int) -> str:
    try:
        return str(storable(pwd.getpwuid(uid).pw_name))
    except KeyError:
        return str(uid)


def without_unread_stdin(process_end: ProcessEnd) -> ProcessEnd:
    """The end without that fault, for a process whose stdin was never one task's alone."""
    return dataclasses.replace(process_end, stdin_unread=False)

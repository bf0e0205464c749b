"""The end of a run, and a start that failed, in the words of the seam.

Responsible for: what END and NOT_STARTED say of one run. Must not know: connections, other runs, tasks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from disbatch_host.process.facts import process_started
from disbatch_host.process.family import Member
from disbatch_host.process.flags import How
from disbatch_host.process.frames import ALIVE, End, NotStarted, Step, Stop
from disbatch_host.process.framing import Left, packed, unpacked_processes
from disbatch_host.process.interface import LeftOver, ProcessEnd, Start, StartError, StopReason, Stream

PIPE_SIZE = 2**16  # bytes of stdin that nobody misses: a pipe holds them
MICRO = 1_000_000
_NOBODY = packed([])

STOPS: Mapping[StopReason, Stop] = MappingProxyType(
    {
        StopReason.TIMEOUT: Stop.TIMEOUT,
        StopReason.IDLE_TIMEOUT: Stop.IDLE_TIMEOUT,
        StopReason.CANCELLED: Stop.CANCELLED,
        StopReason.SHUTDOWN: Stop.SHUTDOWN,
        StopReason.LOST: Stop.LOST,
        StopReason.REPLACED: Stop.REPLACED,
    }
)
REASONS: Mapping[int, StopReason] = MappingProxyType({int(number): reason for reason, number in STOPS.items()})


def end_of(frame: End, *, stdin_left: int, input_bytes: int) -> ProcessEnd:
    """`stdin_left`: of its input, what it has not read; `input_bytes`: of its last input as a whole."""
    exit_code = number = None
    if frame.status != ALIVE and os.WIFSIGNALED(frame.status):
        number = os.WTERMSIG(frame.status)
    elif frame.status != ALIVE:
        exit_code = os.waitstatus_to_exitcode(frame.status)
    return ProcessEnd(
        exit_code=exit_code,
        signal=number,
        stopped=REASONS.get(frame.stopped),
        killed_after_seconds=None if frame.killed_after < 0 else frame.killed_after / MICRO,
        stdin_unread=bool(frame.flags & How.STDIN_REFUSED) and input_bytes > PIPE_SIZE,
        stdin_left_bytes=stdin_left,
        output_held_open=bool(frame.flags & How.HELD_OPEN),
        cpu_seconds=frame.cpu / MICRO,
        peak_memory_bytes=frame.peak,
        peak_memory_is_bound=bool(frame.flags & How.PEAK_IS_BOUND),
        memory_by_group=bool(frame.flags & How.MEMORY_BY_GROUP),
        hit_memory_limit=bool(frame.flags & How.MEMORY_LIMIT),
        left_over=_processes(frame.left_over),
        ended_with_it=_processes(frame.ended),
        left_running=frame.left_running,
        seconds=frame.seconds / MICRO,
        age_seconds=frame.age / MICRO,
    )


def _processes(blob: bytes) -> tuple[LeftOver, ...]:
    """With the start of each that is there, which tells it from a later process of the same number."""
    if blob == _NOBODY:
        return ()
    return tuple([LeftOver(one.pid, _started_of(one), one.uid, one.name) for one in unpacked_processes(blob)])


def _started_of(left: Left) -> int | None:
    """None if it has ended: END may have waited for long, and the number may be another's by now."""
    started = process_started(left.pid)
    return started if started is not None and Member(left.pid, started).described() == left else None


def rest_in(frame: End) -> list[tuple[Stream, int, bytes]]:
    """The rest of each stream that came with the end: its offset, and what it is."""
    rest = (
        (Stream.STDOUT, frame.stdout_at, frame.stdout),
        (Stream.STDERR, frame.stderr_at, frame.stderr),
        (Stream.EVENTS, frame.events_at, frame.events),
    )
    return [one for one in rest if one[2]]


def unseen_end(stopped: StopReason | None, left_over: tuple[LeftOver, ...], why: str) -> ProcessEnd:
    """Of a run whose supervisor ended before it, and why that did. `left_over`: of all runs of that supervisor."""
    return ProcessEnd(
        exit_code=None,
        signal=None,
        stopped=stopped,
        killed_after_seconds=None,
        stdin_unread=False,
        stdin_left_bytes=0,
        output_held_open=False,
        cpu_seconds=0.0,
        peak_memory_bytes=0,
        peak_memory_is_bound=False,
        is_unseen=True,
        why_unseen=why,
        left_over=left_over,
    )


def start_error(start: Start | None, failure: NotStarted) -> StartError:
    """Why nothing was executed. `start`: None if it was an earlier node's."""
    number = failure.errno
    program = "its program" if start is None else start.program.argv[0]
    if failure.step == Step.PIPES:
        return StartError(f"cannot make pipes for it: {os.strerror(number)}", errno=number)
    if failure.step == Step.SPOOL:  # whatever it is, another program's input could not be kept either
        why = f"its input cannot be kept until it is read: {os.strerror(number)}"
        return StartError(f"cannot start {program}: {why}", errno=errno.ENOSPC)
    if failure.step == Step.STOPPED:
        return StartError(f"cannot start {program}: it was stopped before that")
    if failure.step == Step.DIRECTORY:
        why = f"its working directory{'' if start is None else f' {start.directory}'} is not there"
    elif failure.step == Step.LIMITS:
        why = f"its limits cannot be set: {os.strerror(number)}"
    elif number == errno.ENOENT and (start is None or Path(program).exists()):
        why = "the interpreter that it names is not there"
    elif number == errno.ENOEXEC:
        why = 'not a program of this machine, and no "#!" line says what runs it'
    else:
        why = os.strerror(number)
    return StartError(f"cannot start {program}: {why}", errno=number)


def micro(seconds: float | None) -> int:
    """For a frame: 0, which means none, only for None."""
    return 0 if seconds is None else max(1, round(seconds * MICRO))

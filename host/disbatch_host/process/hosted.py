"""One run at a supervisor, as its node knows it from the frames that have come.

Responsible for: what is asked of one run, and what was told of it. Must not know: connections, other runs, tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from disbatch_host.process.ends import MICRO, REASONS, end_of, micro, rest_in, start_error, unseen_end
from disbatch_host.process.frames import (
    PART_MAX,
    Ack,
    Acknowledged,
    Closed,
    End,
    Events,
    Frame,
    NotStarted,
    Output,
    Run,
    Said,
    Started,
    Task,
)
from disbatch_host.process.interface import (
    Deadlines,
    LeftOver,
    ProcessEnd,
    ProcessListener,
    Start,
    StartError,
    StartListener,
    StopReason,
    Stream,
    Trust,
    Usage,
)
from disbatch_host.process.talk import Talk
from disbatch_host.process.told import Told

_UNKNOWN_INPUT = 2**62  # bytes: of a run that an earlier node started
_NO_USAGE = Usage(cpu_seconds=0.0, memory_bytes=0, peak_memory_bytes=0)
_STREAMS = {int(Output.STDOUT): Stream.STDOUT, int(Output.STDERR): Stream.STDERR, int(Output.EVENTS): Stream.EVENTS}


class Sender(Protocol):
    """What a run needs of its host."""

    @property
    def keeps_output(self) -> bool:
        """See `link.Link`."""

    def send(self, frame: Frame) -> None:
        """Send a frame, with everything else that is said in this turn."""

    def send_input(self, run: int, data: bytes) -> None:
        """More of the input of a run, in parts."""

    def after_answer(self, callback: Callable[[], None]) -> None:
        """See `Pulse.after_answer`."""

    def forget(self, run: int, *, is_anything_left: bool = False) -> None:
        """The run is over."""


class HostedProcess:
    """See `interface.Process`: what is known of it from the frames that have come."""

    def __init__(
        self,
        run: int,
        start: Start | None,
        listener: ProcessListener,
        host: Sender,
        on_begun: Callable[[], None],
        on_failed: Callable[[StartError], None],
        *,
        is_held: bool,
    ) -> None:
        """`start`: None if that was an earlier node's. `on_begun`, `on_failed`: one of both is called, once.
        `is_held`: the listener is told nothing before `open`."""
        self.run = run
        self.note = b"" if start is None else start.note
        self.pid = self._pid_started = 0
        self._start = start
        self._listener = listener
        self._host = host
        self._stopped: StopReason | None = None
        self._end: ProcessEnd | None = None
        self._told = Told()
        self._on_begun: Callable[[], None] | None = on_begun  # until it is known
        self._on_failed: Callable[[StartError], None] | None = on_failed
        self._held: list[Frame] | None = [] if is_held else None  # see `open`
        self._is_abandoned = self._start_has_failed = self._is_lost = False
        self._gone: tuple[tuple[LeftOver, ...], str] | None = None  # see `end_unseen`
        self._usage, self._stdin_left = _NO_USAGE, 0
        self._has_limits = True  # as far as it is known
        self._input_bytes = _UNKNOWN_INPUT if start is None else len(start.stdin or b"")
        self._was_handed_over = self._is_ending = False  # anything after its start; its end, which is not told yet
        self._refused_bytes = 0  # of what was handed over last, if that was refused
        self._is_followed = not host.keeps_output
        is_talk = host.keeps_output and start is not None and start.keeps_stdin_open
        self._talk = Talk(self._told.ends, self._hear_events) if is_talk else None
        self._unfinished: End | None = None  # there is more of its output than came with it

    @classmethod
    def adopted(
        cls, kept: Run, frames: list[Frame], listener: StartListener, host: Sender, *, keeps_stdin_open: bool
    ) -> HostedProcess:
        """A run that an earlier node started, of which these frames have come. Its listener is told everything from
        its beginning on, but nothing before `open`."""
        process = cls(kept.run, None, listener, host, listener.begun, listener.not_started, is_held=True)
        process.note = kept.task_note or kept.note
        process._talk = Talk(process._told.ends, process._hear_events, tasks=kept.task) if keeps_stdin_open else None
        process._stdin_left = kept.stdin_left
        process.pid, process._pid_started = kept.pid, kept.pid_started
        process._held = frames if not kept.pid else [Started(kept.run, kept.pid, kept.pid_started), *frames]
        process.follow()
        return process

    def resume(self, host: Sender, kept: Run | None, frames: list[Frame]) -> bool:
        """There is another connection to its supervisor, which has told these frames about it; `kept` is None if it
        does not have the run. Says again what may not have been heard. Returns whether it is to be started again."""
        self._host = host
        if kept is None:
            is_unheard = self._on_begun is not None
            if not is_unheard and self._end is None:
                self.end_unseen()
            return is_unheard
        self._unfinished = None
        if kept.pid and self._on_begun is not None:
            self.take(Started(kept.run, kept.pid, kept.pid_started))
        self.ask_again()
        if self._talk is not None and (unheard := self._talk.unheard(kept.task)) is not None:
            self.hand_over(*unheard)
        for frame in frames:
            self.take(frame)
        return False

    def ask_again(self) -> None:
        """Say what was asked for and cannot be taken back."""
        for frame in self._told.asked(self.run, self._stopped):
            self._host.send(frame)
        if self._is_followed and self._end is None:
            self._ask_for_output()

    @property
    def start(self) -> Start | None:
        """None if that was an earlier node's."""
        return self._start

    @property
    def pid_started(self) -> int | None:
        return self._pid_started or None

    @property
    def is_running(self) -> bool:
        return self._end is None and not self._is_ending and not self._is_lost

    @property
    def has_ended(self) -> bool:
        return self._end is not None

    @property
    def stopped(self) -> StopReason | None:
        return self._stopped

    @property
    def unacknowledged(self) -> Mapping[Stream, int]:
        return self._told.unacknowledged

    @property
    def stdin_left_bytes(self) -> int:
        return self._stdin_left

    def take(self, frame: Frame) -> None:
        """A frame about this run."""
        if self._is_abandoned:
            if isinstance(frame, End | NotStarted):
                self._host.send(self._told.end_ack(self.run))
                self._host.forget(self.run)
            return
        if self._held is not None and not isinstance(frame, Started | NotStarted):
            self._held.append(frame)
            if isinstance(frame, End):  # it was too short to be told before
                self._mark_begun(frame.pid)
            return
        match frame:
            case Started():
                self._pid_started = frame.pid_started
                self._mark_begun(frame.pid)
            case End() if self._was_handed_over:
                self._is_ending = True  # perhaps told before the last task was read
                self._host.after_answer(partial(self._finish, frame))
            case End():
                self._finish(frame)
            case Said():
                self._hear(_STREAMS[frame.stream], frame.offset, frame.data)
                if self._talk is not None:
                    self._talk.go_on()
                if self._unfinished is not None:
                    self._finish_when_all_is_told(self._unfinished)
            case Events() if self._talk is not None:
                self._talk.take(frame)
            case Events():
                self._hear_events(frame)
            case NotStarted():
                self._fail(frame)
            case Closed():
                self._listener.closed(_STREAMS[frame.stream])

    def open(self) -> None:
        """Its listener is told from now on what comes, and first what has come already."""
        held, self._held = self._held or (), None
        for frame in held:
            self.take(frame)
        if self._gone is not None:
            self.end_unseen(*self._gone)

    def abandon(self) -> None:
        """Nobody waits for its start any more: it is killed as soon as it runs, and forgotten with its end."""
        if self._start_has_failed:
            return
        self._is_abandoned = True
        if self._gone is not None:
            self._host.forget(self.run)
            return
        self._host.send(self._told.kill(self.run, StopReason.LOST))
        for frame in self._held or ():
            self.take(frame)

    def lose(self) -> None:
        """Its supervisor has ended: nothing more is heard of it, and nothing can be asked for it."""
        self._is_lost = True

    def end_unseen(self, left_over: tuple[LeftOver, ...] = (), why: str = "") -> None:
        """It was lost, and nothing of it is left but, perhaps, some of these. `why`: its supervisor has ended."""
        self._gone = left_over, why
        if self._is_abandoned:
            self._host.forget(self.run)
        elif self._held is not None:
            self._mark_begun(self.pid)  # it may have been started: who waits for that is told of its end
        elif self._end is None:
            self._mark_begun(self.pid)
            self._end = unseen_end(self._stopped, left_over, why)
            self._usage = _NO_USAGE
            self._listener.ended(self._end)

    def follow(self) -> bool:
        if self._is_followed:
            return False
        self._is_followed = True
        self._ask_for_output()
        return True

    def _ask_for_output(self) -> None:
        for frame in self._told.windows(self.run):
            self._host.send(frame)

    def close_stdin(self) -> None:
        self._host.send(self._told.close_stdin(self.run))

    def hand_over(self, note: bytes, data: bytes, deadlines: Deadlines, trust: Trust | None = None) -> None:
        self.note = note
        self._was_handed_over, self._refused_bytes = True, 0
        self._usage = _NO_USAGE
        self._input_bytes = len(data)
        if self._talk is not None:
            self._talk.hand_over(note, data, deadlines, trust)
        self._limit(deadlines, note, data[:PART_MAX], len(data), trust)
        self._host.send_input(self.run, data[PART_MAX:])

    def limit(self, deadlines: Deadlines) -> None:
        if self._talk is not None:
            self._talk.end_task()
        has_any = deadlines.timeout_seconds is not None or deadlines.idle_timeout_seconds is not None
        if has_any or self._has_limits:
            self._limit(deadlines, b"", b"", 0)

    def _limit(self, deadlines: Deadlines, note: bytes, data: bytes, total: int, trust: Trust | None = None) -> None:
        timeout, idle_timeout = micro(deadlines.timeout_seconds), micro(deadlines.idle_timeout_seconds)
        self._has_limits = bool(timeout or idle_timeout)
        number = 0 if self._talk is None else self._talk.tasks
        asked_at, trusted = (0, 0) if trust is None else (micro(trust.asked_at), micro(trust.seconds))
        self._host.send(Task(self.run, number, timeout, idle_timeout, asked_at, trusted, total, note, data))

    def usage(self) -> Usage:
        return self._usage

    def acknowledge(self, offsets: Mapping[Stream, int], *, with_end: bool = False) -> None:
        self._told.acknowledge(offsets)
        if self._talk is None and self._host.keeps_output and (ack := self._told.ack_of_events(self.run)) is not None:
            self._host.send(ack)
        if with_end and self._talk is not None and self._end is None:
            stdout, stderr, events = (offsets.get(stream, 0) for stream in Stream)
            self._host.send(Ack(self.run, stdout, stderr, events, Acknowledged.OFFSETS))

    def forget(self) -> None:
        if self._end is None:
            raise ValueError(f"run {self.run} has not ended; it cannot be forgotten")
        self._host.send(self._told.end_ack(self.run))
        self._host.forget(self.run, is_anything_left=bool(self._end.left_over) and not self._is_lost)

    def stop(self, reason: StopReason) -> None:
        if self._stopped is None and self._end is None:
            self._stopped = reason
            self._host.send(self._told.stop(self.run, reason))

    def kill(self, reason: StopReason) -> None:
        if self._end is None:
            self._stopped = self._stopped or reason
            self._host.send(self._told.kill(self.run, reason))

    def _mark_begun(self, pid: int) -> None:
        self.pid = pid
        on_begun, self._on_begun, self._on_failed = self._on_begun, None, None
        if on_begun is not None:
            on_begun()

    def _fail(self, frame: NotStarted) -> None:
        on_failed, self._on_begun, self._on_failed = self._on_failed, None, None
        if on_failed is not None:
            self._host.forget(self.run)
            self._start_has_failed = True
            on_failed(start_error(self._start, frame))
        elif not self._start_has_failed:
            # What was handed over last could not be kept, or was too late: not a byte of it was written.
            self._refused_bytes = self._input_bytes
            self.kill(StopReason.REPLACED)

    def _hear(self, stream: Stream, offset: int, data: bytes) -> None:
        ends = self._told.ends
        ends[stream] = max(ends[stream], offset + len(data))
        self._listener.said(stream, offset, data)

    def _hear_events(self, frame: Events) -> None:
        self._stopped = self._stopped or REASONS.get(frame.stopped)
        self._usage = Usage(frame.cpu / MICRO, frame.memory, frame.peak)
        self._stdin_left = frame.stdin_left
        self._hear(Stream.EVENTS, frame.offset, frame.data)

    def _finish(self, frame: End) -> None:
        if self._end is not None:
            return  # told again to another connection
        self._mark_begun(frame.pid or self.pid)
        self._stdin_left = frame.stdin_left + self._refused_bytes
        for stream, offset, data in rest_in(frame):
            self._hear(stream, offset, data)
        self._finish_when_all_is_told(frame)

    def _finish_when_all_is_told(self, frame: End) -> None:
        """What is too much for END comes after it, if it is asked for."""
        if self._host.keeps_output and not self._told.has_all_of(frame):
            if self._unfinished is None:
                self._ask_for_output()
            self._unfinished = frame
            return
        self._unfinished = None
        if self._talk is not None:
            self._talk.go_on(is_all=True)
            self._talk = None  # each holds the other, which only the garbage collector would free
        self._stopped = REASONS.get(frame.stopped)
        self._end = end_of(frame, stdin_left=self._stdin_left, input_bytes=self._input_bytes)
        self._usage = _NO_USAGE
        self._listener.ended(self._end)

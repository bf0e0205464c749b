"""How far the streams of one run have been told to its node, and what was asked of it.

Responsible for: offsets, and the frames that follow from them. Must not know: who sends them, what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from disbatch_host.process.ends import STOPS
from disbatch_host.process.frames import Ack, Acknowledged, End, Frame, KillRun, Output, StdinEof, StopRun, Window
from disbatch_host.process.interface import StopReason, Stream

_EVENTS_KEPT = 2**24  # bytes; a supervisor keeps four times as many
_WIDE = 2**62  # bytes of a window: all that ever comes
_NOTHING: Mapping[Stream, int] = dict.fromkeys(Stream, 0)
_OUTPUTS = (Output.STDOUT, Stream.STDOUT), (Output.STDERR, Stream.STDERR)


class Told:
    """The streams, and what was asked and cannot be taken back."""

    __slots__ = ("_acknowledged", "_dropped", "_is_closed", "_is_killed", "_is_stopped", "ends")

    def __init__(self) -> None:
        self.ends = dict(_NOTHING)
        self._acknowledged = dict(_NOTHING)
        self._dropped = 0  # bytes of events that the supervisor keeps no longer
        self._is_closed = self._is_stopped = self._is_killed = False

    @property
    def unacknowledged(self) -> Mapping[Stream, int]:
        """See `Process.unacknowledged`."""
        return {stream: left for stream in Stream if (left := self.ends[stream] - self._acknowledged[stream])}

    def acknowledge(self, offsets: Mapping[Stream, int]) -> None:
        """See `Process.acknowledge`."""
        for stream, offset in offsets.items():
            told = self.ends[stream]
            if offset > told:
                raise ValueError(f"{stream} was reported up to {told}; {offset} cannot be acknowledged")
            self._acknowledged[stream] = max(self._acknowledged[stream], offset)

    def ack_of_events(self, run: int) -> Ack | None:
        """For a run with so many events that its supervisor would soon keep no more, and have it wait: the oldest need
        not be kept, although another node could then not begin at the beginning."""
        stored = self._acknowledged[Stream.EVENTS]
        if stored - self._dropped < _EVENTS_KEPT:
            return None
        self._dropped = stored
        return Ack(run, 0, 0, stored, Acknowledged.OFFSETS)

    def end_ack(self, run: int) -> Ack:
        """Its end is stored, and with it everything else."""
        has = self._acknowledged
        return Ack(run, has[Stream.STDOUT], has[Stream.STDERR], has[Stream.EVENTS], Acknowledged.END)

    def windows(self, run: int) -> list[Window]:
        """For everything that was not told so far."""
        return [Window(run, output, self.ends[stream], _WIDE) for output, stream in _OUTPUTS]

    def has_all_of(self, end: End) -> bool:
        """Whether nothing is missing of what it wrote to stdout and stderr."""
        return self.ends[Stream.STDOUT] >= end.stdout_end and self.ends[Stream.STDERR] >= end.stderr_end

    def close_stdin(self, run: int) -> Frame:
        self._is_closed = True
        return StdinEof(run)

    def stop(self, run: int, reason: StopReason) -> Frame:
        self._is_stopped = True
        return StopRun(run, STOPS[reason])

    def kill(self, run: int, reason: StopReason) -> Frame:
        self._is_killed = True
        return KillRun(run, STOPS[reason])

    def asked(self, run: int, reason: StopReason | None) -> list[Frame]:
        """All that was asked, for another connection. `reason`: of the stop."""
        frames = [self.close_stdin(run)] if self._is_closed else []
        if self._is_killed:
            frames.append(self.kill(run, reason or StopReason.LOST))
        elif self._is_stopped:
            frames.append(self.stop(run, reason or StopReason.LOST))
        return frames

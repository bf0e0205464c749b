"""The runs that a supervisor has from an earlier node, until their node has decided about each.

Responsible for: keeping what is told of them meanwhile, and forgetting, with their end, those that nobody wants. Must
not know: tasks, what is decided and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from disbatch_host.process.ends import MICRO
from disbatch_host.process.frames import Ack, Acknowledged, End, Frame, NotStarted, Run, State, Stop, StopRun
from disbatch_host.process.framing import unpacked_processes
from disbatch_host.process.interface import KeptRun


class Undecided:
    """Of one supervisor. `say` sends a frame to it."""

    def __init__(self, say: Callable[[Frame], None], note_of: Callable[[int], bytes]) -> None:
        """`note_of`: of a plugin, by its number."""
        self._say = say
        self._note_of = note_of
        self._runs: dict[int, tuple[Run, list[Frame]]] = {}
        self.left_over: dict[int, bytes] = {}  # the notes of runs whose end is recorded, of which something is there
        self._unwanted: dict[int, bytes] = {}  # their notes
        self._stopped: set[int] = set()  # of these
        self._ended_at: dict[int, float] = {}  # when END came, by the monotonic clock

    def take(self, frame: Frame) -> None:
        """A frame about a run that this node has not started."""
        number: int = getattr(frame, "run", 0)
        if isinstance(frame, Run):
            if frame.state == State.LEFT_OVER:  # GONE follows, and nothing else
                self.left_over[number] = frame.task_note or frame.note
            else:
                self._runs[number] = (frame, [])
        elif number in self._unwanted:
            self._forget_ended(frame)
        elif number in self._runs:
            if isinstance(frame, End):
                self._ended_at[number] = time.monotonic()
            self._runs[number][1].append(frame)

    @property
    def is_over(self) -> bool:
        """Whether nothing of them is there any more."""
        return not (self._runs or self._unwanted or self.left_over)

    def runs(self) -> list[KeptRun]:
        """Those about which nothing is decided."""
        return [
            KeptRun(
                run=frame.run,
                note=frame.task_note or frame.note,
                start_note=frame.note,
                program_note=self._note_of(frame.plugin),
                pid=frame.pid,
                pid_started=frame.pid_started or None,
                age_seconds=frame.age / MICRO,
                has_ended=frame.state == State.ENDED,
                task_age_seconds=frame.task_age / MICRO,
            )
            for frame, _ in self._runs.values()
        ]

    def adopt(self, number: int) -> tuple[Run, list[Frame]]:
        """It is this node's from now on: what is known of it, and the frames that have come. Raises KeyError."""
        kept, frames = self._runs.pop(number)
        waited = round((time.monotonic() - self._ended_at.pop(number, time.monotonic())) * MICRO)
        return kept, [one._replace(age=one.age + waited) if isinstance(one, End) else one for one in frames]

    def take_from(self, other: Undecided) -> None:
        """This is another connection to the same supervisor: what was decided about those that are left holds."""
        for number in list(self._runs):
            if number in other._stopped:
                self.disown(number)
            elif number not in other._runs:
                self.leave_alone(number)

    def disown(self, number: int) -> None:
        """It is to be stopped, and to be forgotten with its end."""
        self._say(StopRun(number, Stop.LOST))
        self._stopped.add(number)
        self.leave_alone(number)

    def leave_alone(self, number: int) -> None:
        """It may run on, and is to be forgotten with its end."""
        kept, frames = self._runs.pop(number)
        self._unwanted[number] = kept.task_note or kept.note
        for frame in frames:
            self._forget_ended(frame)

    def _forget_ended(self, frame: Frame) -> None:
        if isinstance(frame, End):
            self._say(Ack(frame.run, 0, 0, 0, Acknowledged.END))
            if unpacked_processes(frame.left_over):  # GONE follows
                self.left_over[frame.run] = self._unwanted[frame.run]
        if isinstance(frame, End | NotStarted):
            del self._unwanted[frame.run]
            self._stopped.discard(frame.run)

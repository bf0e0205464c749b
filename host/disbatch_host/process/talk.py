"""What a supervisor that outlives its node does not do by itself for a process with an open stdin.

Responsible for: telling events only after the output that was written before them, and which task has to be handed over
again where nobody heard it. Must not know: frames that are sent, what a task is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from disbatch_host.process.frames import Events
from disbatch_host.process.interface import Deadlines, Stream, Trust

_Task = tuple[bytes, bytes, Deadlines, Trust | None]


class Talk:
    """Of one process."""

    def __init__(self, told: Mapping[Stream, int], hear: Callable[[Events], None], *, tasks: int = 0) -> None:
        """`told`: how far stdout and stderr have been told; `hear`: events whose turn it is; `tasks`: the number of the
        last one that it was given."""
        self.tasks = tasks
        self._told = told
        self._hear = hear
        self._early: deque[Events] = deque()
        self._in_hand: _Task | None = None

    def take(self, frame: Events) -> None:
        """More events."""
        self._early.append(frame)
        self.go_on()

    def go_on(self, *, is_all: bool = False) -> None:
        """More output was told. `is_all`: nothing more will come."""
        while self._early:
            first = self._early[0]
            is_behind = self._told[Stream.STDOUT] < first.stdout_at or self._told[Stream.STDERR] < first.stderr_at
            if is_behind and not is_all:
                return
            self._hear(self._early.popleft())

    def hand_over(self, note: bytes, data: bytes, deadlines: Deadlines, trust: Trust | None) -> None:
        """It was given a task."""
        self.tasks += 1
        self._in_hand = (note, data, deadlines, trust)

    def end_task(self) -> None:
        """It has none."""
        self._in_hand = None

    def unheard(self, tasks: int) -> _Task | None:
        """The task that has to be handed over again if the supervisor knows of so many."""
        if self._in_hand is None or tasks >= self.tasks:
            return None
        self.tasks -= 1
        return self._in_hand

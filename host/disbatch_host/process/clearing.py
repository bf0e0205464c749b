"""Ending the processes of one run: its stop signal, SIGKILL after the grace, and what its first process has left.

Responsible for: that each process gets the stop signal once, that SIGKILL is repeated until nobody is found, and that
what a run leaves behind is asked to end before it is killed. Must not know: pipes, why a run is stopped, how its first
process ended.

Rules:
1. The stop signal goes to the whole run, and the grace lasts as long as anything of the run lives.
2. After an end that nobody asked for, what is left is told to end (SIGTERM), and killed after the same grace. With
   LEAVE_RUNNING, what has left the session is let alone then.
3. SIGKILL is repeated, since a process may fork while the others are killed, for `_KILLING_SECONDS` at most. A
   process that is alive then is another user's, or cannot be interrupted: it is left over.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Protocol

from disbatch_host.process import family
from disbatch_host.process.flags import Has
from disbatch_host.process.framing import Left
from disbatch_host.process.spawn import Launch
from disbatch_host.process.watching import Timer, Watching

_LOOK_SECONDS = 0.02  # between two looks at what a run has left
_PASS_SECONDS, _PASS_MAX_SECONDS = 0.01, 0.2  # between two passes of SIGKILL: longer each time
_KILLING_SECONDS = 5.0
_PASSES = 2  # that find nobody, until it counts as over


class Surroundings(Protocol):
    """What is known of the processes of this machine."""

    def processes(self) -> family.Processes:
        """All processes, as they are now."""

    def may_have_left(self, leader: int) -> bool:
        """Whether anything of a run whose first process has ended may be alive."""


class Clearing:
    """See the module. Its first process, `leader`, must not be reaped before `on_clear` was called."""

    def __init__(
        self, leader: int, mark: bytes, launch: Launch, watching: Watching, surroundings: Surroundings,
        on_clear: Callable[[list[family.Member]], None],
    ) -> None:  # fmt: skip
        """`on_clear` is called once: with what is left over, after `leader_ended` and when nothing else is left, or
        without that if not even the leader could be ended."""
        self.ended: list[Left] = []  # told to end by rule 2
        self.left_running = 0  # let alone by rule 2
        self.stopped_at: float | None = None
        self.killed_at: float | None = None  # when SIGKILL was decided on, before the leader had ended
        self._leader = leader
        self._mark = mark
        self._launch = launch
        self._watching = watching
        self._surroundings = surroundings
        self._on_clear: Callable[[list[family.Member]], None] | None = on_clear
        self._has_leader = True
        self._is_settling = False
        self._passes = 0  # that have found nobody
        self._pass_seconds = _PASS_SECONDS
        self._grace: Timer | None = None
        self._look: Timer | None = None
        self._pass: Timer | None = None
        self._end_of_passes: Timer | None = None

    def stop(self) -> None:
        """The stop signal now, SIGKILL after the grace."""
        self.stopped_at = self._watching.now()
        self._signal_all(self._launch.stop_signal)
        self._signal_all(signal.SIGCONT)  # a stopped process does not act on any other
        self._grace = self._watching.after(self._launch.grace_seconds, self.kill)

    def kill(self) -> None:
        """SIGKILL now. Doing it twice is fine."""
        if self._on_clear is None or self._end_of_passes is not None:
            return
        if self._has_leader:
            self.killed_at = self._watching.now()
        self._end_of_passes = self._watching.after(_KILLING_SECONDS, self._give_up)
        self._kill_pass()

    def leader_ended(self) -> None:
        """The first process is a zombie now."""
        self._has_leader = False

    def settle(self) -> None:
        """Nothing more is waited for but what is left of the run."""
        if self._is_settling:
            return
        self._is_settling = True
        if self._end_of_passes is not None:
            self._kill_pass()
            return
        left = self._left()
        if not left:
            self._finish([])
            return
        if self.stopped_at is None:
            self.ended = [member.described() for member in left]
            for member in left:
                member.send(signal.SIGTERM)
                member.send(signal.SIGCONT)
            self._grace = self._watching.after(self._launch.grace_seconds, self.kill)
        self._look = self._watching.after(_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if self._on_clear is None or self._end_of_passes is not None:
            return
        if self._left():
            self._look = self._watching.after(_LOOK_SECONDS, self._look_again)
        else:
            self._finish([])

    def _left(self) -> list[family.Member]:
        if not self._surroundings.may_have_left(self._leader):
            return []
        left = self._members()
        if self._launch.flags & Has.LEAVE_RUNNING and self.stopped_at is None:
            members, left = left, [one for one in left if family.session_of(one.pid) == self._leader]
            self.left_running = len(members) - len(left)
        return left

    def _members(self) -> list[family.Member]:
        return self._surroundings.processes().members_of(self._leader, self._mark)

    def _kill_pass(self) -> None:
        if self._on_clear is None:
            return
        if self._pass is not None:
            self._pass.cancel()
        self._passes = 0 if self._signal_all(signal.SIGKILL) else self._passes + 1
        if self._is_settling and self._passes >= _PASSES:
            self._finish([])
        else:
            self._pass = self._watching.after(self._pass_seconds, self._kill_pass)
            self._pass_seconds = min(_PASS_MAX_SECONDS, self._pass_seconds * 1.2)

    def _give_up(self) -> None:
        if self._on_clear is not None:
            self._finish(self._to_be_ended())

    def _to_be_ended(self) -> list[family.Member]:
        """What has not left the session, at an end that nobody asked for (rule 2)."""
        is_its_own_end = self._is_settling and self.stopped_at is None and self.killed_at is None
        return self._left() if is_its_own_end else self._members()

    def _signal_all(self, number: int) -> int:
        """Each process gets it once. Returns how many there were."""
        members = self._to_be_ended()
        others = [one for one in members if family.group_of(one.pid) != self._leader]
        # The group in one call: a process that is forked at this moment is not left out.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader, number)
        for member in others:
            member.send(number)
        return len(members) + self._has_leader

    def _finish(self, left_over: list[family.Member]) -> None:
        for timer in (self._grace, self._look, self._pass, self._end_of_passes):
            if timer is not None:
                timer.cancel()
        on_clear, self._on_clear = self._on_clear, None
        if on_clear is not None:
            on_clear(left_over)

"""Whether a supervisor answers.

Responsible for: asking it again and again, and saying since when it has not answered. Must not know: what a supervisor
does, what follows from its silence.

A supervisor that is stopped (SIGSTOP), or whose machine swaps, loses nothing: it goes on where it stood. So silence is
never taken for its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ASK_SECONDS = 1.0
SILENT_SECONDS = 5.0  # without an answer


class Pulse:
    """Used in one event loop; it asks only as long as there is a reason."""

    def __init__(self, ask: Callable[[int], None], has_reason: Callable[[], bool]) -> None:
        self._ask = ask
        self._has_reason = has_reason
        self._number = 0
        self._asked_at: float | None = None  # by the loop's clock; None: it has answered
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[int, Callable[[], None]] = {}  # for an answer, by its number

    def begin(self) -> None:
        """There is a reason now."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self._beat)

    def end(self) -> None:
        """Ending twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asked_at = None
        self._waiting.clear()

    def after_answer(self, callback: Callable[[], None]) -> None:
        """Call it once the supervisor has read everything that was said to it so far, and what it said to that was
        heard."""
        self._number += 1
        self._waiting[self._number] = callback
        self._ask(self._number)

    def hear(self, number: int) -> None:
        """An answer."""
        callback = self._waiting.pop(number, None)
        if callback is not None:
            callback()
        if number == self._number:
            self._asked_at = None

    @property
    def is_silent(self) -> bool:
        """Whether it has owed an answer for too long."""
        if self._asked_at is None:
            return False
        return asyncio.get_running_loop().time() - self._asked_at >= SILENT_SECONDS

    def _beat(self) -> None:
        self._timer = None
        if self._asked_at is None:
            if not self._has_reason():
                return
            self._number += 1
            self._asked_at = asyncio.get_running_loop().time()
            self._ask(self._number)
        self.begin()

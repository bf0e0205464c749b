"""Hearing in the event loop that others have written, where the store can tell.

Responsible for: when to look, as the store's last look and the system's announcements say. Must not know: what is done
about it, which store it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Look

# Calls something with the store, soon, and perhaps before it returns.
CallQuickly = Callable[[Callable[[Store], Look | None]], "asyncio.Future[Look | None]"]


class Listening:
    """A service. Made and used in the event loop."""

    def __init__(self, call_quickly: CallQuickly, on_change: Callable[[], None], pace: Pace) -> None:
        self._call_quickly = call_quickly
        self._on_change = on_change
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._looked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._announced_on: int | None = None  # the descriptor to listen to
        self._is_listening = False
        self._pauses = 0
        self._is_stopped = False

    def start(self) -> None:
        self._look()

    def stop(self) -> None:
        """The store may be closed afterwards. Stopping twice is fine."""
        self._is_stopped = True
        self._rest()

    def pause(self) -> None:
        """Something is done with the store that may write: that must not wake the event loop. To be followed by
        `resume`, which hears what others have announced meanwhile."""
        self._pauses += 1
        self._set_listening(False)

    def resume(self) -> None:
        self._pauses -= 1
        self._set_listening(True)

    def _look(self) -> None:
        self._rest()
        self._looked_at = self._loop.time()
        answer = self._call_quickly(lambda store: store.written_by_others())
        if answer.done():
            self._take(answer)
        else:
            answer.add_done_callback(self._take)

    def _take(self, answer: asyncio.Future[Look | None]) -> None:
        if self._is_stopped or answer.cancelled():
            return
        if answer.exception() is not None:  # the queues are read once a second anyway
            self._look_in(self._pace.refresh_seconds)
            return
        look = answer.result()
        if look is None:  # the store cannot tell
            return
        self._look_in(max(look.again_seconds, self._pace.watch_seconds))
        self._announced_on = look.announced_on
        self._set_listening(True)
        if look.has_changed:
            self._on_change()

    def _on_announcement(self) -> None:
        left = self._looked_at + self._pace.watch_seconds - self._loop.time()
        if left <= 0:
            self._look()
        else:
            self._rest()
            self._look_in(left)

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._set_listening(False)
        self._announced_on = None

    def _set_listening(self, is_wanted: bool) -> None:
        if self._announced_on is None or is_wanted is self._is_listening or (is_wanted and self._pauses):
            return
        self._is_listening = is_wanted
        if is_wanted:
            self._loop.add_reader(self._announced_on, self._on_announcement)
        else:
            self._loop.remove_reader(self._announced_on)

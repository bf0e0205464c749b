"""The thread of the store: calls that may take long, and turns that the event loop does not take.

Responsible for: what is handed to it, and the pauses while the store is away. Must not know: when the event loop takes
turns itself (`store_thread`), what a turn does.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any, Protocol

from disbatch_host.node.pace import Pace
from disbatch_host.node.store_items import Call, Record
from disbatch_host.node.store_turns import StoreTurns
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who takes the turns at present."""

    @property
    def is_inline(self) -> bool:
        """Whether the event loop does. It becomes true only while the lock of the store is held."""

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more will be handed in."""

    expected_until: float  # until then, records wait for a call that may come

    def offer_turns(self, taken: int) -> None:
        """The thread has done everything, `taken` items, and the store has been quick for a while."""

    def fail(self, error: BaseException) -> None:
        """Something that nobody expected has ended the thread."""


class TurnThread:
    """Handed to in the event loop; the rest is its own."""

    def __init__(self, store: Store, turns: StoreTurns, owner: Owner, pace: Pace) -> None:
        self.in_use = threading.Lock()  # the store
        self.handed = 0  # how many items were put into the inbox, as the event loop knows
        self._store = store
        self._turns = turns
        self._owner = owner
        self._pace = pace
        self._inbox: queue.SimpleQueue[Record | Call | None] = queue.SimpleQueue()  # None: wake up
        self._taken = 0
        self._calls: list[Call] = []  # that wait for no records
        self._last_turn = 0.0
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)

    @property
    def is_here(self) -> bool:
        """Whether the caller is this thread."""
        return threading.get_ident() == self._thread.ident

    def start(self) -> None:
        self._thread.start()

    def hand(self, item: Record | Call | None) -> None:
        """In the event loop."""
        self.handed += 1
        self._inbox.put(item)

    def join(self) -> None:
        """Wait for its end, in another thread than the event loop's. It may never have been started."""
        if self._thread.is_alive():
            self._thread.join()

    def take_what_is_left(self) -> list[Call]:
        """In the event loop, after the thread has failed: records and other calls go to the turns."""
        self._take_items(wait=False)
        return self._calls

    def _work(self) -> None:
        try:
            self._take_turns()
        except BaseException as error:
            self._owner.fail(error)

    def _take_turns(self) -> None:
        pause_seconds = self._pace.first_retry_seconds
        slow_at = time.monotonic()
        while True:
            self._take_in()
            if self._calls:
                self._carry_out_calls()
            if self._owner.is_inline:
                continue
            if not self._turns.has_work:
                if self._owner.is_stopping:
                    return
                if time.monotonic() - slow_at > self._pace.slow_rest_seconds:
                    slow_at = time.monotonic()
                    self._owner.offer_turns(self._taken)
                continue
            self._gather()
            began = time.monotonic()
            with self.in_use:
                if self._owner.is_inline:
                    continue
                self._store.be_patient(True)
                is_done = self._turns.take()
            if not is_done or time.monotonic() - began > self._pace.slow_turn_seconds:
                slow_at = time.monotonic()
            if is_done:
                pause_seconds = self._pace.first_retry_seconds
            elif not self._turns.gives_up:
                self._pause(pause_seconds)
                pause_seconds = min(2 * pause_seconds, self._pace.last_retry_seconds)

    def _take_in(self) -> None:
        """Take everything out of the inbox; wait for the first item if there is nothing else to do."""
        # Calls may have been taken out while a turn gathered, and the mark that `stop` puts into the inbox during a
        # pause: then nothing more need come.
        wait = not self._calls and (self._owner.is_inline or not (self._turns.has_work or self._owner.is_stopping))
        may_be_offered = not self._owner.is_inline and self._store.answers_at_once
        self._take_items(wait=wait, timeout=self._pace.slow_rest_seconds if may_be_offered else None)

    def _take_items(self, *, wait: bool, timeout: float | None = None) -> None:
        with contextlib.suppress(queue.Empty):
            item = self._inbox.get(wait, timeout)
            while True:
                self._take_item(item)
                item = self._inbox.get_nowait()

    def _take_item(self, item: Record | Call | None) -> None:
        self._taken += 1
        if isinstance(item, Record):
            self._turns.records.append(item)
        elif item is None:
            pass
        elif item.after is not None:
            self._turns.calls.append(item)
        else:
            self._calls.append(item)

    def _carry_out_calls(self) -> None:
        with self.in_use:
            self._store.be_patient(True)
            is_away = self._turns.is_away
            self._turns.carry_out(self._calls, [()] * len(self._calls), is_away=is_away)
        self._calls = []

    def _gather(self) -> None:
        """Under load, let a moment pass between two turns: a commit costs about the same for one change as for
        five."""
        left = self._last_turn + self._pace.turn_seconds - time.monotonic()
        if left > 0:
            time.sleep(left)
            self._take_items(wait=False)
        until = self._owner.expected_until  # read once: a steady stream of new ends must not put it off for ever
        while not (self._turns.calls or self._calls) and (left := until - time.monotonic()) > 0:
            self._take_items(wait=True, timeout=left)
        self._last_turn = time.monotonic()
        if self._turns.calls:
            self._owner.expected_until = 0.0

    def _pause(self, seconds: float) -> None:
        """Wait for the next attempt. New records do not cut this short, because they could not be written either, but a
        call or a request to give up does."""
        deadline = time.monotonic() + seconds
        while not self._turns.gives_up and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                item: Any = self._inbox.get(timeout=left)
                self._take_item(item)
                if isinstance(item, Call):
                    return

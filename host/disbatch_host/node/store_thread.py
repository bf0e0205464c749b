"""Who uses the node's store: the event loop, as long as that costs it next to nothing, or a thread.

Responsible for: taking in changes and calls, and having them done (`store_turns`) by the event loop or the thread.
Must not know: what a turn does, what a change means.

Rules:
1. Everything goes in through `record` and `call`, from the event loop, and comes back to the event loop. The store is
   used by one thread at a time.
2. The event loop takes the turns of changes, and of calls that wait for them, as long as the store answers at once (a
   file on a local disk): to hand each over to another thread and back costs more than the turn itself, since the two
   fight for the interpreter's lock. Large changes are not for it, and after a turn that was slow, or failed, the thread
   has them all until it has been quick for a while. All other calls are the thread's: they may take long.
3. Looks whether others have written (`listening`) are the event loop's too, as long as nobody uses the store: an idle
   node wakes no thread for them.
4. While the store is away, changes are tried again after a pause that grows.
5. If a turn itself fails, everything that waits fails as well, and `check` raises what has happened: the node ends by
   it.
6. The memory that waits is bounded: before a large record a run awaits `wait_for_budget`, and keeps it on disk until
   then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from disbatch_host.documents.changes import OutputChunk, Place, RunChange
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.listening import Listening
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_items import Call, Record, text_size
from disbatch_host.node.store_turns import StoreTurns
from disbatch_host.node.turn_thread import TurnThread
from disbatch_host.node.write_budget import WriteBudget
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_KEPT_BYTES_MAX = 32 * 2**20  # of all large records in memory: two batches, so that the store never waits for the next
_FAILED = "the use of the store has failed"
_LARGE_BYTES = 2**16  # smaller records need no budget; each run has one at most


class StoreThread:
    """The store behind a queue of changes and calls. Made and used in the thread of the event loop."""

    def __init__(
        self,
        store: Store,
        *,
        on_change: Callable[[], None] | None = None,
        on_written: Callable[[float], None] | None = None,
        pace: Pace = Pace(),
    ) -> None:
        """`on_change` is called in the event loop when somebody else has written, if the store can tell. `on_written`
        is called, in any thread, with the seconds that each written batch took."""
        self._store = store
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self.turns = StoreTurns(store, self._post, on_written)
        self.expected_until = 0.0  # until then, records wait for a call that may come
        self.is_inline = False  # the event loop takes the turns
        self.is_stopping = False
        self._thread = TurnThread(store, self.turns, self, pace)
        self._listening = None if on_change is None else Listening(self._call_quickly, on_change, pace)
        self._recorded = 0  # how many records have been handed in, ever
        self._write_budget = WriteBudget(_KEPT_BYTES_MAX)
        self._ended_by: BaseException | None = None  # what nobody expected, of a turn itself
        self._next_turn: asyncio.Handle | None = None  # of the event loop
        self._is_turn_late = False  # it waits for a call, or for the thread

    @property
    def records_waiting(self) -> int:
        """How many records are not yet written, as far as the calling thread can see."""
        return self._recorded - self.turns.answered

    @property
    def is_away(self) -> bool:
        """Whether the store could not be reached at the last attempt."""
        return self.turns.is_away

    def start(self) -> None:
        self.is_inline = self._store.answers_at_once and not self._thread.handed
        self._thread.start()
        if self._listening is not None:
            self._listening.start()

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        """Write a change and the pieces before it. The future is True once that is durable, False if the change was
        refused (somebody else owns the task now), or raises StoreError if the store will never take it. `frees`: the
        place that is free once that is written; see `call_after_records`."""
        record = Record(change, chunks, frees, self._loop.create_future())
        size = record.size + text_size(change)
        if size >= _LARGE_BYTES:
            self._write_budget.take(size, record.answer)
            self._leave_to_thread()
        self._recorded += 1
        if not self._is_refused(record):
            if self.is_inline:
                self.turns.records.append(record)
                self._plan_turn()
            else:
                self._thread.hand(record)
        return record.answer

    async def wait_for_budget(self) -> None:
        """Awaited directly before a large record, so that the output of all runs is not in memory at once while the
        store is slow, or away."""
        await self._write_budget.wait_for_room()

    def call(self, function: Callable[[Store], Result]) -> asyncio.Future[Result]:
        """Call something with the store, soon. The future raises what the call raises."""
        call = Call(lambda store, _: function(store), self._loop.create_future(), None)
        if not self._is_refused(call):
            if self._listening is not None:
                self._listening.pause()
                call.answer.add_done_callback(self._resume_listening)
            self._thread.hand(call)
        return call.answer

    def call_after_records(self, function: Callable[[Store, Sequence[Place]], Result]) -> asyncio.Future[Result]:
        """Call something once everything recorded before is written, and not at all if that is not possible now. It is
        given the places freed by records that were made later and are written before it all the same."""
        call = Call(function, self._loop.create_future(), self._recorded)
        if not self._is_refused(call):
            if self.is_inline:
                self.turns.calls.append(call)
                self._plan_turn()
            else:
                self._thread.hand(call)
        return call.answer

    def expect_call(self, within_seconds: float) -> None:
        """A call after records is about to come: records made before wait for it this long, since both together are
        one commit."""
        self.expected_until = time.monotonic() + within_seconds

    def check(self) -> None:
        """Raises whatever has ended the use of the store before it was stopped."""
        if self._ended_by is not None:
            raise self._ended_by

    def hurry(self) -> None:
        """The node will exit soon: do not wait for the next attempt to reach the store."""
        self._store.hurry()

    def give_up(self) -> None:
        """From now on, anything that cannot be written at the next attempt fails instead of being tried again."""
        self.turns.gives_up = True
        self._leave_to_thread()
        self._thread.hand(None)

    async def stop(self) -> None:
        """End the thread once everything handed in has been done, or has failed at one more attempt."""
        self.is_stopping = True
        if self._listening is not None:
            self._listening.stop()
        self.give_up()
        await self._loop.run_in_executor(None, self._thread.join)

    def _call_quickly(self, function: Callable[[Store], Result]) -> asyncio.Future[Result]:
        """Like `call`, for what takes some microseconds: done at once, if the event loop takes the turns and nobody
        uses the store."""
        if not self.is_inline or not self._thread.in_use.acquire(blocking=False):
            return self.call(function)
        answer: asyncio.Future[Result] = self._loop.create_future()
        try:
            self._store.be_patient(False)
            answer.set_result(function(self._store))
        except Exception as error:
            answer.set_exception(error)
        finally:
            self._thread.in_use.release()
        return answer

    def _resume_listening(self, _: asyncio.Future[Any]) -> None:
        if self._listening is not None:
            self._listening.resume()

    def _is_refused(self, item: Record | Call) -> bool:
        if self.is_stopping:
            item.answer.set_exception(StoreUnreachableError("the store is closed: the node has stopped"))
        elif self._ended_by is not None:
            item.answer.set_exception(StoreUnreachableError(_FAILED))
        return item.answer.done()

    def _leave_to_thread(self) -> None:
        """In the event loop: the thread takes the turns from now on, and what waits for the next one."""
        if self.is_inline:
            self.is_inline = False
            self._thread.hand(None)

    def _take_turns_back(self, taken: int) -> None:
        """In the event loop: take them again, if the thread has done everything that it was handed."""
        if taken != self._thread.handed or self.turns.gives_up or self._ended_by is not None:
            return
        if self._thread.in_use.acquire(blocking=False):  # so the thread is not about to take one
            self.is_inline = True
            self._thread.in_use.release()

    def _plan_turn(self) -> None:
        """A turn of the event loop, soon; at once if it was only waiting for a call that has come."""
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._take_turn_inline)
        elif self._is_turn_late and self.turns.calls:
            self._next_turn.cancel()
            self._is_turn_late = False
            self._next_turn = self._loop.call_soon(self._take_turn_inline)

    def _plan_late_turn(self, seconds: float) -> None:
        self._is_turn_late = True
        self._next_turn = self._loop.call_later(seconds, self._take_turn_inline)

    def _take_turn_inline(self) -> None:
        is_late, self._next_turn, self._is_turn_late = self._is_turn_late, None, False
        if not self.is_inline or not self.turns.has_work:
            return
        if not is_late and not self.turns.calls and (left := self.expected_until - time.monotonic()) > 0:
            self._plan_late_turn(left)  # once: a steady stream of new ends must not put it off for ever
            return
        if not self._thread.in_use.acquire(blocking=False):  # the thread is at a call, which may take long
            self._plan_late_turn(self._pace.turn_seconds)
            return
        began = time.monotonic()
        try:
            self._store.be_patient(False)
            is_done = self.turns.take_quickly()
        except BaseException as error:
            self.fail(error)
            return
        finally:
            self._thread.in_use.release()
        self.expected_until = 0.0
        if not is_done or time.monotonic() - began > self._pace.slow_turn_seconds:
            self._leave_to_thread()
        elif self.turns.has_work:
            self._plan_turn()

    def offer_turns(self, taken: int) -> None:
        """See `turn_thread.Owner`."""
        if self._store.answers_at_once:
            self._post(functools.partial(self._take_turns_back, taken))

    def fail(self, error: BaseException) -> None:
        """See `turn_thread.Owner`."""
        self._ended_by = error
        self._post(self._fail_everything)

    def _fail_everything(self) -> None:
        """In the event loop, where items are handed in: none is missed."""
        error = StoreUnreachableError(_FAILED)
        for call in self._thread.take_what_is_left():
            if not call.answer.done():
                call.answer.set_exception(error)
        self.turns.fail_everything(error)

    def _post(self, callback: Callable[[], Any]) -> None:
        """Call this in the event loop."""
        if not self._thread.is_here:
            callback()
            return
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("an answer of the store came after the event loop was closed")

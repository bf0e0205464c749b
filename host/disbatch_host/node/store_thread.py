"""The thread that owns the node's store: group commit for the runs, and calls for everything else.

Responsible for: taking all changes that have gathered, writing them as one batch, and telling each run whether its
change was carried out; keeping changes while the store is away. Must not know: what a change means.

Rules:
1. The store is used by this thread alone. Everything goes in through `record` and `call`, from the event loop, and
   comes back to the event loop.
2. While idle, the thread checks now and then whether others have written (`Store.written_by_others`).
3. Changes are written in the order in which they came. Those that come while a batch is written make the next one.
4. A change is never dropped: while the store cannot be reached it is tried again until it is written, or the store
   itself refuses it, or the node gives up at the end of its stop. Calls are not tried again: they fail, and the caller
   decides.
5. If the thread itself fails, everything that waits for it fails as well, and `check` raises what has happened: the
   node ends by it.
6. The memory that waits is bounded: before a large record a run awaits `wait_for_budget`, and keeps it on disk until
   then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, TypeVar

from disbatch_host import errors
from disbatch_host.documents.changes import OutputChunk, Place, RunChange, RunKey
from disbatch_host.errors import StoreError, StoreRefusedError, StoreUnreachableError, StoreUnwritableError
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_items import (
    Call,
    Record,
    answers_of,
    freed_late,
    set_exception,
    set_results,
    take_batch,
    take_in,
    text_size,
)
from disbatch_host.node.write_budget import WriteBudget
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_KEPT_BYTES_MAX = 32 * 2**20  # of all large records in memory: two batches, so that the thread never waits for the next
_THREAD_FAILED = "the thread of the store has failed"
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
        is called in the thread with the seconds that each written batch took."""
        self._store = store
        self._on_change = on_change
        self._on_written = on_written
        self._pace = pace
        self._can_tell = on_change is not None
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Record | Call | None] = queue.SimpleQueue()  # None: wake up
        self._records: deque[Record] = deque()  # taken out of the inbox, not yet written
        self._calls: deque[Call] = deque()
        self._recorded = 0  # how many records have been handed in, ever
        self._answered = 0  # how many of them have their answer
        self._last_turn = 0.0
        self._last_look = 0.0
        self._expected_until = 0.0  # until then, records wait for a call that may come
        self._is_stopping = False
        self._give_up = False
        self.is_away = False  # the store could not be reached at the last attempt
        self._batch: Sequence[Record] = ()  # the records and calls in work, to be failed if the thread itself fails
        self._calls_in_work: Sequence[Call] = ()
        self._last_refusal = ""  # as it was said
        self._ended_by: BaseException | None = None  # what nobody expected, of the thread itself
        self._write_budget = WriteBudget(_KEPT_BYTES_MAX)
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)

    @property
    def records_waiting(self) -> int:
        """How many records are not yet written, as far as the calling thread can see."""
        return self._recorded - self._answered

    def start(self) -> None:
        self._thread.start()

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
        self._recorded += 1
        return self._submit(record)

    async def wait_for_budget(self) -> None:
        """Awaited directly before a large record, so that the output of all runs is not in memory at once while the
        store is slow, or away."""
        await self._write_budget.wait_for_room()

    def call(self, function: Callable[[Store], Result]) -> asyncio.Future[Result]:
        """Call something with the store, with the next batch. The future raises what the call raises."""
        return self._submit(Call(lambda store, _: function(store), self._loop.create_future(), 0))

    def call_after_records(self, function: Callable[[Store, Sequence[Place]], Result]) -> asyncio.Future[Result]:
        """Call something once everything recorded before is written, and not at all if that is not possible now. It is
        given the places freed by records that were made later and are written before it all the same."""
        return self._submit(Call(function, self._loop.create_future(), self._recorded))

    def expect_call(self, within_seconds: float) -> None:
        """A call after records is about to come: records made before wait for it this long, since both together are
        one commit."""
        self._expected_until = time.monotonic() + within_seconds

    def check(self) -> None:
        """Raises whatever has ended the thread before it was stopped."""
        if self._ended_by is not None:
            raise self._ended_by

    def hurry(self) -> None:
        """The node will exit soon: do not wait for the next attempt to reach the store."""
        self._store.hurry()

    def give_up(self) -> None:
        """From now on, anything that cannot be written at the next attempt fails instead of being tried again."""
        self._give_up = True
        self._inbox.put(None)

    async def stop(self) -> None:
        """End the thread once everything handed in has been done, or has failed at one more attempt."""
        self._is_stopping = True
        self.give_up()
        if self._thread.is_alive():
            await self._loop.run_in_executor(None, self._thread.join)

    def _submit(self, item: Record | Call) -> asyncio.Future[Any]:
        if self._is_stopping:
            item.answer.set_exception(StoreUnreachableError("the store is closed: the node has stopped"))
        elif self._ended_by is not None:
            item.answer.set_exception(StoreUnreachableError(_THREAD_FAILED))
        else:
            self._inbox.put(item)
        return item.answer

    def _work(self) -> None:
        try:
            self._take_turns()
        except BaseException as error:
            self._ended_by = error
            self._post(self._fail_everything)

    def _fail_everything(self) -> None:
        """In the event loop, where items are handed in: none is missed."""
        take_in(self._inbox, self._records, self._calls, wait=False)
        items: list[Record | Call] = [*self._batch, *self._calls_in_work, *self._records, *self._calls]
        set_exception([item.answer for item in items], StoreUnreachableError(_THREAD_FAILED))

    def _take_turns(self) -> None:
        pause_seconds = self._pace.first_retry_seconds
        while True:
            # The mark that `stop` puts into the inbox may have been taken out during a pause: then nothing more will
            # come.
            timeout = self._pace.watch_seconds if self._can_tell else None
            take_in(
                self._inbox, self._records, self._calls, wait=not (self._records or self._is_stopping), timeout=timeout
            )
            self._look_for_changes()
            if not self._records and not self._calls:
                if self._is_stopping:
                    return
                continue
            self._gather()
            self._batch = batch = take_batch(self._records)
            began = time.monotonic()
            is_written = not batch or self._write_with_calls(batch) or self._write(batch)
            if batch and is_written and self._on_written is not None:
                self._on_written(time.monotonic() - began)
            self._calls_in_work = calls = self._take_calls_due(len(batch) if is_written else 0)
            freed = [freed_late(call, batch, self._answered) if is_written else () for call in calls]
            if is_written:
                self._answered += len(batch)
            self._carry_out(calls, freed, is_away=not is_written)
            if not is_written:
                self._fail(self._calls, StoreUnreachableError("earlier changes could not be written"))
                self._calls.clear()
            if is_written:
                pause_seconds = self._pace.first_retry_seconds
            elif self._give_up:
                log.error("%d changes could not be written before the node stopped", len(batch) + len(self._records))
                self._fail([*batch, *self._records], StoreUnreachableError("the store could not be reached"))
                self._answered += len(batch) + len(self._records)
                self._records.clear()
            else:
                self._records.extendleft(reversed(batch))
                self._pause(pause_seconds)
                pause_seconds = min(2 * pause_seconds, self._pace.last_retry_seconds)
            self._batch = self._calls_in_work = ()

    def _look_for_changes(self) -> None:
        if self._can_tell and self._on_change is not None:
            now = time.monotonic()
            if now - self._last_look < self._pace.watch_seconds / 2:
                return
            self._last_look = now
            try:
                has_changed = self._store.written_by_others()
            except Exception:  # the queues are read once a second anyway
                has_changed = None
            self._can_tell = has_changed is not None
            if has_changed:
                self._post(self._on_change)

    def _gather(self) -> None:
        """Under load, let a moment pass between two turns: a commit costs about the same for one change as for
        five."""
        left = self._last_turn + self._pace.turn_seconds - time.monotonic()
        if left > 0:
            time.sleep(left)
            take_in(self._inbox, self._records, self._calls, wait=False)
        until = self._expected_until  # read once: a steady stream of new ends must not put it off for ever
        while not self._calls and (left := until - time.monotonic()) > 0:
            take_in(self._inbox, self._records, self._calls, wait=True, timeout=left)
        self._last_turn = time.monotonic()
        if self._calls:
            self._expected_until = 0.0

    def _take_calls_due(self, written: int = 0) -> list[Call]:
        """The calls that may be carried out once `written` more records are."""
        answered = self._answered + written
        due = [call for call in self._calls if call.after <= answered]
        self._calls = deque([call for call in self._calls if call.after > answered])
        return due

    def _pause(self, seconds: float) -> None:
        """Wait for the next attempt. New records do not cut this short, because they could not be written either, but a
        call or a request to give up does."""
        deadline = time.monotonic() + seconds
        while not self._give_up and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(timeout=left)
                if isinstance(item, Record):
                    self._records.append(item)
                elif item is not None:
                    self._calls.append(item)
                    return

    def _write_with_calls(self, batch: list[Record]) -> bool:
        """Write a batch, and carry out the calls that wait for it, as one commit if the store can do that. False if
        that was not possible: then they must be done one after the other, which finds out why."""
        calls = self._take_calls_due(len(batch)) if any(call.after for call in self._calls) else []
        if not calls:
            return False
        self._calls_in_work = calls
        try:
            with self._store.together():
                refused = self._commit(batch)
                results = [call.function(self._store, freed_late(call, batch, self._answered)) for call in calls]
        except Exception as error:  # whatever it is, it comes again where its cause can be seen
            log.debug("a batch was not written together with its calls: %s", errors.in_words(error))
            self._calls.extendleft(reversed(calls))
            return False
        answers = [*answers_of(batch, refused), *zip([call.answer for call in calls], results, strict=True)]
        self._post(functools.partial(set_results, answers))
        self._mark_present()
        return True

    def _write(self, batch: list[Record]) -> bool:
        """Returns whether every record of the batch has its answer; False: the store is away, and none has one."""
        try:
            self._post(functools.partial(set_results, answers_of(batch, self._commit(batch))))
        except StoreUnreachableError as error:
            if not self.is_away:
                what = "cannot be written" if isinstance(error, StoreUnwritableError) else "is away"
                log.warning("the store %s, running tasks go on and their output is kept: %s", what, error)
            self.is_away = True
            return False
        except StoreError as error:
            return self._write_in_halves(batch, error)
        except Exception as error:  # a defect: the run must be told, and the thread must go on for the others
            found = StoreRefusedError(f"a change could not be written: {errors.in_words(error)}")
            return self._write_in_halves(batch, found)
        self._mark_present()
        return True

    def _write_in_halves(self, batch: list[Record], error: StoreError) -> bool:
        """Find the record that the store refuses; the others are fine."""
        half = len(batch) // 2
        if half:
            return self._write(batch[:half]) and self._write(batch[half:])
        if str(error) != self._last_refusal:
            self._last_refusal = str(error)
            log.error("the store refuses a change: %s", error)
        self._fail_records(batch, error)
        self._mark_present()
        return True

    def _mark_present(self) -> None:
        if self.is_away:
            log.warning("the store is back")
        self.is_away = False

    def _commit(self, batch: list[Record]) -> Set[RunKey]:
        """Write a batch; returns the changes that were refused."""
        changes = [record.change for record in batch if record.change is not None]
        return self._store.commit(changes, [chunk for record in batch for chunk in record.chunks])

    def _carry_out(self, calls: Sequence[Call], freed: Sequence[Sequence[Place]], *, is_away: bool) -> None:
        """Carry out these calls; `freed`: the places that each of them is given."""
        for number, call in enumerate(calls):
            try:
                if is_away and self._give_up:
                    raise StoreUnreachableError("the store is away and the node is stopping")
                result = call.function(self._store, freed[number])
            except StoreUnreachableError as error:
                # The others would find out the same, each after seconds of waiting.
                self._post(functools.partial(set_exception, [one.answer for one in calls[number:]], error))
                return
            except Exception as error:
                self._post(functools.partial(set_exception, [call.answer], error))
            else:
                self._post(functools.partial(set_results, [(call.answer, result)]))

    def _fail_records(self, records: Iterable[Record], error: StoreError) -> None:
        for record in records:
            record.frees = None  # its run is still in the store
        self._fail(records, error)

    def _fail(self, items: Iterable[Record | Call], error: StoreError) -> None:
        self._post(functools.partial(set_exception, [item.answer for item in items], error))

    def _post(self, callback: Callable[[], Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("an answer of the store came after the event loop was closed")

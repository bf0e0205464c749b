"""The thread that owns the node's store: group commit for the runs, and calls for everything else.

Responsible for: taking all changes that have gathered, writing them as one batch, and telling each run whether its
change was carried out; keeping what could not be written while the store is away. Must not know: what a change means.

Rules:
1. The store is used by this thread alone. Everything goes in through `record` and `call`, from the event loop, and
   comes back to the event loop.
2. Changes are written in the order in which they came. Those that come while a batch is written make the next one.
3. A change is never dropped: while the store cannot be reached it is tried again until it is written, or refused by
   the store itself, or the node gives up at the end of its stop. Calls are not tried again: they fail, and who called
   decides.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from disbatch_host.errors import StoreError, StoreUnreachableError
from disbatch_host.model import OutputChunk, RunChange
from disbatch_host.store.base import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_BATCH_MAX = 1000  # changes in one batch: far from the limits of both stores, and a pause of some 100 ms at most
_BATCH_CHUNK_BYTES_MAX = 16 * 2**20  # of output pieces in one batch, for the same reason
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 5.0  # between attempts to reach a store that is away


@dataclass(slots=True, eq=False)
class _Record:
    change: RunChange | None
    chunks: Sequence[OutputChunk]
    answer: asyncio.Future[bool]

    @property
    def size(self) -> int:
        return sum(len(chunk.data) for chunk in self.chunks)


@dataclass(slots=True, eq=False)
class _Call:
    function: Callable[[Store], Any]
    answer: asyncio.Future[Any] = field(repr=False)


class StoreThread:
    """The store behind a queue of changes and calls. Made and used in the thread of the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._records: deque[_Record] = deque()
        self._calls: deque[_Call] = deque()
        self._is_stopping = False
        self._give_up = False
        self.is_away = False  # the store could not be reached at the last attempt
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def record(self, change: RunChange | None, chunks: Sequence[OutputChunk] = ()) -> asyncio.Future[bool]:
        """Write a change and the pieces before it. The future says True once that is durable, False where the change
        was refused (somebody else owns the task by now), or raises StoreError where the store will never take it."""
        return self._submit(self._records, _Record(change, chunks, self._loop.create_future()))

    def call(self, function: Callable[[Store], Result]) -> asyncio.Future[Result]:
        """Call something with the store. The future raises what the call raises."""
        return self._submit(self._calls, _Call(function, self._loop.create_future()))

    def give_up(self) -> None:
        """From now on, what cannot be written at the next attempt fails instead of being tried again."""
        with self._condition:
            self._give_up = True
            self._condition.notify()

    async def stop(self) -> None:
        """End the thread after everything that was handed in has been done, or has failed at one more attempt."""
        self.give_up()
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            await self._loop.run_in_executor(None, self._thread.join)

    def _submit(self, queue: deque[Any], item: Any) -> asyncio.Future[Any]:
        with self._condition:
            if self._is_stopping:
                item.answer.set_exception(StoreUnreachableError("the store is closed: the node has stopped"))
            else:
                queue.append(item)
                self._condition.notify()
        answer: asyncio.Future[Any] = item.answer
        return answer

    # --- in the thread

    def _work(self) -> None:
        pause_seconds = _FIRST_RETRY_SECONDS
        while True:
            with self._condition:
                while not (self._records or self._calls or self._is_stopping):
                    self._condition.wait()
                if not self._records and not self._calls:
                    return
                batch = self._take_batch()
                calls = list(self._calls)
                self._calls.clear()
            is_written = not batch or self._write(batch)
            self._carry_out(calls, is_away=not is_written)
            if is_written:
                pause_seconds = _FIRST_RETRY_SECONDS
                continue
            with self._condition:
                if self._give_up:
                    log.error(
                        "%d changes could not be written before the node stopped", len(batch) + len(self._records)
                    )
                    self._fail([*batch, *self._records], StoreUnreachableError("the store could not be reached"))
                    self._records.clear()
                    continue
                self._records.extendleft(reversed(batch))
                # Not woken by new records: they could not be written either. A stop or a call ends the pause.
                self._condition.wait_for(lambda: self._give_up or bool(self._calls), timeout=pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LAST_RETRY_SECONDS)

    def _take_batch(self) -> list[_Record]:
        batch: list[_Record] = []
        size = 0
        while self._records and len(batch) < _BATCH_MAX and size < _BATCH_CHUNK_BYTES_MAX:
            record = self._records.popleft()
            size += record.size
            batch.append(record)
        return batch

    def _write(self, batch: list[_Record]) -> bool:
        """Whether every record of the batch has its answer; False: the store is away, nothing has one."""
        try:
            self._commit(batch)
        except StoreUnreachableError as error:
            if not self.is_away:
                log.warning("the store is away, running tasks go on and what they say is kept: %s", error)
            self.is_away = True
            return False
        except StoreError as error:
            if len(batch) > 1:  # find the one that the store does not want; the others are good
                return all(self._write([record]) for record in batch)
            log.error("the store refuses a change: %s", error)
            self._fail(batch, error)
        except Exception as error:  # a defect: the run must hear of it, and the thread must go on for the others
            log.exception("a change could not be written")
            self._fail(batch, StoreError(f"unexpected {type(error).__name__}: {error}"))
        if self.is_away:
            log.warning("the store is back")
        self.is_away = False
        return True

    def _commit(self, batch: list[_Record]) -> None:
        changes = [record.change for record in batch if record.change is not None]
        refused = self._store.commit(changes, [chunk for record in batch for chunk in record.chunks])
        answers = [(record.answer, record.change is None or record.change.key not in refused) for record in batch]

        def tell() -> None:
            for answer, is_accepted in answers:
                _set_result(answer, is_accepted)

        self._post(tell)

    def _carry_out(self, calls: Sequence[_Call], *, is_away: bool) -> None:
        for number, call in enumerate(calls):
            try:
                if is_away and self._give_up:
                    raise StoreUnreachableError("the store is away and the node is leaving")
                result = call.function(self._store)
            except StoreUnreachableError as error:
                # The others would find out the same, each after seconds of waiting.
                self._post(functools.partial(_set_exception, [one.answer for one in calls[number:]], error))
                return
            except Exception as error:
                self._post(functools.partial(_set_exception, [call.answer], error))
            else:
                self._post(functools.partial(_set_result, call.answer, result))

    def _fail(self, records: Sequence[_Record], error: StoreError) -> None:
        self._post(functools.partial(_set_exception, [record.answer for record in records], error))

    def _post(self, callback: Callable[[], Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("an answer of the store came after the event loop had ended")


def _set_result(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():  # cancelled while it waited
        answer.set_result(result)


def _set_exception(answers: Sequence[asyncio.Future[Any]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)

"""The turns in which a node's store is used: group commit for the runs, and calls for everything else.

Responsible for: writing all changes that have gathered as one batch, carrying out the calls that wait for them, and
giving each its answer; keeping changes while the store is away. Must not know: which thread it is in, what a change
means.

Rules:
1. Changes are written in the order in which they came. Those that come while a batch is written make the next one.
2. A change is never dropped: while the store cannot be reached it stays, until it is written, or the store itself
   refuses it, or the node gives up at the end of its stop. Calls are not tried again: they fail, and the caller
   decides.
3. A batch and the calls that wait for it are one commit where the store can do that.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from disbatch_host import errors
from disbatch_host.documents.changes import Place, RunKey
from disbatch_host.errors import StoreError, StoreRefusedError, StoreUnreachableError, StoreUnwritableError
from disbatch_host.node.store_items import (
    Call,
    Record,
    answers_of,
    freed_late,
    set_exception,
    set_results,
    take_batch,
)
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)


class StoreTurns:
    """Used by one thread at a time."""

    def __init__(
        self,
        store: Store,
        post: Callable[[Callable[[], Any]], None],
        on_written: Callable[[float], None] | None,
    ) -> None:
        """`post` calls something in the event loop. `on_written` is called with the seconds that each written batch
        took."""
        self._store = store
        self._post = post
        self._on_written = on_written
        self.records: deque[Record] = deque()  # not yet written
        self.calls: deque[Call] = deque()
        self.answered = 0  # how many records have their answer, ever
        self.is_away = False  # the store could not be reached at the last attempt
        self.gives_up = False  # from now on, what cannot be written at the next attempt fails
        self._batch: Sequence[Record] = ()  # in work
        self._calls_in_work: Sequence[Call] = ()
        self._last_refusal = ""  # as it was said

    @property
    def has_work(self) -> bool:
        return bool(self.records or self.calls)

    def take(self) -> bool:
        """One turn. False: the store is away; the batch is still to be written, unless it was given up."""
        self._batch = batch = take_batch(self.records)
        began = time.monotonic()
        is_written = not batch or self._write_with_calls(batch) or self._write(batch)
        if batch and is_written and self._on_written is not None:
            self._on_written(time.monotonic() - began)
        self._calls_in_work = calls = self._take_calls_due(len(batch) if is_written else 0)
        freed = [freed_late(call, batch, self.answered) if is_written else () for call in calls]
        if is_written:
            self.answered += len(batch)
        self.carry_out(calls, freed, is_away=not is_written)
        if not is_written:
            self._fail(self.calls, StoreUnreachableError("earlier changes could not be written"))
            self.calls.clear()
            self._keep_or_give_up(batch)
        self._batch = self._calls_in_work = ()
        return is_written

    def take_quickly(self) -> bool:
        """One turn in one go, for a store that can do that. False: nothing of it was done, whatever the reason, and
        `take` will find out why."""
        batch = take_batch(self.records)
        calls = self._take_calls_due(len(batch))
        began = time.monotonic()
        try:
            with self._store.together() if calls else contextlib.nullcontext():
                refused = self._commit(batch) if batch else frozenset()
                results = [call.function(self._store, freed_late(call, batch, self.answered)) for call in calls]
        except Exception as error:
            log.debug("a turn was not taken quickly: %s", errors.in_words(error))
            self.records.extendleft(reversed(batch))
            self.calls.extendleft(reversed(calls))
            return False
        self.answered += len(batch)
        self._mark_present()
        if batch and self._on_written is not None:
            self._on_written(time.monotonic() - began)
        answers = [*answers_of(batch, refused), *zip([call.answer for call in calls], results, strict=True)]
        self._post(functools.partial(set_results, answers))
        return True

    def carry_out(self, calls: Sequence[Call], freed: Sequence[Sequence[Place]], *, is_away: bool = False) -> None:
        """Carry out these calls; `freed`: the places that each of them is given."""
        for number, call in enumerate(calls):
            try:
                if is_away and self.gives_up:
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

    def fail_everything(self, error: StoreError) -> None:
        """In the event loop: nothing of it will be done any more."""
        items: list[Record | Call] = [*self._batch, *self._calls_in_work, *self.records, *self.calls]
        set_exception([item.answer for item in items], error)

    def _keep_or_give_up(self, batch: Sequence[Record]) -> None:
        if not self.gives_up:
            self.records.extendleft(reversed(batch))
            return
        log.error("%d changes could not be written before the node stopped", len(batch) + len(self.records))
        self._fail([*batch, *self.records], StoreUnreachableError("the store could not be reached"))
        self.answered += len(batch) + len(self.records)
        self.records.clear()

    def _take_calls_due(self, written: int = 0) -> list[Call]:
        """The calls that may be carried out once `written` more records are."""
        answered = self.answered + written
        due = [call for call in self.calls if (call.after or 0) <= answered]
        self.calls = deque([call for call in self.calls if (call.after or 0) > answered])
        return due

    def _write_with_calls(self, batch: list[Record]) -> bool:
        """Write a batch, and carry out the calls that wait for it, as one commit if the store can do that. False if
        that was not possible: then they must be done one after the other, which finds out why."""
        calls = self._take_calls_due(len(batch)) if any(call.after for call in self.calls) else []
        if not calls:
            return False
        self._calls_in_work = calls
        try:
            with self._store.together():
                refused = self._commit(batch)
                results = [call.function(self._store, freed_late(call, batch, self.answered)) for call in calls]
        except Exception as error:  # whatever it is, it comes again where its cause can be seen
            log.debug("a batch was not written together with its calls: %s", errors.in_words(error))
            self.calls.extendleft(reversed(calls))
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
        except Exception as error:  # a defect: the run must be told, and the others must go on
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

    def _fail_records(self, records: Iterable[Record], error: StoreError) -> None:
        for record in records:
            record.frees = None  # its run is still in the store
        self._fail(records, error)

    def _fail(self, items: Iterable[Record | Call], error: StoreError) -> None:
        self._post(functools.partial(set_exception, [item.answer for item in items], error))

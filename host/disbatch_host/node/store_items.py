"""The items that wait for the store, each with its answer.

Responsible for: what is handed in, and giving the answers in the event loop. Must not know: when anything is carried
out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from disbatch_host.documents.changes import OutputChunk, Place, RunChange, RunKey
from disbatch_host.store.contract import Store

_PENDING_SIZE = 2**20  # bytes: it may have more, and is not for the event loop
_BATCH_MAX = 1000  # changes in one batch: far from the limits of both stores, and a pause of some 100 ms at most
_BATCH_CHUNK_BYTES_MAX = 16 * 2**20  # of output pieces in one batch, for the same reason


@dataclass(slots=True, eq=False)
class Record:
    """A change to be written, and the pieces of output before it."""

    change: RunChange | None
    chunks: Sequence[OutputChunk]
    frees: Place | None
    answer: asyncio.Future[bool]
    size: int = field(init=False)  # bytes of its pieces

    def __post_init__(self) -> None:
        keeps = () if self.change is None else self.change.keeps
        self.size = sum(len(chunk.data) for chunk in (*self.chunks, *keeps)) if self.chunks or keeps else 0


@dataclass(slots=True, eq=False)
class Call:
    """Something to be called with the store."""

    function: Callable[[Store, Sequence[Place]], Any]
    answer: asyncio.Future[Any] = field(repr=False)
    after: int | None  # not before this many records have their answers; None: whenever it suits


def answers_of(batch: Sequence[Record], refused: Set[RunKey]) -> list[tuple[asyncio.Future[Any], Any]]:
    """The answers of records that were written, but for those whose change was refused."""
    return [(record.answer, record.change is None or record.change.key not in refused) for record in batch]


def text_size(change: RunChange | None) -> int:
    """About how many bytes a change holds: everything else in it is small, or bounded by the run."""
    if change is None:
        return 0
    size = sum([len(value) for value in change.set.values() if isinstance(value, str)])
    run = change.set.get("run")
    return size + _PENDING_SIZE if run is not None and "pending" in run else size


def set_results(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """In the event loop."""
    for answer, result in answers:
        if not answer.done():  # cancelled while it waited
            answer.set_result(result)


def set_exception(answers: Sequence[asyncio.Future[Any]], error: Exception) -> None:
    """In the event loop."""
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)


def take_batch(records: deque[Record]) -> list[Record]:
    """As many of these as are written together."""
    batch: list[Record] = []
    size = 0
    while records and len(batch) < _BATCH_MAX and size < _BATCH_CHUNK_BYTES_MAX:
        record = records.popleft()
        size += record.size
        batch.append(record)
    return batch


def freed_late(call: Call, batch: Sequence[Record], answered: int) -> list[Place]:
    """The places that this batch frees by records made after the call. `answered`: records before the batch."""
    late = batch[max(0, (call.after or 0) - answered) :]
    return [record.frees for record in late if record.frees is not None]

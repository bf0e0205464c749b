"""The output of a task: a whole stream, or new output while it runs.

Responsible for: where a stream is (the document and, beyond its limit, the store's own place for large output), and
following it over attempts. Must not know: how it is shown, terminals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from disbatch_host.client.finding import find_task
from disbatch_host.client.standstill import OnStill, Standstill
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.status import is_finished

_LOOK_SECONDS = 0.5  # between reads of a followed task, unless the store wakes us
_PAUSE_FACTOR = 9  # a pause is at least this many times the read before it: reading takes at most a tenth of the time
_LOOK_SECONDS_MAX = 5.0  # but never longer than that


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some of a stream."""

    data: bytes
    is_first: bool = False  # of an attempt; anything before it belongs to an earlier one


def output_pieces(store: Store, task: Task, stream: str, *, start: int = 0) -> Iterator[bytes]:
    """A stream (`stdout` or `stderr`) from its byte `start`, as far as it exists: in pieces if it has outgrown the
    document, or is binary. What lies before is not read."""
    facts = _facts(task, stream)
    token = task.run.get("token")
    is_text = not is_binary(task, stream)
    is_in_file = not is_text or (isinstance(facts, Mapping) and facts.get("in_file"))
    if isinstance(token, str) and (is_in_file or not is_finished(task.status)):
        first, skipped = divmod(start, OUTPUT_CHUNK_SIZE)
        pieces = store.read_output(task.id, token, stream, first=first)
        piece = next(pieces, None)
        if piece is not None:
            yield piece[skipped:]
            yield from pieces
            return
        if first > 0 and next(store.read_output(task.id, token, stream), None) is not None:
            return  # there is nothing beyond `start`
    text = task.document.get(stream)
    yield (text.encode("utf-8", "replace") if isinstance(text, str) and is_text else b"")[start:]


def is_binary(task: Task, stream: str) -> bool:
    """Whether its plugin says that this stream is not text: the document has only a line about it."""
    facts = _facts(task, stream)
    return isinstance(facts, Mapping) and facts.get("encoding") == Encoding.BINARY


def _facts(task: Task, stream: str) -> Any:
    output = task.run.get("output")
    return output.get(stream) if isinstance(output, Mapping) else None


def follow_output(
    store: Store, task_id: TaskId, stream: str, on_still: OnStill | None = None
) -> Iterator[Piece | None]:
    """The stream so far, then new output until the task has ended; None when there is no more for now. A new attempt
    starts from the beginning. `on_still` is told why the task does not run, once for each cause. Raises NotFoundError
    if the task does not exist or is deleted meanwhile."""
    found = find_task(store, task_id)
    reader = _Reader(store, stream)
    yield from reader.new_pieces(found)
    yield None
    if is_finished(found.status):
        return
    standstill = Standstill(store, lambda: task_id, on_still)
    watcher = store.watch()
    try:
        while not is_finished(found.status):
            watcher.wait(_LOOK_SECONDS)
            began = time.monotonic()
            found = find_task(store, task_id)
            yield from reader.new_pieces(found)
            took_seconds = time.monotonic() - began
            yield None
            standstill.look(reader.bytes_read)
            # On a busy store the watcher wakes us at once, and a large output takes long to read.
            time.sleep(min(_LOOK_SECONDS_MAX, took_seconds * _PAUSE_FACTOR))
    finally:
        watcher.close()


class _Reader:
    """Reads what was added to a stream since the last call; starts over if a new attempt has begun."""

    def __init__(self, store: Store, stream: str) -> None:
        self._store = store
        self._stream = stream
        self._token: object = None
        self.bytes_read = 0  # bytes of this attempt
        self._is_first = True

    def new_pieces(self, found: Task) -> Iterator[Piece]:
        token = found.run.get("token")
        if token != self._token:
            self._token, self.bytes_read, self._is_first = token, 0, True
        for data in output_pieces(self._store, found, self._stream, start=self.bytes_read):
            if data:
                yield Piece(data=data, is_first=self._is_first)
                self.bytes_read, self._is_first = self.bytes_read + len(data), False

"""The output of a task: a whole stream, of its last attempt or an earlier one, or new output while it runs.

Responsible for: where a stream is (the document and, beyond its limit and of earlier attempts, the store's own place
for output), and following it over attempts. Must not know: how it is shown, terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from disbatch_host.client.finding import find_task
from disbatch_host.client.history import was_never_started
from disbatch_host.client.standstill import OnStill, Standstill
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE
from disbatch_host.documents.earlier_outputs import facts_of
from disbatch_host.documents.records import Task, TaskId, whole_number
from disbatch_host.documents.run_record import is_among_attempts
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import is_finished

_CHARACTER_MAX = 4  # bytes: the document's part of a longer stream ends with a whole character
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
    token = token_of_pieces(task, stream)
    if token is not None:
        first, skipped = divmod(start, OUTPUT_CHUNK_SIZE)
        pieces = store.read_output(task.id, token, stream, first=first)
        piece = next(pieces, None)
        if piece is not None:
            yield piece[skipped:]
            yield from pieces
            return
        if first > 0 and next(store.read_output(task.id, token, stream), None) is not None:
            return  # there is nothing beyond `start`
    yield b"" if is_binary(task.run, stream) else inline_part(task, stream)[start:]


def inline_part(task: Task, stream: str) -> bytes:
    """What the document holds of a stream: all of it, its first MiB, or a line about one that is not text."""
    text = task.document.get(stream)
    return text.encode("utf-8", "replace") if isinstance(text, str) else b""


def token_of_pieces(task: Task, stream: str) -> str | None:
    """The attempt of which the store may hold pieces of a stream; None if the document, which has been read together
    with its output, holds all there is."""
    token, facts = task.run.get("token"), facts_of(task.run, stream)
    if not isinstance(token, str):
        return None
    text = inline_part(task, stream)
    # Without a text although there were bytes, the start of another attempt has been undone.
    if is_binary(task.run, stream) or facts.get("in_file") or (facts.get("bytes") and not text):
        return token
    is_full = len(text) > INLINE_OUTPUT_MAX - _CHARACTER_MAX
    return token if is_full and not (facts and is_finished(task.status)) else None


def tail_start(store: Store, task: Task, stream: str, lines: int, *, attempt: int | None = None) -> int:
    """The byte of a stream at which its last `lines` lines begin; of many pieces only the last ones are read.
    `attempt`: of that one, instead of the last."""
    run = task.run if attempt is None else run_of_attempt(task, attempt)
    is_last = run is task.run
    token = token_of_pieces(task, stream) if is_last else run.get("token")
    if isinstance(token, str):
        seen = whole_number(facts_of(run, stream).get("bytes")) or 0

        def piece(number: int) -> bytes | None:
            return next(store.read_output(task.id, token, stream, first=number), None)

        last = _last_number(lambda number: piece(number) is not None, max(0, seen - 1) // OUTPUT_CHUNK_SIZE)
        if last is not None:
            return _tail_start(((number, piece(number) or b"") for number in range(last, -1, -1)), lines)
    return _tail_start([(0, inline_part(task, stream))], lines) if is_last else 0


def _last_number(is_there: Callable[[int], bool], guess: int) -> int | None:
    """The number of the last piece, found from a guess by steps that grow, then halve; None if there is no piece."""
    step = 1
    if is_there(guess):
        low = guess
        while is_there(low + step):
            low, step = low + step, 2 * step
        high = low + step
    else:
        high = guess
        while high > 0 and not is_there(max(0, high - step)):
            high, step = max(0, high - step), 2 * step
        if high == 0:
            return None
        low = max(0, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_there(middle) else (low, middle)
    return low


def _tail_start(pieces_backwards: Iterable[tuple[int, bytes]], lines: int) -> int:
    """`pieces_backwards`: their numbers, and what they hold."""
    left: int | None = None  # line ends to be found, of which the last line has one of its own, or not yet
    for number, data in pieces_backwards:
        begin = number * OUTPUT_CHUNK_SIZE
        if left is None:
            left = lines + data.endswith(b"\n")
            if left == 0:
                return begin + len(data)
        count = data.count(b"\n")
        if count >= left:
            return begin + len(data.rsplit(b"\n", left)[0]) + 1
        left -= count
    return 0


def run_of_attempt(task: Task, number: int) -> Mapping[str, Any]:
    """The attempt with this number, as `run` or `attempts` has it; the last one, if some of that number were not
    counted. Raises NotFoundError."""
    for run in (task.run, *reversed(task.attempts)):
        if isinstance(run, Mapping) and run.get("attempt") == number:
            return run
    known = sorted({one["attempt"] for one in _numbered(task)})
    if not known:
        raise NotFoundError(f"task {task.id} has no attempt {number}: it has not been started")
    which = f"attempt {known[0]}" if len(known) == 1 else f"attempts {known[0]} to {known[-1]}"
    raise NotFoundError(f"task {task.id} has no attempt {number}; what is known is {which}")


def attempt_pieces(store: Store, task: Task, number: int, stream: str, *, start: int = 0) -> Iterator[bytes]:
    """A stream of one attempt, as `output_pieces` has it. Raises NotFoundError, at once, if there is no such attempt or
    its output is not there: no longer kept, or lost with its node."""
    run = run_of_attempt(task, number)
    if run is task.run:
        return output_pieces(store, task, stream, start=start)
    return _earlier_pieces(store, task, run, stream, start=start)


def attempts_with_output(task: Task) -> list[Mapping[str, Any]]:
    """The earlier attempts whose output is kept, as far as the document knows, oldest first; each as in `attempts`."""
    earlier = _numbered(task)[:-1] if task.run.get("attempt") else _numbered(task)
    return [one for one in earlier if isinstance(one.get("output"), Mapping) and isinstance(one.get("token"), str)]


def _numbered(task: Task) -> list[Mapping[str, Any]]:
    """The attempts that have a number, the last one among them, each once."""
    runs = task.attempts if is_among_attempts(task) else [*task.attempts, task.run]
    return [one for one in runs if isinstance(one, Mapping) and type(one.get("attempt")) is int]


def _earlier_pieces(
    store: Store, task: Task, run: Mapping[str, Any], stream: str, *, start: int = 0
) -> Iterator[bytes]:
    token, is_kept = run.get("token"), isinstance(run.get("output"), Mapping)
    if was_never_started(run) and not is_kept:
        return iter(())
    first, skipped = divmod(start, OUTPUT_CHUNK_SIZE)
    pieces = store.read_output(task.id, token, stream, first=first) if isinstance(token, str) else iter(())
    piece = next(pieces, None)
    if piece is not None:
        return chain((piece[skipped:],), pieces)
    if not is_kept or (first == 0 and facts_of(run, stream).get("bytes")):
        raise NotFoundError(_why_gone(task, run))
    return iter(())


def _why_gone(task: Task, run: Mapping[str, Any]) -> str:
    which = f"the output of attempt {run.get('attempt')} of task {task.id}"
    if run.get("reason") == Reason.LOST and not isinstance(run.get("output"), Mapping):
        node = f"node {run['node']}" if isinstance(run.get("node"), str) else "its node"
        return f"{which} was lost: {node} was lost while it ran, and so did not record what it had printed"
    if run.get("reason") == Reason.HOST_ERROR and not isinstance(run.get("output"), Mapping):
        return f"{which} is not there: its node could not go on with it, and recorded nothing that it had printed"
    return f"{which} is no longer kept; `keep_attempts` of queue {task.queue} says how many are"


def is_binary(run: Mapping[str, Any], stream: str) -> bool:
    """Whether the plugin of a run, or of an element of `attempts`, says that this stream is not text: the document has
    only a line about it."""
    return facts_of(run, stream).get("encoding") == Encoding.BINARY


def follow_output(
    store: Store, task_id: TaskId, stream: str, on_still: OnStill | None = None, *, tail: int | None = None
) -> Iterator[Piece | None]:
    """The stream so far, or the last `tail` lines of that, then new output until the task has ended; None when there is
    no more for now. A new attempt starts from the beginning. `on_still` is told why the task does not run, once for
    each cause. Raises NotFoundError if the task does not exist or is deleted meanwhile."""
    found = find_task(store, task_id)
    reader = _Reader(store, stream)
    if tail is not None:
        reader.skip_to(found, tail_start(store, found, stream, tail))
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

    def skip_to(self, found: Task, start: int) -> None:
        """Leave out what this attempt has said before this byte."""
        self._token, self.bytes_read = found.run.get("token"), start

    def new_pieces(self, found: Task) -> Iterator[Piece]:
        token = found.run.get("token")
        if token != self._token:
            self._token, self.bytes_read, self._is_first = token, 0, True
        for data in output_pieces(self._store, found, self._stream, start=self.bytes_read):
            if data:
                yield Piece(data=data, is_first=self._is_first)
                self.bytes_read, self._is_first = self.bytes_read + len(data), False

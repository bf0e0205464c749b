"""The outputs of many tasks, one after the other.

Responsible for: which tasks have said anything, and reading that in bounded memory. Must not know: how it is shown, how
tasks are followed (`outputs_followed`).

Rules:
1. Tasks are listed without their output; those that may have said something are read again with it, few at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from disbatch_host.client.output import (
    attempt_pieces,
    inline_part,
    is_binary,
    output_pieces,
    run_of_attempt,
    tail_start,
)
from disbatch_host.client.short_ids import short_ids
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.earlier_outputs import facts_of
from disbatch_host.documents.records import Task, TaskId, whole_number
from disbatch_host.store.contract import Store
from disbatch_protocol.status import WAITING, Status

STREAMS = ("stdout", "stderr")

_READ_AT_ONCE = 20  # tasks with their output, up to 1 MiB of each stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Some of what a task has said. What belongs together comes together: the next one of the same task and stream
    goes on where this one ends, unless it `is_first`."""

    task_id: TaskId
    short_id: str  # the shortest beginning of the id that is no other task's
    stream: str
    data: bytes
    is_first: bool = False  # of its run, or of what is told of that


def outputs(
    store: Store, which: TaskFilter, streams: Sequence[str] = ("stdout",), *, tail: int | None = None
) -> Iterator[Said]:
    """What the tasks of a filter have said so far, in the order of their creation; `tail`: of each stream only so many
    lines, before which nothing is read. Of output that is not text, the line that the task's document has about it.
    Memory does not grow with the number of tasks, or the size of their output."""
    listed = store.find_tasks(which, with_output=False, with_parameters=False)
    for some in read_again(store, (one for one in listed if may_have_said(one, streams))):
        short = short_ids(store, [task.id for task in some])
        for task, stream in itertools.product(some, streams):
            is_first = True
            for data in pieces_of(store, task, stream, start_of(store, task, stream, tail)):
                if data:
                    yield Said(task_id=task.id, short_id=short[task.id], stream=stream, data=data, is_first=is_first)
                    is_first = False


def outputs_of_attempt(
    store: Store, task: Task, attempt: int, streams: Sequence[str] = ("stdout",), *, tail: int | None = None
) -> Iterator[Said]:
    """What one attempt of a task, which was read with its output, has said, as `outputs` has it. Raises NotFoundError,
    at once, if there is no such attempt or its output is not there."""
    (short_id,) = short_ids(store, [task.id]).values()
    found = [(stream, _of_attempt(store, task, attempt, stream, tail)) for stream in streams]

    def said() -> Iterator[Said]:
        for stream, pieces in found:
            for number, data in enumerate(filter(None, pieces)):
                yield Said(task_id=task.id, short_id=short_id, stream=stream, data=data, is_first=number == 0)

    return said()


def _of_attempt(store: Store, task: Task, attempt: int, stream: str, tail: int | None) -> Iterator[bytes]:
    run = run_of_attempt(task, attempt)
    if run is task.run:
        return pieces_of(store, task, stream, start_of(store, task, stream, tail))
    if is_binary(run, stream):  # the document's line is about the last attempt
        count = whole_number(facts_of(run, stream).get("bytes")) or 0
        return iter([f"disbatch-host: {count:,} bytes, not text\n".encode()] if count and tail != 0 else [])
    start = 0 if tail is None else tail_start(store, task, stream, tail, attempt=attempt)
    return attempt_pieces(store, task, attempt, stream, start=start)


def read_again(store: Store, listed: Iterable[Task]) -> Iterator[list[Task]]:
    """The listed tasks with their output, in their order, some at once; without those that have been deleted since."""
    left = iter(listed)
    while ids := [task.id for task in itertools.islice(left, _READ_AT_ONCE)]:
        some = store.find_tasks(TaskFilter(ids=ids), with_parameters=False, in_any_order=True)
        found = {task.id: task for task in some}
        yield [found[task_id] for task_id in dict.fromkeys(ids) if task_id in found]


def may_have_said(task: Task, streams: Sequence[str]) -> bool:
    """Whether a task may have said something, as far as its document tells without the output."""
    if task.status == Status.RUNNING:
        return True
    if not task.run:  # of another program, perhaps
        return task.status != Status.CLAIMED and task.status not in WAITING
    return any(facts_of(task.run, stream).get("bytes") != 0 for stream in streams)


def pieces_of(store: Store, task: Task, stream: str, start: int) -> Iterator[bytes]:
    """What a stream has as text from this byte on. What is not text is a line about it, once its run is over."""
    if not is_binary(task.run, stream):
        yield from output_pieces(store, task, stream, start=start)
    elif task.status != Status.RUNNING:  # until then the line changes
        yield inline_part(task, stream)[start:]


def start_of(store: Store, task: Task, stream: str, tail: int | None) -> int:
    """Where the last `tail` lines of a stream begin, as `pieces_of` reads it; None: all of them."""
    if tail is None:
        return 0
    if is_binary(task.run, stream):
        return 0 if tail else len(inline_part(task, stream))
    return tail_start(store, task, stream, tail)

"""Whole task documents as lines of JSON, including output of any length, in bounded memory.

Responsible for: reading very many tasks, and writing each of them. Must not know: terminals, files, which parts of a
task are secret.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import IO, Any

import orjson

from disbatch_host.client.output import output_pieces
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, TaskFilter
from disbatch_host.documents.records import Document, Task, whole_number
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import readable_line

_GROUP_TASKS = 500  # read at once with their output
_GROUP_BYTES = 16 * 2**20  # of output in the documents of a group
_TOLD_TASKS = 100  # between calls of `on_progress`
_STREAMS = ("stdout", "stderr")

Shown = Callable[[Task], Mapping[str, Any]]  # a task's document, safe to show


_OTHER_FORMATS = frozenset({".csv", ".tsv", ".tab", ".xls", ".xlsx", ".ods", ".xml", ".html", ".parquet", ".zip"})


def check_name(name: str) -> None:
    """Refuse a file whose name promises another format: a spreadsheet would open it as garbage. Raises UsageError."""
    path = PurePath(name)
    endings = [one.lower() for one in path.suffixes[-2:]]
    ending = endings[-2] if len(endings) == 2 and endings[-1] == ".gz" else endings[-1] if endings else ""
    if ending in _OTHER_FORMATS:
        stem = path.name[: path.name.lower().rindex(ending)]
        raise UsageError(
            f"{name}: expected the name of an NDJSON file, such as {stem}.ndjson, found {ending}; tasks are written as "
            "NDJSON, and `jq -r '[.queue, .status, .error.message] | @csv'` makes a CSV of that"
        )


def export(
    store: Store,
    which: TaskFilter,
    shown: Shown,
    out: IO[bytes],
    *,
    with_output: bool = False,
    on_progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Write the tasks to an open file, one per line, in the form of `lines`; returns their number. `on_progress` gets
    the number written so far, now and then and at the end."""
    count = 0
    for piece, is_last in lines(store, which, shown, with_output=with_output):
        out.write(piece)
        count += is_last
        if is_last and count % _TOLD_TASKS == 0:
            on_progress(count)
    on_progress(count)
    out.flush()
    return count


def lines(store: Store, which: TaskFilter, shown: Shown, *, with_output: bool) -> Iterator[tuple[bytes, bool]]:
    """The lines of the tasks in the order of creation, in pieces; True marks the last piece of each line.

    `with_output`: stdout and stderr are everything that was kept; otherwise what the document holds, at
    most the first 1 MiB. A task that is deleted meanwhile is left out."""
    for found in _with_documents(store, which):
        document = dict(shown(found))
        if not with_output:
            yield readable_line(document, other=store.extended_json) + b"\n", True
            continue
        for name in _STREAMS:
            document.pop(name, None)
        # A stream may be larger than memory: its text is written piece by piece, at the end of the object.
        yield readable_line(document, other=store.extended_json)[:-1], False
        for name in _STREAMS:
            yield b',"' + name.encode() + b'":"', False
            for text in _decoded(output_pieces(store, found, name)):
                yield orjson.dumps(text)[1:-1], False
            yield b'"', False
        yield b"}\n", True


def _decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """Bytes as text; a character may span two pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)


def _with_documents(store: Store, which: TaskFilter) -> Iterator[Task]:
    """The tasks with the output in their documents: up to a megabyte each, so only a few at a time."""
    group: list[Task] = []
    size = 0
    for found in store.find_tasks(which, with_output=False):
        own = _output_size(found.document)
        if group and (len(group) == _GROUP_TASKS or size + own > _GROUP_BYTES):
            yield from _read(store, group)
            group, size = [], 0
        group.append(found)
        size += own
    if group:
        yield from _read(store, group)


def _read(store: Store, group: list[Task]) -> Iterator[Task]:
    ids = [one.id for one in group]
    yield from store.find_tasks(TaskFilter(ids=ids))


def _output_size(document: Document | Mapping[str, Any]) -> int:
    """An upper bound for the output in a task's document, in bytes."""
    run = document.get("run")
    if not isinstance(run, Mapping):  # not run by this program: most are waiting and have none
        return 0 if document.get("node") in (None, -1) else INLINE_OUTPUT_MAX
    output = run.get("output")
    output = output if isinstance(output, Mapping) else {}
    total = 0
    for name in _STREAMS:
        facts = output.get(name)
        size = whole_number(facts.get("bytes")) if isinstance(facts, Mapping) else None
        total += INLINE_OUTPUT_MAX if size is None else min(size, INLINE_OUTPUT_MAX)
    return total

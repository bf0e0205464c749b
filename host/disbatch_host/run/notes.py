"""The note that a process host keeps with a run: which attempt at which task it is, for a node that finds it again.

Responsible for: writing notes, and reading those of earlier nodes. Must not know: who keeps them. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from disbatch_host.documents.records import Task, TaskId

_LONGEST = 2048  # bytes of an id, as JSON; a process host keeps more, and a work directory may come
_LARGEST = 4096  # bytes that a process host keeps
_DIGEST = "sha256:"  # instead of an id that is longer
_KINDS: Mapping[str, Callable[[str], TaskId]] = {"int": int, "float": float, "bytes": bytes.fromhex}


class Note(NamedTuple):
    """A note that was read."""

    token: str  # of the claim: several tasks may have the same
    task: str  # see `name_of`
    kind: str | None  # of its id, if that is not what the store makes of the text
    work_directory: Path | None
    line_bytes: int  # of the stdin of a worker process, which the task is
    at: tuple[int, ...]  # what that had said on each stream when it was given the task
    before: tuple[Note, ...]  # tasks that it had before that, whose ends the store did not have then
    is_cut: bool  # there were more of these than a note can hold


def note_of(task: Task, run: Mapping[str, Any]) -> bytes:
    """The note of a run that starts now."""
    kind = type(task.id).__name__
    return orjson.dumps(
        {
            "task": name_of(task.id),
            **({"kind": kind} if kind in _KINDS else {}),
            "token": task.token,
            "attempt": run["attempt"],
            "started": run["started"],
        }
    )


def name_of(task_id: TaskId) -> str:
    """The id of a task as notes have it."""
    text = task_id.hex() if isinstance(task_id, bytes) else str(task_id)
    if 6 * len(text) <= _LONGEST or len(orjson.dumps(text)) <= _LONGEST:  # a letter takes six bytes at most
        return text
    return _DIGEST + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def with_facts(note: bytes, **facts: object) -> bytes:
    """A note with more in it: the work directory, or how much of the stdin of a worker process the task is. A directory
    whose name is not UTF-8 stays when its run is over, if another node sees that."""
    try:
        return note[:-1] + b"," + orjson.dumps(facts)[1:]
    except TypeError:
        return note


def behind(note: bytes, earlier: Sequence[bytes]) -> bytes:
    """The note of a task that a worker process gets while the ends of earlier ones, with these notes, are on their way
    to the store."""
    if not earlier:
        return note
    longer = note[:-1] + b',"before":[' + b",".join(earlier) + b"]}"
    return longer if len(longer) <= _LARGEST else with_facts(note, is_cut=True)


def of_process(work_directory: Path | None) -> bytes:
    """The note of a process that gets its tasks later, each with its own."""
    return b"" if work_directory is None else with_facts(b'{"task":null}', work_directory=str(work_directory))


def work_directory_of(note: bytes) -> Path | None:
    """The work directory that a note names."""
    return _directory_of(_document_of(note))


def _directory_of(document: Mapping[str, Any]) -> Path | None:
    found = document.get("work_directory")
    return Path(found) if isinstance(found, str) else None


def read(note: bytes) -> Note | None:
    """None if it is not the note of a run: an idle worker process has none."""
    return _read(_document_of(note))


def _read(document: Mapping[str, Any]) -> Note | None:
    if not all(isinstance(document.get(one), str) for one in ("token", "task")):
        return None
    line_bytes = document.get("line_bytes")
    return Note(
        token=document["token"],
        task=document["task"],
        kind=document.get("kind"),
        work_directory=_directory_of(document),
        line_bytes=line_bytes if isinstance(line_bytes, int) else 0,
        at=tuple(document.get("at", ())),
        is_cut=document.get("is_cut") is True,
        before=tuple([one for other in document.get("before", ()) if (one := _read(other)) is not None]),
    )


def task_id_of(note: Note, parse_id: Callable[[str], TaskId | None]) -> TaskId | None:
    """The id of its task; None if that is too long for a note. `parse_id`: of the store."""
    if note.task.startswith(_DIGEST):
        return None
    return _KINDS.get(note.kind or "", parse_id)(note.task)


def _document_of(note: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(note)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}

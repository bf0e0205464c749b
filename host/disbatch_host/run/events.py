"""The effects of one run's events: on the task document so far, on its end, and on what comes after it. Pure.

Responsible for: `progress`, `log`, `result`, `error`, free fields, `run.event_errors`, follow-up tasks; and everything
that the conclusion must know of them (`Said`). Must not know: processes, stores, when anything is written.

Rules:
1. Bounded, whatever a plugin says: the log keeps its newest entries, the faults their first ones, free fields and
   follow-up tasks have a limit for the whole run; anything beyond it is refused with a fault, never dropped in silence.
2. Nothing here fails a task, with one exception: follow-up tasks that cannot be created are lost work, so a run that
   asked for more than the limit does not succeed.
3. `changed_fields` returns the changes since the last call, so that a million events cost only as many writes as the
   writer has turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import orjson

from disbatch_host.documents.records import Document, Task, whole_number
from disbatch_protocol.document import PROTECTED
from disbatch_protocol.events import (
    SNOOZE_MAX_SECONDS,
    BadLine,
    ErrorSaid,
    Event,
    FollowUp,
    FollowUps,
    Log,
    OwnStatus,
    Progress,
    Result,
    SetFields,
    Snooze,
)
from disbatch_protocol.outcome import Said

_Kind = TypeVar("_Kind")

LOG_ENTRIES_MAX = 1000  # newest ones; as many as a person can read, and as may be rewritten each second
LOG_BYTES_MAX = 2**18
CODE_MAX = 128  # characters of an error's code: people count by it
TEXT_MAX = 2**14  # characters of a message in the document; long ones belong on stdout
SET_BYTES_MAX = 2**20  # of all free fields that a run sets, so that the document stays far below 16 MB
FOLLOW_UPS_MAX = 10_000  # tasks of one run
FOLLOW_UP_BYTES_MAX = 4 * 2**20  # of their parameters: they are written together with the conclusion
ERRORS_KEPT = 20  # of the lines that were not events


class EventEffects:
    """Collects events as they come; asked for the changes when it is time to write."""

    def __init__(self, task: Task, *, began: datetime | None = None) -> None:
        """`began`: of a run that an earlier node has started, and that says again what it has said since then."""
        self._fields: Document = {}
        self._changed: set[str] = set()
        self._log: deque[tuple[int, Any]] = deque()  # (bytes, entry)
        self._log_bytes = 0
        self._log_dropped = 0
        self._set_sizes: dict[str, int] = {}
        self._set_bytes = 0  # their sum; a plugin may set a hundred thousand fields in one line
        self._error: ErrorSaid | None = None
        self._snooze: Snooze | None = None
        self._own_status: int | None = None
        self._has_said_status = False
        self._result_status: int | None = None
        self._follow_ups: list[FollowUp] = []
        self.follow_up_bytes = 0  # of their queues and parameters
        self._follow_ups_refused = 0
        self._bad_lines = 0
        self._bad_kept: list[Document] = []
        self._is_touched = False  # by an event of this run
        entries = _entries_of(task.document.get("log"))  # of earlier attempts, and of other programs
        self._known: Sequence[Any] = ()  # of this run, from the document
        self._said_again = 0  # the place in these of the next one
        if began is not None:
            own = next((place for place, entry in enumerate(entries) if _is_since(entry, began)), len(entries))
            entries, self._known = entries[:own], entries[own:]
            dropped = task.run.get("log_dropped")
            self._said_again = -dropped if isinstance(dropped, int) and not entries else 0
        for entry in entries:
            self._append(entry)
        self._fields.clear()
        self._changed.clear()
        self._log_dropped = 0

    def take(self, event: Event | BadLine, *, now: datetime) -> None:
        """Take in one more event, received at `now`."""
        self._is_touched = True
        match event:
            case Progress(value=value, message=message):
                progress: Document = {"value": value}
                if message is not None:
                    progress["message"] = _cut(message)
                self._set("progress", progress)
            case Log():
                self._append(self._with_first_time(_log_entry(event, now)))
            case OwnStatus(status=status):
                self._own_status = status or None
                self._has_said_status = True
            case SetFields(fields=fields, faults=faults):
                for name, value in fields.items():
                    self._set_free(name, value)
                self._add_faults(faults)
            case Result(value=value, status=status):
                self._result_status = status
                self._set("result", value)
            case ErrorSaid(faults=faults):
                self._error = event
                if event.message is not None:  # else its end decides what to write
                    self._set("error", _error_document(event))
                self._add_faults(faults)
                if event.code is not None and len(event.code) > CODE_MAX:
                    self._add_fault(f'expected a "code" of at most {CODE_MAX} characters, found {len(event.code)}; cut')
            case Snooze():
                self._snooze = event
            case FollowUps(tasks=tasks, faults=faults):
                for task in tasks:
                    self._follow(task)
                self._add_faults(faults)
            case BadLine(start=start, message=message):
                self._add_fault(message, start)
            case _:  # `ready` and `done` outside of worker mode
                self._add_fault(f"expected an event, found {type(event).__name__.lower()}, which is for worker mode")

    def miss(self) -> None:
        """Some are not said again: what the document has of their effects stays."""
        known, self._known = self._known, ()
        for entry in known:
            self._append(entry)

    def pending(self, event_bytes: int) -> Document:
        """What the events so far do at the end, and the document does not show otherwise: for a node that goes on with
        this run, to which they are not told again. `event_bytes`: of descriptor 3, which they were."""
        error, snooze = self._error, self._snooze
        return {
            "event_bytes": event_bytes,
            "follow_ups": [{"queue": one.queue, "parameters": dict(one.parameters)} for one in self._follow_ups],
            "follow_ups_refused": self._follow_ups_refused,
            "error": None if error is None else {name: getattr(error, name) for name in (*_TEXTS_OF_ERROR, "retry")},
            "snooze": None if snooze is None else {"seconds": snooze.seconds, "message": snooze.message},
            "status": {"was_said": self._has_said_status, "own": self._own_status, "of_result": self._result_status},
            "log_dropped": self._log_dropped,
            "bad_lines": self._bad_lines,
            "bad_kept": list(self._bad_kept),
        }

    def restore(self, pending: Mapping[str, Any]) -> None:
        """Go on from there. What cannot be read was written by somebody else, and is left out."""
        self.miss()
        self._is_touched = True
        self._log_dropped = whole_number(pending.get("log_dropped")) or 0
        self._bad_lines = whole_number(pending.get("bad_lines")) or 0
        self._bad_kept = [one for one in _entries_of(pending.get("bad_kept")) if isinstance(one, dict)]
        self._follow_ups_refused = whole_number(pending.get("follow_ups_refused")) or 0
        for one in _entries_of(pending.get("follow_ups")):
            if isinstance(one, dict) and isinstance(one.get("queue"), str) and isinstance(one.get("parameters"), dict):
                self._follow(FollowUp(queue=one["queue"], parameters=one["parameters"]))
        error, snooze, status = pending.get("error"), pending.get("snooze"), pending.get("status")
        if isinstance(error, dict):
            code, message, detail = (_only(str, error.get(name)) for name in _TEXTS_OF_ERROR)
            retry = _only(bool, error.get("retry"))
            self._error = ErrorSaid(code=code, message=message, detail=detail, retry=retry)
        snooze = snooze if isinstance(snooze, dict) else {}
        seconds = _only(float, snooze.get("seconds"))
        if seconds is not None and 0 <= seconds <= SNOOZE_MAX_SECONDS:
            self._snooze = Snooze(seconds=seconds, message=_only(str, snooze.get("message")))
        if isinstance(status, dict):
            self._has_said_status = status.get("was_said") is True
            self._own_status, self._result_status = (whole_number(status.get(name)) for name in ("own", "of_result"))

    def changed_fields(self) -> Document:
        """Top-level fields with their current values, for those that have changed since the last call."""
        fields = {name: self._value(name) for name in self._changed}
        self._changed.clear()
        return fields

    def all_fields(self) -> Document:
        """The same for everything that any event of this run touched; for the last write."""
        self._changed.clear()
        fields = {name: self._value(name) for name in self._fields}
        fields.pop("error", None)  # the conclusion says which error counts
        return fields

    def run_facts(self) -> Document:
        """Facts for `run` in the document; empty if there are none. `own_status` None: it was taken back."""
        facts: Document = {}
        if not self._is_touched:
            return facts
        if self._has_said_status:
            facts["own_status"] = self._own_status
        if self._snooze is not None:
            facts["snooze"] = {"seconds": self._snooze.seconds}
            if self._snooze.message is not None:
                facts["snooze"]["message"] = _cut(self._snooze.message)
        if self._log_dropped:
            facts["log_dropped"] = self._log_dropped
        if self._bad_lines:
            facts["event_errors"] = {"count": self._bad_lines, "first": list(self._bad_kept)}
        return facts

    @property
    def size(self) -> int:
        """About how many bytes a write of everything takes."""
        return self._log_bytes + self._set_bytes + self._size_of_result

    @property
    def said(self) -> Said:
        """The facts that the conclusion needs."""
        if not self._is_touched:
            return _NOTHING_SAID
        if self._follow_ups_refused:
            return Said(error=True, retry=False, status=self._status)
        return Said(
            error=self._error is not None,
            retry=self._error.retry if self._error is not None else None,
            snooze_seconds=self._snooze.seconds if self._snooze is not None else None,
            status=self._status,
        )

    @property
    def error(self) -> Document | None:
        """Why it fails, as the plugin said it (perhaps without a `message`), or as rule 2 requires."""
        if self._follow_ups_refused:
            message = (
                f"disbatch-host: it asked for more follow-up tasks than one run may create ({FOLLOW_UPS_MAX} tasks, "
                f"{FOLLOW_UP_BYTES_MAX} bytes of parameters); none were created"
            )
            return {"code": "follow_ups", "message": message}
        return _error_document(self._error) if self._error is not None else None

    @property
    def follow_ups(self) -> Sequence[FollowUp]:
        """The tasks to create if the run succeeds, in the order in which the plugin asked for them."""
        return self._follow_ups

    @property
    def _status(self) -> int | None:
        return self._result_status if self._result_status is not None else self._own_status

    @property
    def _size_of_result(self) -> int:
        return _size(self._fields["result"]) if "result" in self._changed else 0

    def _value(self, name: str) -> Any:
        return [entry for _, entry in self._log] if name == "log" else self._fields[name]

    def _set(self, name: str, value: Any) -> None:
        self._fields[name] = value
        self._changed.add(name)

    def _set_free(self, name: str, value: Any) -> None:
        if name in PROTECTED:
            self._add_fault(f'field "{name}" belongs to the host and is left as it is; choose another name')
            return
        if not name or name.startswith("$") or "." in name:
            self._add_fault(f'expected a field name without "." and not beginning with "$", found "{name:.60}"')
            return
        size = len(name) + _size(value)
        total = self._set_bytes - self._set_sizes.get(name, 0) + size
        if total > SET_BYTES_MAX:
            self._add_fault(f'field "{name:.60}" is not set: all that one run sets may have {SET_BYTES_MAX} bytes')
            return
        self._set_sizes[name] = size
        self._set_bytes = total
        self._set(name, value)

    def _with_first_time(self, entry: Document) -> Document:
        """An entry that an earlier node has written keeps its time."""
        if not self._known:
            return entry
        place, self._said_again = self._said_again, self._said_again + 1
        known = self._known[place] if 0 <= place < len(self._known) else None
        return known if isinstance(known, dict) and {**known, "time": entry["time"]} == entry else entry

    def _append(self, entry: Any) -> None:
        size = _size(entry)
        self._log.append((size, entry))
        self._log_bytes += size
        while len(self._log) > LOG_ENTRIES_MAX or self._log_bytes > LOG_BYTES_MAX:
            self._log_bytes -= self._log.popleft()[0]
            self._log_dropped += 1
        self._set("log", None)

    def _follow(self, task: FollowUp) -> None:
        size = len(task.queue) + _size(task.parameters)
        if len(self._follow_ups) >= FOLLOW_UPS_MAX or self.follow_up_bytes + size > FOLLOW_UP_BYTES_MAX:
            self._follow_ups_refused += 1
            if self._follow_ups_refused == 1:
                self._add_fault(f"more follow-up tasks than one run may create: {FOLLOW_UPS_MAX}")
            return
        self.follow_up_bytes += size
        self._follow_ups.append(task)

    def _add_faults(self, messages: Sequence[str]) -> None:
        for message in messages:
            self._add_fault(message)

    def _add_fault(self, message: str, start: bytes | None = None) -> None:
        self._bad_lines += 1
        if len(self._bad_kept) < ERRORS_KEPT:
            entry: Document = {"message": _cut(message)}
            if start is not None:
                entry["line"] = start.decode("utf-8", "replace")
            self._bad_kept.append(entry)


_NOTHING_SAID = Said()
_TEXTS_OF_ERROR = ("code", "message", "detail")


def _only(kind: type[_Kind], value: object) -> _Kind | None:
    return value if isinstance(value, kind) else None


def pending_bytes(run: Mapping[str, Any]) -> int:
    """How many bytes of descriptor 3 are in `run.pending` (`EventEffects.pending`)."""
    pending = run.get("pending")
    return (whole_number(pending.get("event_bytes")) or 0) if isinstance(pending, Mapping) else 0


def without_pending(run: Document) -> Document:
    """`run` as it is at its end."""
    return {name: value for name, value in run.items() if name != "pending"} if "pending" in run else run


def _log_entry(event: Log, now: datetime) -> Document:
    entry: Document = {"time": now, "level": str(event.level), "message": _cut(event.message)}
    if event.fields:
        if _size(event.fields) <= TEXT_MAX:
            entry["fields"] = dict(event.fields)
        else:
            entry["message"] = f"{entry['message']} (disbatch-host: its fields were too large for the log)"
    return entry


def _error_document(event: ErrorSaid) -> Document:
    error: Document = {}
    if event.code or event.message is not None:
        error["code"] = (event.code or "error")[:CODE_MAX]
    if event.message is not None:
        error["message"] = _cut(event.message)
    if event.detail is not None:
        error["detail"] = _cut(event.detail, 4 * TEXT_MAX)
    if event.retry is not None:
        error["retry"] = event.retry
    return error


def _cut(text: str, limit: int = TEXT_MAX) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… (disbatch-host: {len(text) - limit} more characters)"


def _entries_of(log: Any) -> Sequence[Any]:
    """The entries of a document's `log`; den-1.0 leaves the field free, so it may be anything."""
    if log is None or log == "":
        return ()
    return log if isinstance(log, (list, tuple)) else (log,)


def _is_since(entry: Any, moment: datetime) -> bool:
    time = entry.get("time") if isinstance(entry, dict) else None
    return isinstance(time, datetime) and time.tzinfo is not None and time >= moment


def _size(value: Any) -> int:
    """About how many bytes a value takes in the document."""
    try:
        return len(orjson.dumps(value, default=str))
    except (TypeError, ValueError):
        return len(str(value))

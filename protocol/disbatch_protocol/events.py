"""Events on descriptor 3: from any bytes to events. Pure.

Responsible for: lines, their limit, and which line is which event (SPEC, sections 5 and 6). Must not know: the effect
of an event on a task, where the bytes come from.

Rules:
1. Feed bytes in any blocks, get events; the same bytes give the same events however they are cut.
2. A line that is not an event becomes a `BadLine`, never an exception: a line that was printed by mistake does not
   fail a task.
3. Memory is bounded: of a line longer than LINE_MAX only the beginning is kept, and the rest is skipped.
4. Unknown fields of a known event are ignored: they may belong to a later version.
5. Every event can be stored by every store: no integer outside 64 bits, no U+0000 in a name, no deeper than
   `event_values.DEPTH_MAX`. orjson makes doubles of larger integers, so a line with a double as large as that is read
   once more, exactly.
6. If an event counts although part of it is left out, its `faults` say which part and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson

from disbatch_protocol.event_values import (
    DEPTH_MAX,
    DoubtfulNumberError,
    NotAnEventError,
    Storable,
    found_at,
    is_number,
    required_text_at,
    storable,
    storable_exact,
    text_at,
    whole,
)
from disbatch_protocol.faults import kind_of

LINE_MAX = 2**20  # bytes of a line, without its line feed
LINE_KEPT = 200  # bytes that are kept of a line that is not an event
SNOOZE_MAX_SECONDS = 10 * 366 * 86400.0  # ten years: more is a mistake in the unit
_STATUS_MAX = 2**31 - 1
_NAMES_SHOWN = 5  # in a sentence


class LogLevel(StrEnum):
    """The level of a log event."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of the task."""

    value: float | None  # 0 to 1
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A line for the task's log."""

    level: LogLevel
    message: str
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnStatus:
    """The plugin's own status for a later end; 0 takes back an earlier one."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFields:
    """Free fields of the task document."""

    fields: Mapping[str, Any] = field(repr=False)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of the task."""

    value: Any = field(repr=False)
    status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSaid:
    """The reason for a failure."""

    code: str | None
    message: str | None = field(repr=False)
    detail: str | None = field(repr=False)
    retry: bool | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snooze:
    """Run again later, without using an attempt."""

    seconds: float
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """A task to create once the run has succeeded."""

    queue: str
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUps:
    """Several follow-up tasks."""

    tasks: tuple[FollowUp, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Worker mode: the process can take tasks."""

    protocol: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Worker mode: the end of the current task."""

    exit_code: int | None  # None only with a fault
    task: str | None  # the id of its task, if the plugin says so
    fault: str = ""  # why the line cannot be understood; it still says that plugin and host are out of step


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is not an event."""

    start: bytes = field(repr=False)  # its first LINE_KEPT bytes
    message: str  # what was expected and what was found


Event = Progress | Log | OwnStatus | SetFields | Result | ErrorSaid | Snooze | FollowUps | Ready | Done


class EventReader:
    """Cuts the bytes from descriptor 3 into lines and reads each."""

    def __init__(self, *, worker_mode: bool = False) -> None:
        self._worker_mode = worker_mode
        self._rest = bytearray()  # of an incomplete line
        self._skipped = 0  # bytes of an overlong line, beyond the kept part

    @property
    def incomplete_bytes(self) -> int:
        """Bytes of a line that is not whole yet."""
        return len(self._rest) + self._skipped

    def feed(self, data: bytes) -> list[Event | BadLine]:
        """Take more bytes; the events that they complete."""
        if b"\n" not in data:
            self._keep(data)
            return []
        found: list[Event | BadLine] = []
        first, *others = data.split(b"\n")
        last = others.pop()
        if self._rest or self._skipped:
            self._keep(first)
            self._take_line(found)
        else:
            others.insert(0, first)
        for line in others:
            self._add(found, line)
        self._keep(last)
        return found

    def finish(self) -> list[Event | BadLine]:
        """The stream has ended: a last line without a line feed counts."""
        found: list[Event | BadLine] = []
        self._take_line(found)
        return found

    def _keep(self, data: bytes) -> None:
        room = max(0, LINE_MAX + 1 - len(self._rest))
        self._rest += data[:room]
        self._skipped += max(0, len(data) - room)

    def _take_line(self, found: list[Event | BadLine]) -> None:
        line, skipped, self._skipped = bytes(self._rest), self._skipped, 0
        self._rest.clear()
        self._add(found, line, skipped)

    def _add(self, found: list[Event | BadLine], line: bytes, skipped: int = 0) -> None:
        if len(line) > LINE_MAX:
            message = f"expected a line of at most {LINE_MAX} bytes, found one of {len(line) + skipped}"
            found.append(BadLine(start=line[:LINE_KEPT], message=message))
        elif line and not line.isspace():
            found.append(parse_line(line, worker_mode=self._worker_mode))


def parse_line(line: bytes, *, worker_mode: bool = False) -> Event | BadLine:
    """The event in a line without its line feed. `ready` and `done` are read in both modes, so that the plugin
    can be told; `worker_mode`: they are among the expected ones."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(start=line[:LINE_KEPT], message=f"expected a JSON object, found text that is not JSON ({error})")
    try:
        try:
            return _event_of(value, worker_mode, storable)
        except DoubtfulNumberError:
            return _event_of(_read_exactly(line), worker_mode, storable_exact)
    except NotAnEventError as error:
        return BadLine(start=line[:LINE_KEPT], message=str(error))


def _read_exactly(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError:  # orjson reads more levels
        raise NotAnEventError(f"expected at most {DEPTH_MAX} nested levels, found far more") from None


def _event_of(value: Any, worker_mode: bool, keep: Storable) -> Event:
    if not isinstance(value, dict):
        raise NotAnEventError(f"expected a JSON object, found {kind_of(value)}")
    name = value.get("type")
    read = _READERS.get(name) if isinstance(name, str) else None
    if read is None:
        known = ", ".join(one for one in _READERS if worker_mode or one not in _OF_WORKER_MODE)
        raise NotAnEventError(f'expected "type" to be one of {known}, found {found_at(value, "type")}')
    return read(value, keep)


def _progress(value: Mapping[str, Any], _: Storable) -> Progress:
    done = value.get("value")
    if done is not None and not (is_number(done) and 0 <= done <= 1):
        raise NotAnEventError(f'expected "value" from 0 to 1 or null, found {kind_of(done)}')
    return Progress(value=done, message=text_at(value, "message"))


def _given(value: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """An optional field; null is the same as leaving it out."""
    found = value.get(name)
    return otherwise if found is None else found


def _log(value: Mapping[str, Any], keep: Storable) -> Log:
    level = _given(value, "level", LogLevel.INFO)
    if level not in list(LogLevel):  # a list: the value may be of any type
        raise NotAnEventError(f'expected "level" to be one of {", ".join(LogLevel)}, found {kind_of(level)}')
    fields = _given(value, "fields", {})
    if not isinstance(fields, dict):
        raise NotAnEventError(f'expected "fields" to be an object, found {kind_of(fields)}')
    return Log(
        level=LogLevel(level),
        message=required_text_at(value, "message"),
        fields=keep(fields, '"fields"'),
    )


def _own_status(value: Mapping[str, Any], _: Storable) -> OwnStatus:
    status = whole(value.get("status"))
    if status is None or not (status == 0 or 2 <= status <= _STATUS_MAX):
        raise NotAnEventError(
            f'expected "status" to be 0 or a whole number from 2 to {_STATUS_MAX}, found {found_at(value, "status")}'
        )
    return OwnStatus(status=status)


def _set_fields(value: Mapping[str, Any], keep: Storable) -> SetFields:
    fields = value.get("fields")
    if not isinstance(fields, dict):
        raise NotAnEventError(f'expected "fields" to be an object, found {found_at(value, "fields")}')
    try:
        return SetFields(fields=keep(fields, '"fields"'))
    except NotAnEventError:  # to find the bad one: the others are set
        return _storable_fields(fields, keep)


def _storable_fields(fields: Mapping[str, Any], keep: Storable) -> SetFields:
    kept: dict[str, Any] = {}
    faults = []
    for name, value in fields.items():
        try:
            kept |= keep({name: value}, '"fields"')
        except NotAnEventError as error:
            faults.append(f'field "{name:.60}" is not set: {error}')
    return SetFields(fields=kept, faults=tuple(faults))


def _result(value: Mapping[str, Any], keep: Storable) -> Result:
    if "value" not in value:
        raise NotAnEventError('expected a "value", found none')
    status = whole(value.get("status"))
    if value.get("status") is not None and (status is None or not 0 <= status <= _STATUS_MAX):
        raise NotAnEventError(
            f'expected "status" to be a whole number from 0 to {_STATUS_MAX}, found {found_at(value, "status")}'
        )
    # 0 and 1 (a success) are not a plugin's own status.
    return Result(value=keep(value["value"], '"value"'), status=status if status not in (0, 1) else None)


def _error(value: Mapping[str, Any], _: Storable) -> ErrorSaid:
    # It counts as an error whatever else the line says: losing it would turn a failure into a success.
    faults = []

    def part(name: str, kind: type, expected: str) -> Any:
        found = value.get(name)
        if found is None or isinstance(found, kind):
            return found
        faults.append(f'expected "{name}" of error to be {expected}, found {kind_of(found)}; it is left out')
        return None

    texts = {name: part(name, str, "a string") for name in ("code", "message", "detail")}
    retry = part("retry", bool, "true or false")
    return ErrorSaid(**texts, retry=retry, faults=tuple(faults))


def _snooze(value: Mapping[str, Any], _: Storable) -> Snooze:
    seconds = value.get("seconds")
    if not is_number(seconds) or not 0 <= seconds <= SNOOZE_MAX_SECONDS:
        found = found_at(value, "seconds")
        raise NotAnEventError(f'expected "seconds" from 0 to {SNOOZE_MAX_SECONDS:.0f}, found {found}')
    return Snooze(seconds=float(seconds), message=text_at(value, "message"))


def _follow_ups(value: Mapping[str, Any], keep: Storable) -> FollowUps:
    tasks = value.get("tasks")
    if not isinstance(tasks, list):
        raise NotAnEventError(f'expected "tasks" to be a list, found {found_at(value, "tasks")}')
    read = tuple(_follow_up(one, number, keep) for number, one in enumerate(tasks))
    others = sorted({name for one in tasks for name in one} - {"queue", "parameters"})
    if not others:
        return FollowUps(tasks=read)
    names = ", ".join(f'"{name:.40}"' for name in others[:_NAMES_SHOWN])
    more = f" and {len(others) - _NAMES_SHOWN} more" if len(others) > _NAMES_SHOWN else ""
    fault = f'expected follow-up tasks to have "queue" and "parameters", found {names}{more} too; they are left out'
    return FollowUps(tasks=read, faults=(fault,))


def _follow_up(task: Any, number: int, keep: Storable) -> FollowUp:
    if not isinstance(task, dict):
        raise NotAnEventError(f'expected "tasks" to hold objects, found {kind_of(task)} at {number}')
    queue, parameters = task.get("queue"), _given(task, "parameters", {})
    if not isinstance(queue, str) or not queue or "\0" in queue:
        raise NotAnEventError(f'expected a queue id as "queue" of task {number}, found {found_at(task, "queue")}')
    if not isinstance(parameters, dict):
        raise NotAnEventError(f'expected "parameters" of task {number} to be an object, found {kind_of(parameters)}')
    return FollowUp(queue=queue, parameters=keep(parameters, f'"parameters" of task {number}'))


def _ready(value: Mapping[str, Any], _: Storable) -> Ready:
    protocol = whole(value.get("protocol"))
    if protocol is None:
        raise NotAnEventError(f'expected "protocol" to be a whole number, found {found_at(value, "protocol")}')
    return Ready(protocol=protocol)


def _done(value: Mapping[str, Any], _: Storable) -> Done:
    exit_code, task, fault = whole(value.get("exit")), value.get("task"), ""
    if exit_code is None or not 0 <= exit_code <= 255:
        exit_code = None
        fault = f'expected "exit" of done to be a whole number from 0 to 255, found {found_at(value, "exit")}'
    elif task is not None and not isinstance(task, str):
        task, fault = None, f'expected "task" of done to be the _id of its task, a string, found {kind_of(task)}'
    return Done(exit_code=exit_code, task=task if isinstance(task, str) else None, fault=fault)


_READERS: Mapping[str, Callable[[Mapping[str, Any], Storable], Event]] = MappingProxyType(
    {
        "progress": _progress,
        "log": _log,
        "status": _own_status,
        "set": _set_fields,
        "result": _result,
        "error": _error,
        "snooze": _snooze,
        "tasks": _follow_ups,
        "ready": _ready,
        "done": _done,
    }
)
_OF_WORKER_MODE = ("ready", "done")

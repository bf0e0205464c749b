"""The log of a node, as lines of text or of JSON.

Responsible for: the two forms, and the ids that a record carries beside its message. Must not know: what is logged.

Rules:
1. `ids` is the only way to give a record its ids. The text form does not show them: there the message names them.
2. Neither form shows anything beyond the message, the ids and a traceback: no parameters, no values of variables, no
   arguments of calls.
3. A log that cannot be written must not stop the node, nor make it write more.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_FIELD = "ids"  # the attribute of a record that holds them


def ids(
    *,
    task: object = None,
    queue: object = None,
    batch: str | None = None,
    class_name: str | None = None,
    attempt: int | None = None,
    pid: int | None = None,
    about_node: str | None = None,
) -> dict[str, dict[str, object]]:
    """The `extra=` of a log call: the ids that the message is about, as far as they are known. `about_node` is a node
    other than the one that logs."""
    found = {
        "task": None if task is None else str(task),
        "queue": None if queue is None else str(queue),
        "batch": batch,
        "class": class_name,
        "attempt": attempt,
        "pid": pid,
        "about_node": about_node,
    }
    return {_FIELD: {name: value for name, value in found.items() if value is not None}}


def with_error(of_record: Mapping[str, Mapping[str, object]], code: str, message: str) -> dict[str, dict[str, object]]:
    """Ids as `ids` makes them, together with the error of the task that they name, free of secrets."""
    error = {name: value for name, value in (("error_code", code), ("error", message)) if value}
    return {_FIELD: {**of_record[_FIELD], **error}}


def set_up(level: str, format_name: str, *, node_id: str) -> None:
    """Log to stderr, one line per record. The drivers' own logs stay out: the node itself logs what matters of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(format_name, node_id))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # rule 3
    for name in ("pymongo", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def change(level: str, format_name: str, *, node_id: str) -> None:
    """Change the level or the form of the log that `set_up` has set up."""
    logging.getLogger().setLevel(level.upper())
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_formatter(format_name, node_id))


def _formatter(format_name: str, node_id: str) -> logging.Formatter:
    return JsonFormatter(node_id) if format_name == "json" else TextFormatter(_TEXT)


class TextFormatter(logging.Formatter):
    """Local time with its offset, as the commands print it."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(sep=" ", timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """One object per line: `time`, `level`, `message`, `logger`, `node`, the ids, the error of a task that failed, and
    `traceback` if there is one."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "time": f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            "node": self._node_id,
        }
        of_record = getattr(record, _FIELD, None)
        if isinstance(of_record, Mapping):
            fields |= of_record
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        try:
            return orjson.dumps(fields, default=str).decode()
        except TypeError:  # text that is not valid UTF-8, such as the name of a file
            return orjson.dumps({name: _in_utf8(value) for name, value in fields.items()}).decode()


def _in_utf8(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value

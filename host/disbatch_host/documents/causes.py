"""The cause of a failure in a task's `error`: `error.group` (schemas/task.json). Pure.

Responsible for: which errors have one. Must not know: how its text is made (`disbatch_protocol.groups`), who counts.

Rule: every error of a failure has one: of a run, of a lost one, of a task that expired. A cancellation that somebody
asked for is not a failure, nor is waiting for another task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host.documents.records import Document, Task
from disbatch_protocol.groups import group_of_error


def with_group(error: Mapping[str, Any], task: Task | None = None, run: Mapping[str, Any] | None = None) -> Document:
    """The error with its group. `task` and `run`: the ones that failed. The task's own parameters tell names from other
    words; where the host says why, they are not needed."""
    if task is None:
        return {**error, "group": group_of_error(error).to_document()}
    secrets = [*pointers_in(task.document.get("secrets")), *pointers_in((run or {}).get("secrets"))]
    return {**error, "group": group_of_error(error, task.parameters, secrets).to_document()}


def pointers_in(value: Any) -> list[str]:
    """JSON pointers in a field of a document that may hold anything."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, (list, tuple)) else []


def group_in(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """The text and the key of the group of a task or attempt; None where it has none that can be used."""
    error = document.get("error")
    if error is None:  # of most tasks
        return None
    group = error.get("group") if isinstance(error, Mapping) else None
    if not isinstance(group, Mapping):
        return None
    text, key = group.get("text"), group.get("key")
    return (text, key) if isinstance(text, str) and isinstance(key, str) and key else None

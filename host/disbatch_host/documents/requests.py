"""Requests as documents hold them: by whom, when and why. Imports only types from the project. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Document


def request_of(by: str, why: str | None, *, now: datetime) -> Document:
    """A request, by whom, when and why: `cancel` and `retried` of a task, `paused` of a queue, `requests` of a
    node."""
    return {"at": now, "by": by, **({"why": why} if why else {})}


def with_cancel(run: Mapping[str, Any], request: Mapping[str, Any]) -> Document:
    """`run` with the request to cancel the task. Before the first attempt it holds nothing else."""
    return {**run, "cancelled": dict(request)}


def cancelled_in_words(request: Mapping[str, Any]) -> str:
    why = request.get("why")
    return f"it was cancelled by {request.get('by') or 'somebody'}{f': {why}' if why else ''}"

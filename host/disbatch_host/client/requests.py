"""A request: the person who asks, when and why, checked so that tables and logs can show it."""

from __future__ import annotations

from datetime import datetime

from disbatch_host.documents import requests
from disbatch_host.documents.records import Document
from disbatch_host.errors import UsageError


def request(by: str, why: str | None, *, now: datetime) -> Document:
    """A request in its document form. Raises UsageError if the reason cannot be shown."""
    if why is not None:
        check_text("a reason", why)
    return requests.request_of(by, why, now=now)


def check_text(what: str, text: str) -> None:
    """Raises UsageError if an id, or another short text that tables show, cannot be shown."""
    if not text.strip():
        raise UsageError(f"expected {what}, found an empty text")
    if not text.isprintable():
        raise UsageError(f"expected {what} without control characters, found {text!r:.80}")

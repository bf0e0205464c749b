"""Server-sent events as text. Pure."""

from __future__ import annotations

from typing import Any

import orjson

MEDIA_TYPE = "text/event-stream; charset=utf-8"
RETRY = b"retry: 2000\n\n"  # ms, after which a browser comes back
COMMENT = b":\n\n"


def event(name: str, data: Any, *, id: str | None = None) -> bytes:
    """One event; its data is JSON on one line."""
    head = b"" if id is None else b"id: %s\n" % id.encode()
    return b"%sevent: %s\ndata: %s\n\n" % (head, name.encode(), orjson.dumps(data))

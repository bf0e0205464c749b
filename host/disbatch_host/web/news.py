"""What can be told of a task that is followed, as events; and how far somebody has come who has heard them. Pure.

Responsible for: the events `task`, `stdout`, `stderr`, `gap`, `reset`, `trouble`, `end`, and their ids. Must not know:
where news come from, who follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from disbatch_host.client.output_places import STREAMS, whole_characters
from disbatch_host.web.events import event

_EVENT_BYTES = 2**16  # of output in one event


@dataclass(frozen=True, slots=True)
class Place:
    """How far somebody has come."""

    attempt: int
    offsets: Mapping[str, int]  # by stream

    @property
    def id(self) -> str:
        """Of an event, after which one is here."""
        return ":".join(map(str, (self.attempt, *(self.offsets[name] for name in STREAMS))))

    @classmethod
    def of_id(cls, text: str) -> Place | None:
        """None: the text is not the id of an event."""
        parts = text.split(":")
        if len(parts) != 1 + len(STREAMS) or not all(
            one.isascii() and one.isdigit() and len(one) < 19 for one in parts
        ):
            return None
        attempt, *offsets = map(int, parts)
        return cls(attempt, dict(zip(STREAMS, offsets, strict=True)))

    def at(self, stream: str, offset: int) -> Place:
        return Place(self.attempt, {**self.offsets, stream: offset})


@dataclass(frozen=True, slots=True)
class News:
    """One event."""

    kind: str  # task, stdout, stderr, gap, reset, trouble, end
    data: bytes = field(repr=False)
    place: Place  # behind it
    stream: str | None = None  # that it is about


def trouble_event(words: str) -> bytes:
    """The store does not answer; what was told before still holds, as far as anybody knows."""
    return event("trouble", {"message": words})


def reset_event(place: Place) -> bytes:
    """A new attempt has begun."""
    return event("reset", {"attempt": place.attempt}, id=place.id)


def gone_event() -> bytes:
    """The end of a task that was deleted."""
    return event("end", {"status": None, "reason": "it was deleted"})


def text_event(stream: str, offset: int, data: bytes, place: Place) -> bytes:
    """Some of a stream. What is not text comes with U+FFFD in its place, so the id alone says where it ends."""
    return event(stream, {"offset": offset, "text": data.decode("utf-8", "replace")}, id=place.id)


def gap_event(stream: str, begin: int, end: int, place: Place) -> bytes:
    """These bytes are left out; a request with Range has them."""
    return event("gap", {"stream": stream, "from": begin, "to": end}, id=place.id)


def end_event(shown: Mapping[str, Any], place: Place) -> bytes:
    return event("end", {"status": shown.get("status"), "reason": shown.get("reason")}, id=place.id)


def task_event(shown: Mapping[str, Any], log: Sequence[Any], place: Place, *, is_whole: bool) -> bytes:
    """`log`: the entries since the last such event, or all that there are (`is_whole`)."""
    return event("task", {**shown, "log": list(log), "log_is_whole": is_whole}, id=place.id)


def entries_since(before: Sequence[Any], now: Sequence[Any]) -> Sequence[Any]:
    """The entries that were added; the oldest may have been dropped."""
    for dropped in range(len(before) + 1):
        kept = len(before) - dropped
        if before[dropped:] == now[:kept]:
            return now[kept:]
    return now


def parts_of(data: bytes, *, is_binary: bool) -> Iterator[bytes]:
    """In parts of which several are kept."""
    while data:
        cut = _EVENT_BYTES if is_binary else whole_characters(data[:_EVENT_BYTES]) or len(data)
        yield data[:cut]
        data = data[cut:]

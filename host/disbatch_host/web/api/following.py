"""A task, or a batch, as it goes on: server-sent events.

Responsible for: where a follower begins, and what he gets when he is too slow. Must not know: how news are found.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from disbatch_host.client.output_places import STREAMS, Output
from disbatch_host.errors import NotFoundError, in_words
from disbatch_host.web.api.batches import batch_of, with_progress
from disbatch_host.web.api.tasks import task_of
from disbatch_host.web.call import Events
from disbatch_host.web.events import MEDIA_TYPE, event
from disbatch_host.web.feed import Feed, Joined
from disbatch_host.web.news import Place, gap_event, reset_event, text_event
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

_TAIL = 65_536  # bytes of each stream, before those that come
_TAIL_MAX = 2**30


async def _task_events(opening: Opening) -> Events:
    task = await opening.call(task_of)
    return Events(events=_Follower(opening, _streams_in(opening), _begin_in(opening)).events(task.id))


def _streams_in(opening: Opening) -> frozenset[str]:
    given = opening.query.get("streams")
    names = frozenset(STREAMS if given is None else (one.strip() for one in given.split(",")))
    if not names <= {*STREAMS}:
        raise _wrong("streams", f"expected {' or '.join(STREAMS)}, found {', '.join(sorted(names))!r:.80}")
    return names


def _begin_in(opening: Opening) -> Place | None:
    """After which event somebody goes on; None: he begins."""
    text = opening.query.get("from") or opening.headers.get("last-event-id")
    if not text:
        return None
    place = Place.of_id(text)
    if place is None:
        raise _wrong("from", f"expected the id of an event, such as 1:81920:0, found {text!r:.80}")
    return place


def _wrong(name: str, message: str) -> Problem:
    return Problem(Code.QUERY, f"{name}: {message}", faults=[Fault(pointer=name, message=message)])


class _Follower:
    """One of those who follow a task."""

    def __init__(self, opening: Opening, streams: frozenset[str], begin: Place | None) -> None:
        self._hub = opening.shared.hub
        self._base = opening.base
        self._tail = opening.query.get("tail", _TAIL)
        self._streams = streams
        self._begin = begin

    async def events(self, task_id: Any) -> AsyncGenerator[bytes, None]:
        feed = self._hub.join(task_id, self._base)
        try:
            async with contextlib.aclosing(self._events(feed)) as events:
                async for one in events:
                    yield one
        finally:
            self._hub.leave(feed)

    async def _events(self, feed: Feed) -> AsyncGenerator[bytes, None]:
        joined = await feed.known()
        async for one in self._so_far(joined):
            yield one
        place, number = joined.place, joined.number
        while True:
            told = await feed.news(number, self._streams)
            if told is None:
                self._hub.figures.gaps += 1
                joined = await feed.known()
                yield b"".join(self._gap(place, joined))
                place, number = joined.place, joined.number
                continue
            place, number = told.place, told.number
            if told.data:
                yield told.data
            if told.is_end:
                return

    async def _so_far(self, joined: Joined) -> AsyncGenerator[bytes, None]:
        """From where this one begins to where the reader was when he came."""
        now, begin = joined.place, self._begin
        if begin is not None and begin.attempt != now.attempt:
            begin = Place(now.attempt, dict.fromkeys(STREAMS, 0))
            yield reset_event(begin)
        offsets = {}
        for name, end in now.offsets.items():
            offset = max(0, end - self._tail) if begin is None else min(begin.offsets[name], end)
            offsets[name] = await self._begin_of_character(joined.outputs[name], offset)
        place = Place(now.attempt, offsets)
        yield _with_id(joined.task, place)
        for name in (one for one in STREAMS if one in self._streams):
            output, end = joined.outputs[name], now.offsets[name]
            while (offset := place.offsets[name]) < end:
                data = (await self._read(output, offset))[: end - offset]
                if not data:  # a new attempt has begun, of which the reader will tell
                    break
                place = place.at(name, offset + len(data))
                yield text_event(name, offset, data, place)

    async def _begin_of_character(self, output: Output, offset: int) -> int:
        return await self._hub.call(lambda client: output.begin_of_character(client.store, offset))

    async def _read(self, output: Output, offset: int) -> bytes:
        return await self._hub.call(lambda client: output.read_text(client.store, offset, is_end=True))

    def _gap(self, before: Place, joined: Joined) -> Iterable[bytes]:
        now = joined.place
        if before.attempt != now.attempt:
            before = Place(now.attempt, dict.fromkeys(STREAMS, 0))
            yield reset_event(before)
        for name in (one for one in STREAMS if one in self._streams):
            if before.offsets[name] < now.offsets[name]:
                yield gap_event(name, before.offsets[name], now.offsets[name], now)
        yield joined.task


def _with_id(task: bytes, place: Place) -> bytes:
    """The event of a task, for somebody who is not yet where the reader is."""
    _, _, rest = task.partition(b"\n")
    return b"id: %s\n%s" % (place.id.encode(), rest)


async def _batch_events(opening: Opening) -> Events:
    batch = await opening.call(batch_of)
    return Events(events=_batches(opening, batch.id))


async def _batches(opening: Opening, batch_id: str) -> AsyncGenerator[bytes, None]:
    async def look() -> dict[str, Any]:
        return await opening.call(lambda call: with_progress(call, call.client.batches.get(batch_id)))

    with opening.shared.hub.batches.of(batch_id, look) as looks:
        shown: Any = None
        try:
            async with contextlib.aclosing(looks.changes()) as changes:
                async for seen in changes:
                    if seen.trouble:
                        yield event("trouble", {"message": seen.trouble, "age_seconds": round(seen.age_seconds, 1)})
                    elif seen.picture != shown:
                        shown = seen.picture
                        yield event("batch", shown)
        except NotFoundError as error:
            yield event("end", {"reason": in_words(error)})


ROUTES = (
    Route(
        method="GET", path="/tasks/{id}/events", role=Role.READ, opens=_task_events, about=Code.TASK,
        media_type=MEDIA_TYPE, words="A task as it goes on, with what it prints: events.",
        answers={200: {"type": "string", "description": "task, stdout, stderr, reset, gap, trouble, end, bye."}},
        query={
            "streams": {"type": "string", "description": "stdout,stderr or one of them."},
            "tail": {
                "type": "integer", "minimum": 0, "maximum": _TAIL_MAX, "default": _TAIL,
                "description": "Begin so many bytes before the end of each stream.",
            },
            "from": {"type": "string", "description": "Go on after the event with this id; Last-Event-ID says it too."},
        },
    ),
    Route(
        method="GET", path="/batches/{b}/events", role=Role.READ, opens=_batch_events, about=Code.BATCH,
        media_type=MEDIA_TYPE, words="A batch as it goes on, whole, at most once a second.",
        answers={200: {"type": "string", "description": "batch, trouble, end, bye."}},
    ),
)  # fmt: skip

"""Tasks that were read ahead of the claims that will want them: a find costs the server about as much for sixty small
tasks as for eight.

Responsible for: keeping the next ones of each queue for a moment, and throwing them away. Must not know: how they are
found, who claims them.

Rules:
1. They are kept for `_AHEAD_SECONDS`: a task of a higher priority that somebody has pushed meanwhile waits no longer
   than that. A write of this store that may change what comes next throws them away.
2. They are candidates: the claim of one that has changed since is refused by its guard. Then all of the queue are
   thrown away, and for `_REST_SECONDS` nothing is read ahead: somebody else claims from it. The same where a look
   brings no more than was wanted: the queue has mixed priorities, for which `claim_order` asks several times.
3. Only small tasks are read ahead, so that they take up next to no memory: after a large one, nothing is for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import bson
from bson.errors import BSONError

from disbatch_host.clock import Clock
from disbatch_host.documents.records import Document, QueueId
from disbatch_host.store.mongo import forms

READ_AHEAD = 64  # tasks
_AHEAD_SECONDS = 0.1
_REST_SECONDS = 1.0
_LARGE_SECONDS = 10.0
_SMALL_BYTES = 8192  # of a task that is read ahead

# How many at most, and whether the others can be left after this one → the first of a queue
Find = Callable[[int, Callable[[Document], bool]], list[Document]]


@dataclass(slots=True)
class _Next:
    """The next tasks of one queue."""

    documents: deque[Document] = field(default_factory=deque)
    until: float = 0.0  # of the monotonic clock: they are too old then
    not_before: float = 0.0  # nothing is read ahead until then


class Ahead:
    """The tasks that one store has read ahead."""

    def __init__(self, clock: Clock) -> None:
        """`clock`: this machine's; only its monotonic time is used."""
        self._clock = clock
        self._queues: dict[QueueId, _Next] = {}

    def take(self, queue: QueueId, count: int, find: Find) -> list[Document]:
        """The first `count` of a queue, as they are now or were a moment ago; `find` reads them."""
        now = self._clock.monotonic()
        following = self._queues.get(queue)
        if following is None or now >= following.until or len(following.documents) < count:
            following = self._read(queue, count, find, now)
        waiting = following.documents
        return [waiting.popleft() for _ in range(min(count, len(waiting)))]

    def throw_away(self, queue: QueueId) -> None:
        """Somebody else claims from this queue."""
        self._queues[queue] = _Next(not_before=self._clock.monotonic() + _REST_SECONDS)

    def throw_all_away(self) -> None:
        """This store has written something that may change what comes next."""
        for following in self._queues.values():
            following.documents.clear()

    def _read(self, queue: QueueId, count: int, find: Find, now: float) -> _Next:
        # Those that are too old take up memory, and nobody may ask for their queue again.
        self._queues = {one: kept for one, kept in self._queues.items() if now < max(kept.until, kept.not_before)}
        following = self._queues.setdefault(queue, _Next())
        looked = _Look(count)
        most = count if now < following.not_before else max(count, READ_AHEAD)
        found = find(most, looked.is_enough)
        if looked.has_large:
            following.not_before = now + _LARGE_SECONDS
            found = found[:count]
        elif len(found) == count < most:
            following.not_before = now + _REST_SECONDS
        following.documents, following.until = deque(found), now + _AHEAD_SECONDS
        return following


class _Look:
    """One look at the first tasks of a queue, of which so many are wanted."""

    def __init__(self, wanted: int) -> None:
        self.has_large = False
        self._wanted = wanted
        self._seen = 0

    def is_enough(self, document: Document) -> bool:
        """Whether those after this one can be left."""
        self._seen += 1
        self.has_large = self.has_large or not _is_small(document)
        return self.has_large and self._seen >= self._wanted


def _is_small(document: Document) -> bool:
    try:
        return len(bson.encode(document, codec_options=forms.CODEC)) <= _SMALL_BYTES
    except (BSONError, TypeError, ValueError, OverflowError, RecursionError):
        return False

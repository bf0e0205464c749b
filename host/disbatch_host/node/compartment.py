"""Compartments: one bad thing costs only itself.

Responsible for: containing a failure that nobody expected in one part of a node's work (a duty, the claim of a queue,
one task among many, the examination of the plugins); saying it once, with the name of the culprit; remembering it as a
trouble that the node's document shows; letting the culprit rest. Must not know: what the parts do.

Rules:
1. StoreUnreachableError goes through: no culprit is at fault, and the health of the store is told elsewhere.
2. Anything that is not an Exception (KeyboardInterrupt, SystemExit) goes through: it ends the node.
3. The words for an error repeat no value that was read (`errors.in_words`).
4. A culprit is logged again only if the words have changed.
5. A trouble is shown as long as it lasts: until some time has passed since it was last met.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from disbatch_host import errors
from disbatch_host.clock import Clock
from disbatch_host.documents.records import Document
from disbatch_host.documents.storable import storable
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.pace import Pace

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Key = TypeVar("Key")

SHOWN_MAX = 20  # troubles in the node's document
_KEPT_MAX = 10_000  # troubles in memory: culprits that rest, and words that were said
_CULPRIT_MAX = 100  # characters of a culprit's name: an id may be as long as a document
_WORDS_MAX = 300


@dataclass(slots=True)
class _Trouble:
    what: str
    since: datetime
    rests_until: float  # by the monotonic clock
    shown_until: float


class Troubles:
    """The failures that a node has contained. May be used in any thread. `clock`: the dates are for others to read."""

    def __init__(self, clock: Clock, pace: Pace) -> None:
        self._clock = clock
        self._pace = pace
        self._lock = threading.Lock()
        self._troubles: dict[tuple[str, str], _Trouble] = {}  # by place and culprit; the last met at the end

    def report(
        self,
        where: str,
        culprit: object,
        error: Exception | str,
        *,
        extra: Mapping[str, Any] | None = None,
        shown_seconds: float | None = None,
    ) -> None:
        """Something failed at this place because of this culprit. `extra`: of the log call, see `logs.ids`.
        `shown_seconds`: how long it is shown; by default until it could have failed again."""
        name, what = name_of(culprit), _words_for(error)
        now = self._clock.monotonic()
        with self._lock:
            known = self._troubles.pop((where, name), None)
            is_new = known is None or known.what != what
            self._troubles[where, name] = _Trouble(
                what=what,
                since=self._clock.now() if known is None or now > known.shown_until else known.since,
                rests_until=now + self._pace.rest_seconds,
                shown_until=now + (shown_seconds or 2 * self._pace.rest_seconds),
            )
            if len(self._troubles) > _KEPT_MAX:
                del self._troubles[next(iter(self._troubles))]
        if is_new:
            log.error("%s, %s: %s", where, name, what, extra=extra)
            if isinstance(error, Exception):
                log.debug("%s, %s: %s", where, name, _way_of(error), extra=extra)

    @contextmanager
    def contained(self, where: str, culprit: object, *, shown_seconds: float | None = None) -> Iterator[None]:
        """A compartment: what fails in the block is reported and ends there."""
        try:
            yield
        except StoreUnreachableError:
            raise
        except Exception as error:
            self.report(where, culprit, error, shown_seconds=shown_seconds)

    def is_resting(self, where: str, culprit: object) -> bool:
        """Whether this culprit was met so recently that it is not tried again."""
        found = self._troubles.get((where, name_of(culprit))) if self._troubles else None
        return found is not None and self._clock.monotonic() < found.rests_until

    def resting(self, where: str) -> int:
        """How many culprits rest at this place."""
        if not self._troubles:
            return 0
        now = self._clock.monotonic()
        with self._lock:
            return sum(place == where and now < one.rests_until for (place, _), one in self._troubles.items())

    def documents(self) -> list[Document]:
        """The newest troubles, for the node's document."""
        if not self._troubles:
            return []
        now = self._clock.monotonic()
        with self._lock:
            shown = [(key, one) for key, one in self._troubles.items() if now < one.shown_until]
        return [
            {"where": where, "culprit": culprit, "what": one.what, "since": one.since}
            for (where, culprit), one in reversed(shown[-SHOWN_MAX:])
        ]


def write_each(
    write: Callable[[Sequence[Item]], Set[Key]], items: Sequence[Item], on_fault: Callable[[Item, Exception], object]
) -> set[Key]:
    """Write items together; what is refused as a whole is written in halves, down to the items that are at fault, each
    of which `on_fault` is told. Returns what `write` returned, of all that was written."""
    try:
        return set(write(items)) if items else set()
    except StoreUnreachableError:
        raise
    except Exception as error:
        if len(items) == 1:
            on_fault(items[0], error)
            return set()
    half = len(items) // 2
    return write_each(write, items[:half], on_fault) | write_each(write, items[half:], on_fault)


def name_of(culprit: object) -> str:
    """A culprit's name as text that can be logged and stored."""
    try:
        text = storable(culprit)
    except Exception:  # a type of a driver, with a value that even its own words cannot hold
        text = f"a {type(culprit).__name__}"
    text = " ".join(text[: 2 * _CULPRIT_MAX].split()).replace("\0", "\\0")
    return text if len(text) <= _CULPRIT_MAX else f"{text[:_CULPRIT_MAX]}…"


def _words_for(error: Exception | str) -> str:
    text = error if isinstance(error, str) else errors.in_words(error)
    return " ".join(storable(text)[: 2 * _WORDS_MAX].split())[:_WORDS_MAX]


def _way_of(error: Exception) -> str:
    """The calls that led to it, without the values."""
    steps = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{type(error).__name__} by way of {', '.join(steps[-40:])}"

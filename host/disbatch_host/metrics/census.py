"""A census of the whole store, taken now and then for monitoring from outside.

Responsible for: a store connection of its own, and a thread that counts when it is asked and its last answer is too
old. Must not know: who asks, or how the answer is shown.

Rules:
1. The node's own store thread is never asked: a count of millions must not keep it from writing.
2. Nothing is counted, and nothing connected, before somebody asks.
3. Counting takes at most a twentieth of the time: after a count that took long, the next one is long in coming.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from disbatch_host.documents.records import NodeRecord, QueueId
from disbatch_host.errors import StoreError
from disbatch_host.store.contract import Connection, Nodes, Queues, Tasks

log = logging.getLogger(__name__)

PAUSE_PER_SECOND = 20.0  # rule 3: seconds of rest for each second that a count takes


class CountedStore(Connection, Queues, Tasks, Nodes, Protocol):
    """The part of a store that is needed to count it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """One count. Ages are seconds at the moment of the count, by the store's clock."""

    at: float  # monotonic
    took_seconds: float
    by_status: Mapping[QueueId, Mapping[int, int]]
    oldest_waiting_seconds: Mapping[QueueId, float]
    heartbeat_age_seconds: Mapping[str, float]  # of every node that has one
    paused: Mapping[QueueId, bool] = field(default_factory=dict)  # queues; whether by their own failures


def pause_after(took_seconds: float, interval_seconds: float) -> float:
    """Seconds until the next count may be made (rule 3)."""
    return max(interval_seconds, PAUSE_PER_SECOND * took_seconds)


class CensusTaker:
    """Counts in a thread of its own, which starts with the first question."""

    def __init__(self, new_store: Callable[[], CountedStore], *, interval_seconds: float) -> None:
        """`new_store` returns a store that nobody else uses, not opened yet; `interval_seconds` are between two counts,
        at least."""
        self._new_store = new_store
        self._interval_seconds = interval_seconds
        self._store: CountedStore | None = None
        self._is_open = False
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()
        self._is_wanted = False
        self._is_stopping = False
        self._latest: Census | None = None
        self._due = 0.0  # monotonic; when the next count may be made

    def ask(self, wait_seconds: float) -> Census | None:
        """The latest count; a fresh one if it is due and comes within `wait_seconds`. None while the store does not
        answer."""
        with self._change:
            if time.monotonic() >= self._due and not self._is_stopping:
                self._is_wanted = True
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="census", daemon=True)
                    self._thread.start()
                self._change.notify_all()
                self._change.wait_for(lambda: not self._is_wanted or self._is_stopping, wait_seconds)
            return self._latest

    def stop(self) -> None:
        """End the thread soon; stopping twice is fine. A count in progress is not waited for: it only reads."""
        with self._change:
            self._is_stopping = True
            self._change.notify_all()
        if self._store is not None:
            self._store.hurry()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_wanted or self._is_stopping)
                if self._is_stopping:
                    break
            try:
                census: Census | None = self._count()
            except StoreError as error:  # the node itself reports that; it has noticed as well
                log.debug("the tasks could not be counted: %s", error)
                census = None
            except Exception:
                # A defect here must not end the thread: scrapes would show old numbers for ever.
                log.exception("the tasks could not be counted")
                census = None
            with self._change:
                now = time.monotonic()
                self._latest = census
                # A store that is away did not have to count anything, and should be seen as soon as it is back.
                self._due = now + pause_after(0.0 if census is None else census.took_seconds, self._interval_seconds)
                self._is_wanted = False
                self._change.notify_all()
        if self._store is not None:
            self._store.close()

    def _count(self) -> Census:
        if self._store is None:
            self._store = self._new_store()
        if not self._is_open:
            self._store.open()
            self._is_open = True
        began = time.monotonic()  # connecting costs the store nothing worth a pause
        by_status = self._store.count_by_status()
        oldest, now = self._store.oldest_waiting(), self._store.now()
        ages = {node.id: age for node in self._store.nodes() if (age := _age_of(node)) is not None}
        paused = {one.id: one.is_paused_on_failures for one in self._store.queues() if one.paused is not None}
        done = time.monotonic()
        return Census(
            at=done,
            took_seconds=done - began,
            by_status=by_status,
            oldest_waiting_seconds={
                queue: max(0.0, (now - ctime).total_seconds())
                for queue, ctime in oldest.items()
                if isinstance(ctime, datetime)
            },
            heartbeat_age_seconds=ages,
            paused=paused,
        )


def _age_of(node: NodeRecord) -> float | None:
    """The age of its heartbeat, if that says anything: one that is away has none before its time is over."""
    return node.age_seconds if node.away_seconds is None else None

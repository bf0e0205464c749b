"""A change stream, or periodic wake-ups if the server has none: wakes a thread that waits for something to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo import errors as driver

from disbatch_host.documents.records import Document
from disbatch_host.store.mongo import driver_errors, forms
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

FALLBACK_SECONDS = 0.5  # between two wake-ups if the server has no change streams (standalone)
# The server answers after this long if nothing happens. So soon do people who wait see that it is time to end; a node
# does not wait for its watcher, and each answer costs it and the server half a millisecond.
_ANSWER_MS, _NODE_ANSWER_MS = 250, 2000
_SETTLE_SECONDS = 0.005  # between two wake-ups: under load changes come by the hundred, and one is enough for many
# Handing out a change of a batch that has arrived takes the driver less; a trip to the server, several times as long.
_FROM_BATCH_SECONDS = 0.0001


class MongoWatcher:
    """A change stream over tasks that become claimable, queues, and the ends of tasks; used by its own thread."""

    def __init__(self, connect: Any, database_name: str, *, ends: bool, is_shared: bool = False) -> None:
        """`is_shared`: what `connect` returns is somebody else's, who closes it."""
        # Things that wake: something to claim, something that ended if that is asked for, a queue that changed. The
        # steps in between, and heartbeats, wake nobody.
        wanted: Any = {"$nin": [None, *forms.IN_HAND]} if ends else int(Status.CREATED)
        self._pipeline: Sequence[Document] = (
            {
                "$match": {
                    "$or": [
                        {"ns.coll": "queues"},
                        {"ns.coll": "tasks", "operationType": {"$in": ["insert", "delete", "replace"]}},
                        {
                            "ns.coll": "tasks",
                            "operationType": "update",
                            "updateDescription.updatedFields.status": wanted,
                        },
                    ]
                }
            },
            {"$project": {"_id": 1}},
        )
        self._answer_ms = _ANSWER_MS if ends else _NODE_ANSWER_MS
        self._connect = connect
        self._is_shared = is_shared
        self._database_name = database_name
        self._client: pymongo.MongoClient[Document] | None = None
        self._stream: Any = None
        self._has_streams = True
        self._woke = float("-inf")  # when it did so last, by the monotonic clock
        self._is_closed = threading.Event()
        self._in_use = threading.Lock()

    @property
    def is_listening(self) -> bool:
        return self._stream is not None  # one that has just been opened makes `wait` return True

    def wait(self, timeout_seconds: float) -> bool:
        with self._in_use:
            deadline = time.monotonic() + timeout_seconds
            if (left := self._woke + _SETTLE_SECONDS - time.monotonic()) > 0:
                self._is_closed.wait(left)
            has_changed = self._wait(deadline)
            if has_changed:
                self._woke = time.monotonic()
        if self._is_closed.is_set():
            self.close()
        return has_changed

    def _wait(self, deadline: float) -> bool:
        while not self._is_closed.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                if self._stream is None and self._has_streams:
                    self._open_stream()
                    return True  # changes from before the stream was opened are not in it
                if self._has_streams and self._has_change():
                    return True
            except (driver.PyMongoError, OSError) as error:
                self._drop()
                if isinstance(error, driver.OperationFailure) and error.code in driver_errors.NO_STREAMS:
                    log.info("the store announces no changes, so it is checked every %.1f s", FALLBACK_SECONDS)
                    log.debug("why it announces none: %s", error)
                    self._has_streams = False
                else:
                    log.debug("the change stream was lost: %s", error)
                    self._is_closed.wait(min(left, FALLBACK_SECONDS))
            if not self._has_streams:
                self._is_closed.wait(min(left, FALLBACK_SECONDS))
                return not self._is_closed.is_set()
        return False

    def close(self) -> None:
        self._is_closed.set()
        # A waiting thread still uses the connection; it closes it once it sees that it should end.
        if self._in_use.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._in_use.release()

    def _open_stream(self) -> None:
        self._client = self._connect()
        database = self._client[self._database_name]
        self._stream = database.watch(list(self._pipeline), max_await_time_ms=self._answer_ms)

    def _has_change(self) -> bool:
        while True:
            asked = time.monotonic()
            if self._stream.try_next() is None:
                if (
                    not self._stream.alive
                ):  # as after the database was dropped: it would keep answering at once that nothing changed
                    self._drop()
                return False
            if time.monotonic() - asked > _FROM_BATCH_SECONDS:
                return True
            # Another change of the batch that already woke the thread, which could see all of it then.

    def _drop(self) -> None:
        with contextlib.suppress(driver.PyMongoError, OSError):  # it is gone in any case
            if self._stream is not None:
                self._stream.close()
            if self._client is not None and not self._is_shared:
                self._client.close()
        self._stream = self._client = None

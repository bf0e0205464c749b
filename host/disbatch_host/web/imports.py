"""Imports of files that were sent, carried out in the background.

Responsible for: the note of an import, and how far it has come. Must not know: HTTP, how an import proceeds
(`client.importing.requested`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.client import Client
from disbatch_host.client.importing import requested
from disbatch_host.client.importing.from_source import Listeners
from disbatch_host.client.importing.importer import Imported, Progress
from disbatch_host.client.importing.requested import Requested
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.jobs import Job, Jobs, JobState, LostJobError
from disbatch_host.errors import NotFoundError, StoreUnreachableError, in_words
from disbatch_host.web.bad_rows import BadRows
from disbatch_host.web.spool import Received, Spool

log = logging.getLogger(__name__)

KIND = "import"
_RATE_OF = 5  # of these notes, from which its rate is calculated


class _StoppedError(Exception):
    """Somebody, or the end of this server, stops it after its batch."""


def document_of(
    received: Received, body: Mapping[str, Any], by: str, *, now: datetime, rows: int | None = None
) -> dict[str, Any]:
    """The note of an import that is to be carried out. What was asked for is JSON in a text: names of columns may be
    anything. `rows`: of its file, if somebody has counted them."""
    return {
        "upload": received.id, "file": received.name, "sha256": received.sha256, "queue": body["queue"], "by": by,
        "begun": now, "request": orjson.dumps(dict(body)).decode(), "step": None, "rows": 0, "total": rows,
        "per_second": None, "created": 0, "existing": 0, "skipped": 0, "empty": 0, "faults": 0, "first_faults": [],
    }  # fmt: skip


def requested_of(body: Mapping[str, Any]) -> Requested:
    """What the body of a request asks for."""
    timing = {name: body[name] for name in ("priority", "delay", "at", "expires") if name in body}
    return Requested(
        queue=body["queue"], maps=body.get("map"), constants=body.get("set", {}), delimiter=body.get("delimiter"),
        unique_key_from=body.get("unique_key_from"), skips=body.get("on_error", "stop") == "skip",
        timing=timing,  # type: ignore[arg-type]
    )  # fmt: skip


def file_of(job: Job, spool: Spool) -> Received | None:
    """Its file; None: it is not here."""
    return spool.find(str(job.document["upload"]))


class _Keeper:
    """Writes down how far an import has come, and the rows that do not fit."""

    told_seconds = 1.0  # between notes

    def __init__(self, jobs: Jobs, job: Job, spool: Spool, is_stopping: Callable[[], bool]) -> None:
        self.job = job
        self._jobs = jobs
        self._is_stopping = is_stopping
        self._told = 0.0
        self._path = spool.faults_path(job.id)
        self._bad = BadRows(self._path)
        self._step: str | None = None
        self._times: deque[tuple[float, int]] = deque(maxlen=_RATE_OF)  # when how many rows were done

    def advance(self, progress: Progress) -> None:
        if progress.step != self._step:  # each step meets all of them
            self._step = progress.step
            self._times.clear()
            self._bad.drop()
            self._bad = BadRows(self._path)
        now = time.monotonic()
        if now - self._told >= self.told_seconds:
            self._times.append((now, progress.rows))
            total = self.job.document["total"] if progress.total is None else progress.total
            self.job = self._jobs.keep(
                self.job, step=str(progress.step), rows=progress.rows, total=total, per_second=self._per_second,
                **self.faults,
            )  # fmt: skip
            self._told = now
        if self.job.is_to_stop or self._is_stopping():
            raise _StoppedError

    def add_fault(self, fault: RowFault) -> None:
        self._bad.add(fault)

    @property
    def faults(self) -> dict[str, Any]:
        """Rows are texts in the note: their names may be anything."""
        return {"faults": self._bad.count, "first_faults": [orjson.dumps(one).decode() for one in self._bad.first]}

    def close(self) -> None:
        """Where nothing was looked at, the rows of the server before stay."""
        if self._step is None:
            self._bad.drop()
        else:
            self._bad.keep()

    @property
    def _per_second(self) -> float | None:
        (first, before), (last, now) = self._times[0], self._times[-1]
        return round((now - before) / (last - first), 1) if last > first else None


def carry_out(
    client: Client, jobs: Jobs, job: Job, spool: Spool, received: Received, is_stopping: Callable[[], bool]
) -> None:
    """The whole import, or the rest of it; as far as it is not stopped. Raises StoreUnreachableError."""
    wanted = requested_of(orjson.loads(job.document["request"]))
    try:
        keeper = _Keeper(jobs, job, spool, is_stopping)
    except OSError as error:
        _fail(client, jobs, job, f"the rows that do not fit cannot be kept: {in_words(error)}")
        return
    listeners: Listeners = {"on_fault": keeper.add_fault, "on_progress": keeper.advance}
    try:
        with contextlib.closing(keeper):
            one = client.on_behalf_of(str(job.document["by"]))
            done = one.import_requested(wanted, received.opened, job.id, listeners)
        _end(client, jobs, keeper, done)
        spool.remove(received.id)
    except _StoppedError:
        if keeper.job.is_to_stop:
            give_up(client, jobs, keeper.job, **keeper.faults)
            spool.remove(received.id)
        else:
            jobs.let_go(keeper.job)
    except LostJobError:
        pass  # somebody else goes on
    except StoreUnreachableError:
        raise
    except Exception as error:  # whatever it is, it must cost this import alone
        _fail(client, jobs, keeper.job, in_words(error), **keeper.faults)


def _fail(client: Client, jobs: Jobs, job: Job, why: str, **more: Any) -> None:
    log.warning("import %s has failed: %s", job.id, why)
    jobs.end(job, JobState.FAILED, error=why, created=requested.created(client.store, job.id), **more)


def _end(client: Client, jobs: Jobs, keeper: _Keeper, done: Imported | None) -> None:
    job = keeper.job
    if done is None or not done.is_whole:  # the server before, or another one, has done it, and had no time to say so
        jobs.end(job, JobState.DONE, created=requested.created(client.store, job.id))
        return
    jobs.end(
        job, JobState.DONE, step=None, rows=done.rows, created=done.created, existing=done.existing,
        skipped=done.skipped, empty=done.empty, **keeper.faults,
    )  # fmt: skip
    log.info("import %s: done, %d tasks", job.id, done.created)


def give_up(client: Client, jobs: Jobs, job: Job, **told: Any) -> None:
    """Nobody goes on with it: its batch takes no more tasks."""
    with contextlib.suppress(NotFoundError):  # it has created nothing yet
        client.batches.close(job.id)
    jobs.end(job, JobState.STOPPED, created=requested.created(client.store, job.id), **told)

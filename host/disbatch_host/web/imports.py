"""Imports of files that were sent, carried out in the background.

Responsible for: the note of an import, and where its rows that do not fit are kept. Must not know: HTTP, how an import
proceeds (`client.importing.requested`).
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson

from disbatch_host.client import Client
from disbatch_host.client.importing import requested
from disbatch_host.client.importing.from_source import Listeners
from disbatch_host.client.importing.importer import Imported, Progress
from disbatch_host.client.importing.requested import FAULTS_MAX, Requested
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.jobs import Job, Jobs, JobState, LostJobError
from disbatch_host.client.tables import cell_of
from disbatch_host.errors import NotFoundError, StoreUnreachableError, in_words
from disbatch_host.web.spool import Received, Spool

log = logging.getLogger(__name__)

KIND = "import"
_TOLD_SECONDS = 1.0  # between notes of how far it has come
_COLUMNS_MAX = 2000
_ROW_MAX = 4096  # bytes of a row that is shown with its fault
_LINES = 1000  # of a table, in a piece


class _StoppedError(Exception):
    """Somebody, or the end of this server, stops it after its batch."""


def document_of(received: Received, body: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The note of an import that is to be carried out. What was asked for is JSON in a text: names of columns may be
    anything."""
    return {
        "upload": received.id, "file": received.name, "sha256": received.sha256, "queue": body["queue"], "by": by,
        "request": orjson.dumps(dict(body)).decode(), "step": None, "rows": 0, "total": None, "created": 0,
        "existing": 0, "skipped": 0, "empty": 0, "faults": 0, "first_faults": [],
    }  # fmt: skip


def requested_of(body: Mapping[str, Any]) -> Requested:
    """What the body of a request asks for."""
    timing = {name: body[name] for name in ("priority", "delay", "at", "expires") if name in body}
    return Requested(
        queue=body["queue"], maps=body.get("map"), constants=body.get("set", {}), delimiter=body.get("delimiter"),
        unique_key_from=body.get("unique_key_from"), skips=body.get("on_error", "stop") == "skip",
        timing=timing,  # type: ignore[arg-type]
    )  # fmt: skip


def fault_json(fault: RowFault) -> dict[str, Any]:
    """A row that does not fit, without the row itself if that is long: there may be many of them."""
    row = orjson.loads(orjson.dumps(fault.row, default=str))
    is_short = len(orjson.dumps(row)) <= _ROW_MAX
    return {"line": fault.line, "column": fault.column, "reason": fault.reason, "row": row if is_short else None}


def file_of(job: Job, spool: Spool) -> Received | None:
    """Its file; None: it is not here."""
    return spool.find(str(job.document["upload"]))


class _Keeper:
    """Writes down how far an import has come, and the rows that do not fit."""

    def __init__(self, jobs: Jobs, job: Job, spool: Spool, is_stopping: Callable[[], bool]) -> None:
        self.job = job
        self._jobs = jobs
        self._is_stopping = is_stopping
        self._told = 0.0
        self._path = spool.faults_path(job.id)
        self._file: IO[bytes] | None = None
        self._faults = 0
        self._first: list[dict[str, Any]] = []
        self._step: str | None = None

    def advance(self, progress: Progress) -> None:
        if progress.step != self._step:  # each step meets all of them
            self._step = progress.step
            self._begin_faults()
        if time.monotonic() - self._told >= _TOLD_SECONDS:
            self.job = self._jobs.keep(
                self.job, step=str(progress.step), rows=progress.rows, total=progress.total, **self.faults
            )
            self._told = time.monotonic()
        if self.job.is_to_stop or self._is_stopping():
            raise _StoppedError

    def add_fault(self, fault: RowFault) -> None:
        if self._file is None:
            self._begin_faults()
        assert self._file is not None
        self._faults += 1
        if len(self._first) < FAULTS_MAX:
            self._first.append(fault_json(fault))
        line = {"line": fault.line, "reason": fault.reason, "row": fault.row}
        self._file.write(orjson.dumps(line, default=str) + b"\n")

    @property
    def faults(self) -> dict[str, Any]:
        """Rows are texts in the note: their names may be anything."""
        return {"faults": self._faults, "first_faults": [orjson.dumps(one).decode() for one in self._first]}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin_faults(self) -> None:
        self.close()
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb")
        self._faults, self._first = 0, []


def carry_out(
    client: Client, jobs: Jobs, job: Job, spool: Spool, received: Received, is_stopping: Callable[[], bool]
) -> None:
    """The whole import, or the rest of it; as far as it is not stopped. Raises StoreUnreachableError."""
    wanted = requested_of(orjson.loads(job.document["request"]))
    keeper = _Keeper(jobs, job, spool, is_stopping)
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
        log.warning("import %s has failed: %s", job.id, in_words(error))
        count = requested.created(client.store, job.id)
        jobs.end(keeper.job, JobState.FAILED, error=in_words(error), created=count, **keeper.faults)


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


class FaultsTable:
    """The rows that do not fit as CSV, as they were, with line and reason behind them."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if they are not kept here."""
        self._file = path.open("rb")
        self._columns: list[str] = []
        for row in self._rows():
            if isinstance(row.get("row"), dict):
                new = [name for name in row["row"] if name not in self._columns]
                self._columns += new[: _COLUMNS_MAX - len(self._columns)]

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        lines = self._lines()
        with self._file:
            while data := await asyncio.to_thread(lambda: b"".join(islice(lines, _LINES))):
                yield data

    def _rows(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)

    def _lines(self) -> Iterator[bytes]:
        yield b"\xef\xbb\xbf" + _csv([*map(cell_of, self._columns), "line", "reason"])
        for one in self._rows():
            yield _csv([*self._cells(one["row"]), one["line"], cell_of(one["reason"])])

    def _cells(self, row: Any) -> list[Any]:
        if isinstance(row, dict):
            return [cell_of(row.get(name)) for name in self._columns]
        if isinstance(row, list):  # with more or fewer fields than there are columns
            cells = [cell_of(one) for one in row[: len(self._columns)]]
            return cells + [None] * (len(self._columns) - len(cells))
        return [cell_of(row), *([None] * (len(self._columns) - 1))] if self._columns else []


def _csv(cells: list[Any]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerow(
        ["" if one is None else one for one in cells]
    )
    return text.getvalue().encode("utf-8", "replace")

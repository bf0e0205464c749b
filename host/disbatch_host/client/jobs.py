"""Long work that somebody has asked a server for, as notes in the store: operations on many tasks, and imports.

Responsible for: who works at it, that nobody else does so meanwhile, and that another goes on where a killed one was.
Must not know: what the work is, servers.

Rules:
1. A job that is to be worked at has a mark beside its note: a server that looks for work reads only the marks, and
   most of the time there are none.
2. A server works at it as long as its lease lasts, by the store's clock. The next one finds in the note how far
   it has come.
3. A note is written only as it was read (`rev`). Of two who believe that they work at it, one loses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from disbatch_host.documents.records import Document
from disbatch_host.errors import ChangedMeanwhileError, NotFoundError
from disbatch_host.store.contract import Store

LEASE_SECONDS = 30.0
KEPT_MAX = 1000  # of a kind, that have ended
_KEPT_SECONDS = 30 * 86400.0
_NAMES_MAX = 20_000
_TRIES = 20  # of a change that others make as well
_MARK_SECONDS = 60.0  # within which a note follows its mark


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class LostJobError(ChangedMeanwhileError):
    """Somebody else works at it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its note says."""

    id: str
    document: Mapping[str, Any] = field(repr=False)

    @property
    def state(self) -> JobState:
        return JobState(self.document["state"])

    @property
    def is_to_stop(self) -> bool:
        return self.document.get("stop") is not None


class Jobs:
    """The jobs of one kind. `owner` names the one who works at them; None: only a reader."""

    def __init__(
        self, store: Store, kind: str, *, owner: str | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._kind = kind
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)

    def create(self, job_id: str, fields: Mapping[str, Any], *, state: JobState = JobState.RUNNING) -> Job:
        """A new one; the one that is there if it was created before."""
        now = self._store.now()
        document = {"id": job_id, **fields, "state": str(state), "created": now, "rev": 0}
        if state is JobState.RUNNING:
            self._store.write_note(self._mark(job_id), {"at": now})
        else:
            document["ended"] = now
        self._store.write_note(self._note(job_id), document, is_new=True)
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        found = self.find(job_id)
        if found is None:
            raise NotFoundError(f"no {self._kind} {job_id!r:.80} in {self._store.description}")
        return found

    def find(self, job_id: str) -> Job | None:
        found = self._store.read_note(self._note(job_id))
        return None if found is None else Job(id=job_id, document=found)

    def ids(self) -> Sequence[str]:
        """Of all, the oldest first: ids count up."""
        prefix = self._note("")
        return [one.removeprefix(prefix) for one in self._store.note_names(prefix, _NAMES_MAX)]

    def read(self, ids: Sequence[str]) -> list[Job]:
        """Those of these that are there."""
        documents = [(one, self._store.read_note(self._note(one))) for one in ids]
        return [Job(id=name, document=document) for name, document in documents if document is not None]

    def ask_to_stop(self, job_id: str, by: str) -> Job:
        """The server that works at it stops after what it has in hand. One that has ended stays as it is."""

        def asked(document: Document) -> Document | None:
            if document["state"] != JobState.RUNNING or document.get("stop") is not None:
                return None
            return {**document, "stop": {"by": by, "at": self._store.now()}}

        return self._change(job_id, asked)

    def to_be_done(self) -> list[str]:
        """The ids of those that are to be worked at, by anybody."""
        prefix = self._mark("")
        return [one.removeprefix(prefix) for one in self._store.note_names(prefix, _NAMES_MAX)]

    def take(self, job_id: str) -> Job | None:
        """Work at it from now on; None: somebody else does, or it has ended."""
        note, mark = self._store.read_note(self._note(job_id)), self._mark(job_id)
        now = self._store.now()
        if note is None:  # its creation was interrupted, or is going on
            marked = (self._store.read_note(mark) or {}).get("at")
            if isinstance(marked, datetime) and now - marked > timedelta(seconds=_MARK_SECONDS):
                self._store.write_note(mark, None)
            return None
        if note["state"] != JobState.RUNNING:
            self._store.write_note(mark, None)
            return None
        owner, lease = note.get("owner"), note.get("lease")
        if owner != self._owner and isinstance(lease, datetime) and lease > now:
            return None
        # What the one before had in his hands may be done already.
        resumed = {"is_resumed": True} if owner is not None else {}
        taken = {**note, **resumed, "owner": self._owner, "lease": now + self._lease, "rev": note["rev"] + 1}
        if not self._store.write_note(self._note(job_id), taken, replacing={"rev": note["rev"]}):
            return None
        return Job(id=job_id, document=taken)

    def keep(self, job: Job, **fields: Any) -> Job:
        """Write down how far it has come, and go on. Raises LostJobError if somebody else works at it now."""
        return self._written(job, {**fields, "lease": self._store.now() + self._lease})

    def let_go(self, job: Job, **fields: Any) -> Job:
        """Write down how far it has come; another may go on at once. Raises likewise."""
        return self._written(job, {**fields, "lease": None})

    def end(self, job: Job, state: JobState, **fields: Any) -> Job:
        """It has ended. Raises likewise."""
        ended = self._written(job, {**fields, "state": str(state), "lease": None, "ended": self._store.now()})
        self._store.write_note(self._mark(job.id), None)
        return ended

    def forget_old(self) -> list[str]:
        """Remove those that ended long ago, and the oldest beyond `KEPT_MAX`; returns their ids."""
        names, gone = self.ids(), []
        latest = self._store.now() - timedelta(seconds=_KEPT_SECONDS)
        for number, name in enumerate(names):
            note = self._store.read_note(self._note(name))
            if note is None or note["state"] == JobState.RUNNING:
                continue
            ended = note.get("ended")
            if number >= len(names) - KEPT_MAX and isinstance(ended, datetime) and ended > latest:
                break  # the later ones were created later
            self._store.write_note(self._note(name), None, replacing={"rev": note["rev"]})
            gone.append(name)
        return gone

    def _change(self, job_id: str, change: Callable[[Document], Document | None]) -> Job:
        for _ in range(_TRIES):
            job = self.get(job_id)
            changed = change(dict(job.document))
            if changed is None:
                return job
            rev = job.document["rev"]
            changed["rev"] = rev + 1
            if self._store.write_note(self._note(job_id), changed, replacing={"rev": rev}):
                return Job(id=job_id, document=changed)
        raise ChangedMeanwhileError(f"others keep changing {self._kind} {job_id}; try again")

    def _written(self, job: Job, fields: Mapping[str, Any]) -> Job:
        """Somebody may have asked it to stop since it was read: all else in the note is of its owner."""

        def mine(document: Document) -> Document:
            if document.get("owner") != self._owner or document["state"] != JobState.RUNNING:
                raise LostJobError(f"somebody else works at {self._kind} {job.id}")
            return {**document, **fields}

        try:
            return self._change(job.id, mine)
        except NotFoundError as error:
            raise LostJobError(str(error)) from error

    def _note(self, job_id: str) -> str:
        return f"web.{self._kind}.{job_id}"

    def _mark(self, job_id: str) -> str:
        return f"web.to_do.{self._kind}.{job_id}"

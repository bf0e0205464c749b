"""The document of a batch: many tasks that are one thing to the person who made them. Pure.

Responsible for: reading such documents, including damaged ones, new ones, and the changes of their state. Must not
know: stores, who calls, how tasks are counted.

A batch is

    open    tasks may be added to it
    closed  nobody adds tasks, but follow-up tasks of its own; some of them may be unfinished
    done    closed, and none of its tasks is unfinished: the document has the summary of that moment

Rules:
1. Tasks name their batch (`batch`); its document has no counters.
2. Each change of state is guarded by the state and the `round` that it leaves. A retry of a batch that is done begins
   another round, so what was seen of the one before decides nothing.
3. Nodes look at a batch for as long as it is `watched`: something may have to be done with it without anybody asking.
4. `on_done` creates its task together with the change to done: once, unless a person arms it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_host.documents.records import Document, whole_number

CAUSES_MAX = 20  # in a summary
TOLD_OF_SOURCE = ("created", "existing", "skipped")  # rows, or other calls for a task; not told to every plugin


class BatchState(StrEnum):
    """A closed list."""

    OPEN = "open"
    CLOSED = "closed"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch, as it is read."""

    id: str
    state: BatchState
    by: str = ""  # who made it: user@machine
    ctime: datetime | None = None
    source: Mapping[str, Any] = field(default_factory=dict)  # kind, name, sha256; skipped, existing, report
    total: int | None = None  # tasks that its maker created; None: not known (yet)
    on_done: Mapping[str, Any] | None = (
        None  # queue, parameters, tells; then `task`, the id of the one that was created
    )
    stop_after: int | None = None  # final failures after which its waiting tasks are cancelled
    stopped: Mapping[str, Any] | None = None  # at, failed; then `cancelled`, how many tasks that were
    closed: Mapping[str, Any] | None = None  # at, by
    done_at: datetime | None = None
    round: int = 1
    summary: Mapping[str, Any] | None = None  # of the last time it was done
    fault: str | None = None  # why it cannot be used, in words for its owner
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Batch:
        """Read a document; one that cannot be used is returned with `fault` set, as an open one, so that nothing
        happens to it by itself."""
        faults = [str(document["fault"])] if isinstance(document.get("fault"), str) else []
        state = document.get("state")
        if state not in tuple(BatchState):
            if not faults:
                faults.append(f'"state" must be one of {", ".join(BatchState)}, found {state!r:.40}')
            state = BatchState.OPEN
        on_done = document.get("on_done")
        if on_done is not None and not (isinstance(on_done, Mapping) and isinstance(on_done.get("queue"), str)):
            faults.append('"on_done" must be an object with the text "queue"')
            on_done = None
        by, ctime, done = document.get("by"), document.get("ctime"), document.get("done")
        return cls(
            id=str(document["_id"]),
            state=BatchState(state),
            by=by if isinstance(by, str) else "",
            ctime=ctime if isinstance(ctime, datetime) else None,
            source=_object(document.get("source")) or {},
            total=whole_number(document.get("total")),
            on_done=on_done,
            stop_after=whole_number(document.get("stop_after")),
            stopped=_object(document.get("stopped")),
            closed=_object(document.get("closed")),
            done_at=done if isinstance(done, datetime) else None,
            round=whole_number(document.get("round")) or 1,
            summary=_object(document.get("summary")),
            fault="; ".join(faults) or None,
            document=document,
        )

    def summed(self, name: str) -> int:
        """A number of its summary; 0 where there is none."""
        return whole_number((self.summary or {}).get(name)) or 0

    @property
    def skipped(self) -> int | None:
        """How many rows of its source did not fit and were left out; None if none was."""
        return whole_number(self.source.get("skipped")) or None

    @property
    def existing(self) -> int | None:
        """How many rows of its source became no task since an unfinished one had their unique key; None if none was."""
        return whole_number(self.source.get("existing")) or None

    @property
    def tells(self) -> Sequence[str]:
        """Which of `TOLD_OF_SOURCE` the plugin of the task of `on_done` takes."""
        names = (self.on_done or {}).get("tells")
        return [name for name in TOLD_OF_SOURCE if isinstance(names, list) and name in names]

    @property
    def is_armed(self) -> bool:
        """Whether it creates a task once it is done."""
        return self.on_done is not None and self.on_done.get("task") is None

    @property
    def owes_task(self) -> bool:
        """Whether the task of `on_done` may not exist yet."""
        return self.on_done is not None and self.on_done.get("owed") is True

    @property
    def is_stopping(self) -> bool:
        """Whether `stop_after` has stopped it, and tasks that wait may not all be cancelled yet."""
        return self.stopped is not None and self.stopped.get("cancelled") is None


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def new_batch(
    batch_id: str,
    by: str,
    *,
    now: datetime,
    source: Mapping[str, Any],
    on_done: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
) -> Document:
    """The document of a new batch, which is open."""
    document: Document = {
        "_id": batch_id,
        "state": str(BatchState.OPEN),
        "by": by,
        "ctime": now,
        "source": dict(source),
        "round": 1,
    }
    if on_done is not None:
        document["on_done"] = dict(on_done)
    if stop_after is not None:
        document |= {"stop_after": stop_after, "watched": True}
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchChange:
    """A guarded change of a batch: carried out if its top-level fields have the values in `only_if` (None: missing)."""

    only_if: Mapping[str, Any]
    set: Mapping[str, Any]
    unset: tuple[str, ...] = ()


def close_change(by: str, *, now: datetime, total: int | None = None) -> BatchChange:
    """Open → closed."""
    counted = {} if total is None else {"total": total}
    return BatchChange(
        only_if={"state": str(BatchState.OPEN)},
        set={"state": str(BatchState.CLOSED), "closed": {"at": now, "by": by}, "watched": True, **counted},
    )


def left_out_change(batch: Batch, *, skipped: int, existing: int, report: str | None) -> BatchChange:
    """So many rows of its source became no task: they did not fit, or had the unique key of an unfinished task.
    `report`: the file that has those that did not fit."""
    counted = {name: count for name, count in (("skipped", skipped), ("existing", existing)) if count}
    more = {} if report is None or not skipped else {"report": report}
    return BatchChange(
        only_if={"state": str(batch.state), "source": batch.document.get("source")},
        set={"source": {**batch.source, **counted, **more}},
    )


def done_change(batch: Batch, summary: Mapping[str, Any], *, now: datetime, task_id: Any = None) -> BatchChange:
    """Closed → done. `task_id`: the id of the task that `on_done` creates with this change, if it is armed. It is owed
    until `paid_change`."""
    fields: Document = {"state": str(BatchState.DONE), "done": now, "summary": dict(summary)}
    fields["watched"] = batch.owes_task  # of the round before, if it was not created yet
    if batch.is_armed and batch.on_done is not None:
        fields |= {"on_done": {**batch.on_done, "task": task_id, "owed": True}, "watched": True}
    return BatchChange(only_if={"state": str(BatchState.CLOSED), "round": batch.round}, set=fields)


def paid_change(batch: Batch) -> BatchChange:
    """The task of `on_done` exists. Its batch may go on meanwhile, since tasks of it were run again."""
    fields = {name: value for name, value in (batch.on_done or {}).items() if name != "owed"}
    return BatchChange(
        only_if={"state": str(batch.state), "round": batch.round, "on_done": batch.on_done},
        set={"on_done": fields, "watched": batch.state is not BatchState.DONE},
    )


def reopened_change(batch: Batch, *, arms: bool) -> BatchChange:
    """Done → closed, since tasks of it run again. `arms`: once it is done again, `on_done` creates another task."""
    fields: Document = {"state": str(BatchState.CLOSED), "round": batch.round + 1, "watched": True}
    if arms and batch.on_done is not None:
        fields["on_done"] = {name: value for name, value in batch.on_done.items() if name not in ("task", "owed")}
    return BatchChange(
        only_if={"state": str(BatchState.DONE), "round": batch.round, "on_done": batch.on_done},
        set=fields,
        unset=("done", "stopped"),
    )


def armed_change(batch: Batch) -> BatchChange:
    """Once it is done, `on_done` creates another task."""
    fields = {name: value for name, value in (batch.on_done or {}).items() if name not in ("task", "owed")}
    return BatchChange(
        only_if={"state": str(batch.state), "round": batch.round, "on_done": batch.on_done}, set={"on_done": fields}
    )


def touched_change(batch: Batch) -> BatchChange:
    """Tasks of a closed batch run again: what was counted before decides nothing."""
    return BatchChange(only_if={"state": str(BatchState.CLOSED), "round": batch.round}, set={"round": batch.round + 1})


def stopped_change(batch: Batch, failed: int, *, now: datetime) -> BatchChange:
    """`stop_after` is reached: what waits is to be cancelled."""
    return BatchChange(only_if={"stopped": None, "round": batch.round}, set={"stopped": {"at": now, "failed": failed}})


def stop_carried_out_change(batch: Batch, cancelled: int) -> BatchChange:
    """All that waited is cancelled; tasks that a person runs again later are not."""
    return BatchChange(
        only_if={"stopped": batch.stopped}, set={"stopped": {**(batch.stopped or {}), "cancelled": cancelled}}
    )

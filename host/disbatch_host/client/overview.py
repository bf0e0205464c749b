"""A snapshot of the cluster: its queues, nodes, failures and running tasks.

Responsible for: reading it from a store in as few and as cheap queries as possible, and comparing it with the previous
one. Must not know: how it is shown.

Two depths: `summary` reads counts and nodes (what `status` shows), an `Observer` adds rates, failures and running tasks
(what `status --watch` shows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.client import failures, nodes, obstacles
from disbatch_host.client.failures import FailureFacts, Failures
from disbatch_host.clock import Clock
from disbatch_host.decide import counts, readings
from disbatch_host.decide.absence import absence_of
from disbatch_host.decide.why import Code, Why
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import NodeRecord, Queue, QueueId, Task, whole_number
from disbatch_host.store.contract import Store
from disbatch_protocol.status import IN_HAND, Status

RUNNING_MAX = 500  # running tasks that are read
REASONS_MAX = 50  # of failures
_FAILURES_SECONDS = 0.5  # for counting them
_NODES_ASKED_MAX = 50  # nodes whose running tasks are read


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSummary:
    """One queue, or what is left of one."""

    id: QueueId
    queue: Queue | None  # None: it was deleted or never created, but has tasks
    counts: Mapping[str, int]  # of its tasks, by the words of `decide.counts`
    by_status: Mapping[int, int]
    causes: Sequence[Why]  # why no node runs its tasks; empty if one does
    oldest: datetime | None  # when the oldest claimable task began to wait
    oldest_seconds: float | None

    @property
    def note(self) -> str:
        """The causes on one line."""
        return "; ".join(cause.short for cause in self.causes)

    def to_json(self) -> dict[str, Any]:
        return {
            "queue": self.id,
            "class": self.queue.class_name if self.queue else None,
            **self.counts,
            "note": self.note,
            "reasons": [str(cause.code) for cause in self.causes],
            "paused": self.queue.paused if self.queue else None,
            "oldest_waiting": self.oldest,
            "oldest_waiting_seconds": self.oldest_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts and nodes."""

    at: datetime
    queues: Sequence[QueueSummary]
    nodes: Sequence[NodeRecord]

    def to_json(self) -> list[dict[str, Any]]:
        """One document for each queue, then one for each node."""
        documents = [one.to_json() for one in self.queues]
        # On MongoDB the document has a field `node` of its own, for other programs.
        return documents + [{"node": None} | nodes.to_json(record) | {"node": record.id} for record in self.nodes]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """One queue, compared with the previous snapshot."""

    name: str
    waiting: int = 0
    running: int = 0
    concluded: int = 0
    failed: int = 0  # or terminated
    cancelled: int = 0
    orphaned: int = 0
    per_second: float | None = None  # tasks that ended since the previous snapshot; None in the first
    failed_more: int = 0  # since the previous snapshot
    oldest_seconds: float | None = None  # of the claimable tasks
    notes: tuple[str, ...] = ()  # why its tasks do not run
    codes: tuple[Code, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "queue": self.name,
            "waiting": self.waiting,
            "running": self.running,
            "concluded": self.concluded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "orphaned": self.orphaned,
            "per_second": self.per_second,
            "oldest_waiting_seconds": self.oldest_seconds,
            "note": "; ".join(self.notes),
            "reasons": [str(code) for code in self.codes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node."""

    name: str
    state: str
    is_alive: bool
    running: int
    threads: int
    max_total: int | None = None
    age_seconds: float | None = None  # of its heartbeat
    kept: int = 0  # runs that go on without it where it is not back
    machine: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.name,
            "state": self.state,
            "alive": self.is_alive,
            "running": self.running,
            "threads": self.threads,
            "max_total": self.max_total,
            "age_seconds": self.age_seconds,
            "kept": self.kept,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFacts:
    """One running task."""

    task: str
    queue: str
    node: str
    seconds: float | None  # since it was started
    progress: float | None = None  # 0 to 1
    message: str = ""
    absence: str = ""  # of its node, in a sentence: it most likely does not run

    def to_json(self) -> dict[str, Any]:
        return {
            "_id": self.task,
            "queue": self.queue,
            "node": self.node,
            "seconds": self.seconds,
            "progress": self.progress,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole."""

    at: datetime
    store: str
    queues: Sequence[QueueFacts] = ()
    nodes: Sequence[NodeFacts] = ()
    failures: Sequence[FailureFacts] = ()  # the most frequent first
    failures_seen: int = 0  # failed tasks that were counted for the reasons
    running: Sequence[RunningFacts] = ()  # the longest first
    took_seconds: float = 0.0  # for the queries

    @property
    def per_second(self) -> float | None:
        known = [one.per_second for one in self.queues if one.per_second is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "took_seconds": round(self.took_seconds, 4),
            "queues": [one.to_json() for one in self.queues],
            "nodes": [one.to_json() for one in self.nodes],
            "failures": [one.to_json() for one in self.failures],
            "failures_seen": self.failures_seen,
            "running": [one.to_json() for one in self.running],
        }


def summary(store: Store, *, with_oldest: bool = True) -> Summary:
    """Counts and nodes as they are now. Without `with_oldest` the oldest waiting tasks are not read. Raises
    StoreError."""
    queues, by_status, records = store.queues(), store.count_by_status(), store.nodes()
    oldest, now = store.oldest_waiting() if with_oldest else {}, store.now()
    known: dict[QueueId, Queue | None] = {queue.id: queue for queue in queues}
    # A deleted queue may still have tasks, as may a queue that was never created and is named by a follow-up task;
    # people need to see where they are.
    every = known | {queue_id: None for queue_id in by_status if queue_id not in known}
    return Summary(
        at=now,
        queues=[
            _queue_summary(queue_id, queue, by_status.get(queue_id, {}), records, oldest.get(queue_id), now)
            for queue_id, queue in every.items()
        ],
        nodes=records,
    )


def _queue_summary(
    queue_id: QueueId,
    queue: Queue | None,
    by_status: Mapping[int, int],
    records: Sequence[NodeRecord],
    oldest: datetime | None,
    now: datetime,
) -> QueueSummary:
    total = counts.totals(by_status)
    return QueueSummary(
        id=queue_id,
        queue=queue,
        counts=total,
        by_status=by_status,
        causes=obstacles.why_waiting(queue, total, records, now),
        oldest=oldest,
        oldest_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
    )


class Observer:
    """Takes one snapshot after another."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._counts: Mapping[QueueId, Mapping[str, int]] = {}
        self._looked_at: float | None = None
        self._places: failures.Places = {}
        self._failures = Failures()

    def look(self) -> Overview:
        """Take a snapshot. Raises StoreError."""
        began = self._clock.monotonic()
        found = summary(self._store)
        seconds = None if self._looked_at is None else began - self._looked_at
        queues = [_queue_facts(one, self._counts.get(one.id), seconds) for one in found.queues]
        failed = self._look_at_failures(found)
        running = _running(self._store, found.nodes, found.at)
        self._counts, self._looked_at = {one.id: one.counts for one in found.queues}, began
        return Overview(
            at=found.at,
            store=self._store.description,
            queues=queues,
            nodes=[node_facts(record) for record in found.nodes],
            failures=failed.reasons,
            failures_seen=failed.total + failed.orphaned + failed.expired,
            running=running,
            took_seconds=self._clock.monotonic() - began,
        )

    def _look_at_failures(self, found: Summary) -> Failures:
        """The most frequent reasons; the previous ones if the number of failures has not changed."""
        places = failures.places_of({one.id: one.by_status for one in found.queues})
        if places != self._places:
            self._places = places
            self._failures = failures.find_failures(self._store, limit=REASONS_MAX, seconds=_FAILURES_SECONDS)
        return self._failures


def _queue_facts(now: QueueSummary, before: Mapping[str, int] | None, seconds: float | None) -> QueueFacts:
    """`before` holds the previous counts, taken `seconds` ago; both are None in the first snapshot."""
    before = dict.fromkeys(counts.COLUMNS, 0) if before is None else before
    per_second = None
    if seconds:  # deletions must not make it negative
        per_second = max(0, counts.ended(now.counts) - counts.ended(before)) / seconds
    return QueueFacts(
        name=str(now.id),
        waiting=now.counts["waiting"],
        running=now.counts["running"],
        concluded=now.counts["concluded"],
        failed=now.counts["failed"],
        cancelled=now.counts["cancelled"],
        orphaned=now.counts["orphaned"],
        per_second=per_second,
        failed_more=0 if seconds is None else max(0, now.counts["failed"] - before["failed"]),
        oldest_seconds=now.oldest_seconds,
        notes=tuple(cause.short for cause in now.causes),
        codes=tuple(cause.code for cause in now.causes),
    )


def _running(store: Store, records: Sequence[NodeRecord], now: datetime) -> list[RunningFacts]:
    """The running tasks, the longest-running first. Each node is queried by itself, to match the store's index."""
    found: list[Task] = []
    for record in records[:_NODES_ASKED_MAX]:
        which = TaskFilter(node=record.id, statuses=IN_HAND)
        found += store.find_tasks(which, limit=RUNNING_MAX - len(found), with_output=False, in_any_order=True)
        if len(found) >= RUNNING_MAX:
            break
    running = [_running_facts(task, records, now) for task in found if task.status == Status.RUNNING]
    return sorted(running, key=lambda one: -(one.seconds or 0.0))


def _running_facts(task: Task, records: Sequence[NodeRecord], now: datetime) -> RunningFacts:
    started = task.run.get("started")
    progress = task.document.get("progress")
    value = progress.get("value") if isinstance(progress, Mapping) else None
    message = progress.get("message") if isinstance(progress, Mapping) else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return RunningFacts(
        task=str(task.id),
        queue=str(task.queue),
        node=task.node or "-",
        seconds=max(0.0, (now - started).total_seconds()) if isinstance(started, datetime) else None,
        progress=min(1.0, max(0.0, float(value))) if is_number and value is not None else None,
        message=message if isinstance(message, str) else "",
        absence=absence.sentence if (absence := absence_of(task, records)) else "",
    )


def node_facts(record: NodeRecord) -> NodeFacts:
    """One node as its document tells it."""
    served = readings.heartbeat_queues(record)
    heartbeat, settings, host = (readings.object_of(record, name) for name in ("heartbeat", "settings", "host"))
    running = whole_number(heartbeat.get("running"))
    is_alive, is_away = readings.is_alive(record), readings.is_away(record)
    return NodeFacts(
        name=record.id,
        state="away" if is_away else record.state if is_alive else "dead",
        is_alive=is_alive,
        running=sum(readings.number(one, "processing") for one in served) if running is None else running,
        threads=sum(readings.number(one, "threads") for one in served),
        max_total=whole_number(settings.get("max_total")),
        age_seconds=record.age_seconds,
        kept=readings.kept_of(record),
        machine=str(host.get("name") or ""),
        notes=tuple(_node_notes(record)) if is_alive else tuple(_absence_notes(record)),
    )


def _absence_notes(record: NodeRecord) -> list[str]:
    """Until when it is away, and what goes on there without it."""
    kept = readings.kept_of(record)
    notes = [readings.away_in_words(record)] if readings.is_away(record) else []
    return [*notes, f"{kept} run{'' if kept == 1 else 's'} kept there"] if kept else notes


def _node_notes(record: NodeRecord) -> list[str]:
    """Requests to the node, the plugins that it does not run, and what it had to leave out."""
    aside = readings.records_of(record.document.get("set_aside"))
    notes = [f"{one.get('class')} set aside: {one.get('reason')}" for one in aside]
    notes += [f"{name} broken: {reason}" for name, reason in readings.broken_of(record).items()]
    notes += [*readings.passed_over_of(record), *readings.troubles_of(record)]
    request = record.requests.get("stop" if record.state == "stopping" else "drain")
    if isinstance(request, Mapping) and record.state != "running":
        why = f": {request['why']}" if request.get("why") else ""
        notes.insert(0, f"asked by {request.get('by')}{why}")
    return notes

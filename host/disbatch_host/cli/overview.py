"""What is going on in the cluster, at one moment: the facts of `disbatch-host status --watch`.

Responsible for: reading them from a store in as few and as cheap questions as it takes, and comparing them with the
last look. Must not know: how they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from disbatch_host.cli.commands import node
from disbatch_host.cli.commands.status import totals, why_waiting
from disbatch_host.clock import Clock
from disbatch_host.decide import readings
from disbatch_host.decide.why import Code
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import NodeRecord, Queue, QueueId, Task, whole_number
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

FAILURES_MAX = 500  # of the newest failed tasks, whose reasons are counted
RUNNING_MAX = 500  # running tasks that are looked at
_PLACES_MAX = 25  # pairs of queue and status in which failures are looked for, those with the most of them
_NODES_ASKED_MAX = 50  # nodes whose running tasks are looked at

_IN_HAND = frozenset({int(Status.CLAIMED), int(Status.RUNNING)})


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """One queue."""

    name: str
    waiting: int = 0
    running: int = 0
    concluded: int = 0
    failed: int = 0  # every end that nobody wanted: failed, terminated, orphaned
    per_second: float | None = None  # how many have ended since the last look; None at the first one
    failed_more: int = 0  # since the last look
    oldest_seconds: float | None = None  # of those that may be claimed
    notes: tuple[str, ...] = ()  # why its tasks do not run
    codes: tuple[Code, ...] = ()


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
    machine: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """One reason why tasks have failed."""

    code: str
    count: int
    queues: tuple[str, ...]  # the most frequent first
    message: str  # of the newest one


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFacts:
    """One running task."""

    task: str
    queue: str
    node: str
    seconds: float | None  # since it was started
    progress: float | None = None  # 0 to 1
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole."""

    at: datetime
    store: str
    queues: Sequence[QueueFacts] = ()
    nodes: Sequence[NodeFacts] = ()
    failures: Sequence[FailureFacts] = ()  # the most frequent first
    failures_seen: int = 0  # how many tasks these are the reasons of
    running: Sequence[RunningFacts] = ()  # the longest first
    took_seconds: float = 0.0  # to find out
    ended: Mapping[str, int] = field(default_factory=dict)  # by queue, to compare with

    @property
    def per_second(self) -> float | None:
        known = [one.per_second for one in self.queues if one.per_second is not None]
        return sum(known) if known else None


class Observer:
    """Looks again and again."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._counts: dict[QueueId, dict[str, int]] = {}
        self._looked_at: float | None = None
        self._failed: dict[tuple[QueueId, int], int] = {}
        self._failures: tuple[list[FailureFacts], int] = ([], 0)

    def look(self) -> Overview:
        """One look. Raises StoreError."""
        began = self._clock.monotonic()
        store = self._store
        queues, by_status, records = store.queues(), store.count_by_status(), store.nodes()
        oldest, now = store.oldest_waiting(), store.now()
        seconds = None if self._looked_at is None else began - self._looked_at
        known = {queue.id: queue for queue in queues}
        counts = {queue_id: totals(by_status.get(queue_id, {})) for queue_id in {**known, **by_status}}
        facts = [
            self._queue_facts(queue_id, known.get(queue_id), total, records, seconds, oldest.get(queue_id), now)
            for queue_id, total in counts.items()
        ]
        failures, seen = self._look_at_failures(by_status)
        running = self._running(records, now)
        self._counts, self._looked_at = counts, began
        return Overview(
            at=now,
            store=store.description,
            queues=facts,
            nodes=[_node_facts(record) for record in records],
            failures=failures,
            failures_seen=seen,
            running=running,
            took_seconds=self._clock.monotonic() - began,
        )

    def _queue_facts(
        self,
        queue_id: QueueId,
        queue: Queue | None,
        total: Mapping[str, int],
        records: Sequence[NodeRecord],
        seconds: float | None,
        oldest: datetime | None,
        now: datetime,
    ) -> QueueFacts:
        before = self._counts.get(queue_id, dict.fromkeys(total, 0))
        causes = why_waiting(queue, total, records, now)
        per_second = None
        if seconds:  # deleted tasks count for nothing, so never less than none
            per_second = max(0, _ended(total) - _ended(before)) / seconds
        return QueueFacts(
            name=str(queue_id),
            waiting=total["waiting"],
            running=total["running"],
            concluded=total["concluded"],
            failed=_bad(total),
            per_second=per_second,
            failed_more=0 if seconds is None else max(0, _bad(total) - _bad(before)),
            oldest_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
            notes=tuple(cause.short for cause in causes),
            codes=tuple(cause.code for cause in causes),
        )

    def _look_at_failures(self, by_status: Mapping[QueueId, Mapping[int, int]]) -> tuple[list[FailureFacts], int]:
        """Their reasons. Looked for anew only where their number has changed; each place by itself, as the store's
        index has it, so that a few failed ones are not looked for among millions of others."""
        places = {
            (queue_id, status): count
            for queue_id, counts in by_status.items()
            for status, count in counts.items()
            if count and statuses.is_finished(status) and status not in (Status.CONCLUDED, Status.CANCELLED)
        }
        if places == self._failed:
            return self._failures
        most = sorted(places, key=lambda place: places[place], reverse=True)[:_PLACES_MAX]
        found: list[Task] = []
        for queue_id, status in most:
            which = TaskFilter(queue=queue_id, statuses=frozenset({status}))
            newest = self._store.find_tasks(
                which, limit=FAILURES_MAX // len(most), newest_first=True, with_output=False
            )
            found += newest
        self._failed, self._failures = places, (failures_of(found), len(found))
        return self._failures

    def _running(self, records: Sequence[NodeRecord], now: datetime) -> list[RunningFacts]:
        """Of each node by itself, as the store's index has it."""
        found: list[Task] = []
        for record in records[:_NODES_ASKED_MAX]:
            which = TaskFilter(node=record.id, statuses=_IN_HAND)
            found += self._store.find_tasks(which, limit=RUNNING_MAX - len(found), with_output=False, in_any_order=True)
            if len(found) >= RUNNING_MAX:
                break
        running = [_running_facts(task, now) for task in found if task.status == Status.RUNNING]
        return sorted(running, key=lambda one: -(one.seconds or 0.0))


def failures_of(tasks: Sequence[Task]) -> list[FailureFacts]:
    """The reasons of failed tasks, the most frequent first."""
    by_code: dict[str, list[Task]] = {}
    for task in tasks:
        by_code.setdefault(_code_of(task), []).append(task)
    return [
        FailureFacts(
            code=code,
            count=len(ones),
            queues=tuple(name for name, _ in Counter(str(one.queue) for one in ones).most_common()),
            message=_message_of(max(ones, key=_when)),
        )
        for code, ones in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _code_of(task: Task) -> str:
    error = task.document.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) and code else statuses.name(task.status)


def _message_of(task: Task) -> str:
    error = task.document.get("error")
    message = error.get("message") if isinstance(error, Mapping) else None
    lines = message.strip().splitlines() if isinstance(message, str) else []
    return lines[-1].removeprefix("disbatch-host: ") if lines else ""


def _when(task: Task) -> float:
    mtime = task.document.get("mtime")
    return mtime.timestamp() if isinstance(mtime, datetime) else 0.0


def _ended(total: Mapping[str, int]) -> int:
    return total["concluded"] + total["cancelled"] + _bad(total)


def _bad(total: Mapping[str, int]) -> int:
    return sum(total[name] for name in ("failed", "terminated", "orphaned"))


def _running_facts(task: Task, now: datetime) -> RunningFacts:
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
    )


def _node_facts(record: NodeRecord) -> NodeFacts:
    document = record.document
    served = node.heartbeat_queues(record)
    heartbeat, settings, host = (_object(document.get(name)) for name in ("heartbeat", "settings", "host"))
    running = whole_number(heartbeat.get("running"))
    is_alive = not record.is_stale(node.DEAD_AFTER_SECONDS)
    request = record.requests.get("stop" if record.state == "stopping" else "drain")
    notes = [f"{one.get('class')} set aside: {one.get('reason')}" for one in node.records(document.get("set_aside"))]
    broken = [f"{name} broken: {reason}" for name, reason in readings.broken_of(record).items()]
    if isinstance(request, Mapping) and record.state != "running":
        notes.insert(0, f"asked by {request.get('by')}{': ' + str(request['why']) if request.get('why') else ''}")
    return NodeFacts(
        name=record.id,
        state=record.state if is_alive else "dead",
        is_alive=is_alive,
        running=sum(node.number(one, "processing") for one in served) if running is None else running,
        threads=sum(node.number(one, "threads") for one in served),
        max_total=whole_number(settings.get("max_total")),
        age_seconds=record.age_seconds,
        machine=str(host.get("name") or ""),
        notes=(*notes, *broken) if is_alive else (),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def as_json(overview: Overview) -> dict[str, Any]:
    """One document of `status --watch --json`."""
    return {
        "at": overview.at,
        "took_seconds": round(overview.took_seconds, 4),
        "queues": [
            {
                "queue": one.name,
                "waiting": one.waiting,
                "running": one.running,
                "concluded": one.concluded,
                "failed": one.failed,
                "per_second": one.per_second,
                "oldest_waiting_seconds": one.oldest_seconds,
                "note": "; ".join(one.notes),
                "reasons": [str(code) for code in one.codes],
            }
            for one in overview.queues
        ],
        "nodes": [
            {
                "node": one.name,
                "state": one.state,
                "alive": one.is_alive,
                "running": one.running,
                "threads": one.threads,
                "max_total": one.max_total,
                "age_seconds": one.age_seconds,
                "notes": list(one.notes),
            }
            for one in overview.nodes
        ],
        "failures": failures_json(overview.failures),
        "failures_seen": overview.failures_seen,
        "running": [
            {
                "_id": one.task,
                "queue": one.queue,
                "node": one.node,
                "seconds": one.seconds,
                "progress": one.progress,
                "message": one.message,
            }
            for one in overview.running
        ],
    }


def failures_json(failures: Sequence[FailureFacts]) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "count": one.count, "queues": list(one.queues), "message": one.message} for one in failures
    ]

"""The counters of a node for Prometheus.

Responsible for: the names, labels and buckets of all metrics, and keeping the counts. Must not know: how they are
fetched, stores, processes.

Rules:
1. The `count_…` and `observe_…` methods are called in the hot path: a few microseconds each, nothing that waits.
2. Labels are bounded: the first `QUEUES_MAX` queues that are seen have their own, all others are `other`; classes and
   nodes likewise, causes of failures by their keys (`failures`). No task id, no parameter, no message is ever a label.
3. A registry of its own: nothing global.
4. An unknown value is left out; a number is never older than it looks (`disbatch_census_timestamp_seconds`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from disbatch_host import __version__
from disbatch_host.documents.records import Task
from disbatch_host.metrics import exposition
from disbatch_host.metrics.census import Census
from disbatch_host.metrics.exposition import OTHER, Labels, StoreHealthView, StoreThreadView, SupervisorView
from disbatch_host.metrics.failures import FailureCounts
from disbatch_protocol.outcome import Conclusion, Outcome, Reason

RUN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
WAIT_BUCKETS = (0.01, 0.1, 1, 10, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

_NEVER_STARTED = frozenset({Reason.PARAMETERS, Reason.START_FAILED})


class Metrics:
    """The counts of one node. `count_…` and `observe_…` are called in its event loop, or in its store thread where they
    say so; `exposition` in any other."""

    def __init__(self, node_id: str, *, store_kind: str) -> None:
        self._node_id = node_id
        self._store_kind = store_kind
        self._labels = Labels()
        self._living: Mapping[str, Any] = {}  # as of the last heartbeat
        self._reached_at: float | None = None  # monotonic; when a heartbeat was last written
        self._store_thread: StoreThreadView | None = None
        self._health: StoreHealthView | None = None
        self._supervisor: SupervisorView | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)  # a collector is anything that has `collect`
        self._ended = Counter(
            "disbatch_runs_ended",
            "Runs that ended on this node, by how they ended.",
            ("queue", "class", "outcome", "reason"),
            registry=self._registry,
        )
        self._failures = FailureCounts()
        self._adopted = Counter(
            "disbatch_runs_adopted",
            "Runs of an earlier life of this node that it went on with.",
            registry=self._registry,
        )
        self._seconds = Histogram(
            "disbatch_run_seconds",
            "How long runs took, from their start to their end.",
            ("class",),
            buckets=RUN_BUCKETS,
            registry=self._registry,
        )
        self._waits = Histogram(
            "disbatch_task_wait_seconds",
            "From the creation of a task to its first claim, by a run on this node.",
            ("queue",),
            buckets=WAIT_BUCKETS,
            registry=self._registry,
        )
        self._writes = Histogram(
            "disbatch_store_write_seconds",
            "How long the store took for a batch of changes, until it was durable.",
            buckets=WRITE_BUCKETS,
            registry=self._registry,
        )
        # Finding a child by its labels costs more than counting.
        self._ended_of: dict[tuple[object, str, Outcome, Reason | None], tuple[Counter, Histogram]] = {}
        self._waits_of: dict[object, Histogram] = {}
        self._census: Census | None = None

    def rename(self, node_id: str) -> None:
        """The node has another id than was thought; nothing has been counted yet."""
        self._node_id = node_id

    def observe_claim(self, task: Task) -> None:
        """A task was claimed. Those that were tried before, or put off, have waited for something else as well."""
        claim, ctime = task.document.get("claim"), task.document.get("ctime")
        at = claim.get("at") if isinstance(claim, Mapping) else None
        if task.next_attempt > 1 or not isinstance(at, datetime) or not isinstance(ctime, datetime):
            return
        waits = self._waits_of.get(task.queue)
        if waits is None:
            label = self._labels.queues.of(task.queue)
            waits = self._waits.labels(label)
            if label != OTHER:  # else this table would have no bound
                self._waits_of[task.queue] = waits
        waits.observe(max(0.0, (at - ctime).total_seconds()))

    def count_end(
        self, queue: object, class_name: str, conclusion: Conclusion | None, reason: Reason | None, seconds: float
    ) -> None:
        """A run ended; `conclusion` is None if nothing was concluded (given back, taken over)."""
        if conclusion is None:
            return
        key = (queue, class_name, conclusion.outcome, reason)
        found = self._ended_of.get(key)
        if found is None:
            labels = self._labels.queues.of(queue), self._labels.classes.of(class_name)
            found = (
                self._ended.labels(*labels, str(conclusion.outcome), str(reason or "")),
                self._seconds.labels(labels[1]),
            )
            if OTHER not in labels:  # as above
                self._ended_of[key] = found
        ended, lasted = found
        ended.inc()
        if reason not in _NEVER_STARTED:
            lasted.observe(seconds)

    def count_failure(self, class_name: str, code: str, key: str) -> None:
        """A task failed for good, with this code and the key of this cause."""
        self._failures.count(self._labels.classes.of(class_name), code, key)

    def count_adopted(self) -> None:
        """A run of an earlier life goes on."""
        self._adopted.inc()

    def observe_write(self, seconds: float) -> None:
        """A batch of changes was written. Called in the store's thread."""
        self._writes.observe(seconds)

    def observe_heartbeat(self, fields: Mapping[str, Any]) -> None:
        """The fields of the next heartbeat (schemas/node.json)."""
        self._living = fields

    def observe_store_reached(self) -> None:
        self._reached_at = time.monotonic()

    def watch_store_thread(self, store_thread: StoreThreadView) -> None:
        """Set the view of the store thread for scrapes to read."""
        self._store_thread = store_thread

    def watch_supervisor(self, supervisor: SupervisorView) -> None:
        """Set the view of the supervisor for scrapes to read."""
        self._supervisor = supervisor

    def watch_store_health(self, health: StoreHealthView) -> None:
        """Set the view of the store's health for `loss`."""
        self._health = health

    @property
    def loss(self) -> str | None:
        """What is wrong if the file of the store is gone."""
        return None if self._health is None else self._health.loss

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since a heartbeat was last written; None before the first."""
        return None if self._reached_at is None else time.monotonic() - self._reached_at

    @property
    def dead_after_seconds(self) -> float:
        settings = self._living.get("settings")
        return float(settings["dead_after_seconds"]) if isinstance(settings, Mapping) else 0.0

    def exposition(self, accept: str, census: Census | None) -> tuple[bytes, str]:
        """The text of all metrics, and its content type by what the client accepts. One thread at a time."""
        encode, content_type = choose_encoder(accept)
        self._census = census
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """The metrics that are looked up, not counted; called by the registry."""
        yield InfoMetricFamily(
            "disbatch_host",
            "Facts about this node.",
            value={
                "version": __version__,
                "node": self._node_id,
                "store": self._store_kind,
                "python": ".".join(map(str, sys.version_info[:3])),
            },
        )
        yield self._failures.family()
        yield from exposition.of_store(self._store_thread, self.silent_seconds)
        yield from exposition.of_node(self._living, self._labels)
        yield from exposition.of_supervisor(self._supervisor)
        if self._census is not None:
            yield from exposition.of_census(self._census, self._labels)

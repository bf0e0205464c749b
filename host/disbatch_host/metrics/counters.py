"""What a node counts for Prometheus.

Responsible for: the names, labels and buckets of all metrics, and keeping the counts. Must not know: how they are
fetched, stores, processes.

Rules:
1. The `note_…` methods are called in the hot path: some microseconds each, nothing that waits.
2. Labels are bounded: the first `QUEUES_MAX` queues that are seen have their own, all others are `other`; classes and
   nodes likewise. No task id, no parameter, no message is ever a label.
3. A registry of its own: nothing global.
4. What is not known now is left out; a number is never older than it looks (`disbatch_census_timestamp_seconds`).
"""

from __future__ import annotations

import sys
import time
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from disbatch_host import __version__
from disbatch_host.documents.records import Task
from disbatch_host.metrics.census import Census
from disbatch_protocol import status as statuses
from disbatch_protocol.outcome import Conclusion, Outcome, Reason

QUEUES_MAX = 200
CLASSES_MAX = 200
NODES_MAX = 200
OTHER = "other"

RUN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
WAIT_BUCKETS = (0.01, 0.1, 1, 10, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

_NEVER_STARTED = frozenset({Reason.PARAMETERS, Reason.START_FAILED})


class StoreThreadView(Protocol):
    """What there is to see of the store thread, from any thread."""

    @property
    def records_waiting(self) -> int: ...

    @property
    def is_away(self) -> bool: ...


class _Labels:
    """A bounded set of names."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[object, str] = {}

    def of(self, name: object) -> str:
        label = self._of.get(name)
        if label is None:
            if len(self._of) >= self._most:
                return OTHER
            label = self._of[name] = str(name)
        return label


class Metrics:
    """The counts of one node. `note_…` are called in its event loop, or in its store thread where they say so;
    `exposition` in any other."""

    def __init__(self, node_id: str, *, store_kind: str) -> None:
        self._node_id = node_id
        self._store_kind = store_kind
        self._queues, self._classes, self._nodes = _Labels(QUEUES_MAX), _Labels(CLASSES_MAX), _Labels(NODES_MAX)
        self._living: Mapping[str, Any] = {}  # as the last heartbeat told it
        self._reached_at: float | None = None  # monotonic; when a heartbeat was last written
        self._store_thread: StoreThreadView | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)  # a collector is whatever has `collect`
        self._ended = Counter(
            "disbatch_runs_ended",
            "Runs on this node that have ended, by how.",
            ("queue", "class", "outcome", "reason"),
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

    # --- told by the node

    def note_claimed(self, task: Task) -> None:
        """A task was claimed. Those that were tried before, or put off, have waited for something else as well."""
        claim, ctime = task.document.get("claim"), task.document.get("ctime")
        at = claim.get("at") if isinstance(claim, Mapping) else None
        if task.next_attempt > 1 or not isinstance(at, datetime) or not isinstance(ctime, datetime):
            return
        waits = self._waits_of.get(task.queue)
        if waits is None:
            label = self._queues.of(task.queue)
            waits = self._waits.labels(label)
            if label != OTHER:  # else this table would have no bound
                self._waits_of[task.queue] = waits
        waits.observe(max(0.0, (at - ctime).total_seconds()))

    def note_ended(
        self, queue: object, class_name: str, conclusion: Conclusion | None, reason: Reason | None, seconds: float
    ) -> None:
        """A run has ended; `conclusion` is None where nothing was concluded (given back, taken over)."""
        if conclusion is None:
            return
        key = (queue, class_name, conclusion.outcome, reason)
        found = self._ended_of.get(key)
        if found is None:
            labels = self._queues.of(queue), self._classes.of(class_name)
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

    def note_written(self, seconds: float) -> None:
        """A batch of changes was written. Called in the store's thread."""
        self._writes.observe(seconds)

    def note_living(self, fields: Mapping[str, Any]) -> None:
        """What the next heartbeat will tell (schemas/node.json)."""
        self._living = fields

    def note_store_reached(self) -> None:
        self._reached_at = time.monotonic()

    def watch_store_thread(self, store_thread: StoreThreadView) -> None:
        """Where to look, at a scrape, for how the store thread gets on."""
        self._store_thread = store_thread

    # --- asked from outside

    @property
    def silent_seconds(self) -> float | None:
        """Since a heartbeat was last written; None before the first."""
        return None if self._reached_at is None else time.monotonic() - self._reached_at

    @property
    def dead_after_seconds(self) -> float:
        settings = self._living.get("settings")
        return float(settings["dead_after_seconds"]) if isinstance(settings, Mapping) else 0.0

    def exposition(self, accept: str, census: Census | None) -> tuple[bytes, str]:
        """The text of all metrics, and its content type by what the client takes. One thread at a time."""
        encode, content_type = choose_encoder(accept)
        self._census = census
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """For the registry: what is not counted but looked up."""
        yield InfoMetricFamily(
            "disbatch_host",
            "What this node is.",
            value={
                "version": __version__,
                "node": self._node_id,
                "store": self._store_kind,
                "python": ".".join(map(str, sys.version_info[:3])),
            },
        )
        yield from self._of_store_thread()
        yield from self._of_node(self._living)
        if self._census is not None:
            yield from self._of_census(self._census)

    def _of_store_thread(self) -> Iterable[Metric]:
        thread = self._store_thread
        if thread is not None:
            yield GaugeMetricFamily(
                "disbatch_store_records_waiting", "Changes that are not written yet.", value=thread.records_waiting
            )
            yield GaugeMetricFamily(
                "disbatch_store_away", "1 while changes cannot be written.", value=int(thread.is_away)
            )
        silent = self.silent_seconds
        if silent is not None:
            yield GaugeMetricFamily(
                "disbatch_store_silent_seconds", "Since a heartbeat was last written.", value=silent
            )

    def _of_node(self, living: Mapping[str, Any]) -> Iterable[Metric]:
        if not living:
            return
        heartbeat = living["heartbeat"]
        yield GaugeMetricFamily("disbatch_node_runs", "Runs in hand on this node.", value=heartbeat["running"])
        state = GaugeMetricFamily("disbatch_node_state", "1 for the state that the node is in.", labels=("state",))
        state.add_metric((str(living["state"]),), 1)
        yield state
        running, limits = Count[str](), Count[str]()
        for queue in heartbeat["queues"]:
            label = self._queues.of(queue["queue"])
            running[label] += queue["processing"]
            limits[label] += queue["threads"]
        yield _gauge("disbatch_node_running", "Tasks in hand on this node, by queue.", "queue", running)
        yield _gauge("disbatch_node_limit", "How many it may have in hand at once, by queue.", "queue", limits)
        total = living["settings"]["max_total"]
        if total is not None:
            yield GaugeMetricFamily("disbatch_node_limit_total", "How many over all queues.", value=total)
        plugins = {
            "usable": len(living["queuetypes"]) - len(living["set_aside"]),
            "set_aside": len(living["set_aside"]),
            "broken": len(living["broken"]),
        }
        yield _gauge("disbatch_plugins", "Plugins of this node, by what it can do with them.", "state", plugins)
        aside = {self._classes.of(one["class"]): 1 for one in living["set_aside"]}
        yield _gauge("disbatch_plugin_set_aside", "1 for each class that this node does not run.", "class", aside)

    def _of_census(self, census: Census) -> Iterable[Metric]:
        tasks, oldest, ages = Count[tuple[str, str]](), dict[str, float](), dict[str, float]()
        for queue, counts in census.by_status.items():
            for status, count in counts.items():
                tasks[self._queues.of(queue), _status_word(status)] += count
        family = GaugeMetricFamily("disbatch_tasks", "Tasks in the store.", labels=("queue", "status"))
        for labels, count in tasks.items():
            family.add_metric(labels, count)
        yield family
        # Counted a moment ago, and older by that moment since.
        since = time.monotonic() - census.at
        for queue, age in census.oldest_waiting_seconds.items():
            label = self._queues.of(queue)
            oldest[label] = max(age + since, oldest.get(label, 0.0))
        for node, age in census.heartbeat_age_seconds.items():
            label = self._nodes.of(node)
            ages[label] = max(age, ages.get(label, 0.0))
        yield _gauge("disbatch_oldest_waiting_seconds", "Age of the oldest task that waits.", "queue", oldest)
        yield _gauge("disbatch_heartbeat_age_seconds", "Of each node's last heartbeat.", "node", ages)
        yield GaugeMetricFamily(
            "disbatch_census_timestamp_seconds", "When the store was last counted.", value=time.time() - since
        )
        yield GaugeMetricFamily("disbatch_census_seconds", "How long that took.", value=census.took_seconds)


def _gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for text, value in values.items():
        family.add_metric((text,), value)
    return family


def _status_word(status: int) -> str:
    """One word for all failures that plugins have named, and one for what nobody has: few labels."""
    try:
        return statuses.kind(status).name.lower()
    except ValueError:
        return OTHER

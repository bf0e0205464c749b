"""The metrics that are not counted but looked up when Prometheus asks: of the store thread, the node, the store.

Responsible for: the names and labels of these metrics. Must not know: how they are fetched, which others are counted.
"""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from disbatch_host.metrics.census import Census
from disbatch_protocol import status as statuses

QUEUES_MAX = 200
CLASSES_MAX = 200
NODES_MAX = 200
OTHER = "other"


class StoreThreadView(Protocol):
    """The view of the store thread, from any thread."""

    @property
    def records_waiting(self) -> int: ...

    @property
    def is_away(self) -> bool: ...


class StoreHealthView(Protocol):
    """The view of the store's health, from any thread."""

    @property
    def loss(self) -> str | None: ...


class SupervisorView(Protocol):
    """The view of the supervisor of a node's runs, from any thread."""

    def counts(self) -> tuple[int, int]:
        """Of the processes that it has: how many have not ended, and how many have, and their end is not stored."""


class LabelNames:
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


@dataclass(frozen=True, slots=True)
class Labels:
    """The names that may be labels, shared by all metrics of a node."""

    queues: LabelNames = field(default_factory=lambda: LabelNames(QUEUES_MAX))
    classes: LabelNames = field(default_factory=lambda: LabelNames(CLASSES_MAX))
    nodes: LabelNames = field(default_factory=lambda: LabelNames(NODES_MAX))


def of_store(thread: StoreThreadView | None, silent_seconds: float | None) -> Iterable[Metric]:
    """The state of the store thread. `silent_seconds`: since a heartbeat was last written; None before the first."""
    if thread is not None:
        yield GaugeMetricFamily(
            "disbatch_store_records_waiting", "Changes that are not written yet.", value=thread.records_waiting
        )
        yield GaugeMetricFamily("disbatch_store_away", "1 while changes cannot be written.", value=int(thread.is_away))
    if silent_seconds is not None:
        yield GaugeMetricFamily(
            "disbatch_store_silent_seconds", "Seconds since a heartbeat was last written.", value=silent_seconds
        )


def of_node(living: Mapping[str, Any], labels: Labels) -> Iterable[Metric]:
    """The node's own account of itself in its last heartbeat."""
    if not living:
        return
    heartbeat = living["heartbeat"]
    yield GaugeMetricFamily("disbatch_node_runs", "Runs in hand on this node.", value=heartbeat["running"])
    state = GaugeMetricFamily("disbatch_node_state", "1 for the state that the node is in.", labels=("state",))
    state.add_metric((str(living["state"]),), 1)
    yield state
    running, limits = Count[str](), Count[str]()
    for queue in heartbeat["queues"]:
        label = labels.queues.of(queue["queue"])
        running[label] += queue["processing"]
        limits[label] += queue["threads"]
    yield _gauge("disbatch_node_running", "Tasks in hand on this node, by queue.", "queue", running)
    yield _gauge("disbatch_node_limit", "How many it may have in hand at once, by queue.", "queue", limits)
    total = living["settings"]["max_total"]
    if total is not None:
        yield GaugeMetricFamily("disbatch_node_limit_total", "How many it may have in hand in all.", value=total)
    plugins = {
        "usable": len(living["queuetypes"]) - len(living["set_aside"]),
        "set_aside": len(living["set_aside"]),
        "broken": len(living["broken"]),
    }
    yield _gauge("disbatch_plugins", "Plugins of this node, by what it can do with them.", "state", plugins)
    aside = {labels.classes.of(one["class"]): 1 for one in living["set_aside"]}
    yield _gauge("disbatch_plugin_set_aside", "1 for each class that this node does not run.", "class", aside)


def of_supervisor(view: SupervisorView | None) -> Iterable[Metric]:
    """The processes of the node's supervisor."""
    if view is None:
        return
    running, ended = view.counts()
    counts = {"running": running, "ended": ended}
    yield _gauge(
        "disbatch_supervisor_processes",
        "Processes at the supervisor of this node; ended ones until their end is stored.", "state", counts,
    )  # fmt: skip


def of_census(census: Census, labels: Labels) -> Iterable[Metric]:
    """The content of the store when it was last counted."""
    tasks, oldest, ages = Count[tuple[str, str]](), dict[str, float](), dict[str, float]()
    for queue, counts in census.by_status.items():
        for status, count in counts.items():
            tasks[labels.queues.of(queue), _status_word(status)] += count
    family = GaugeMetricFamily("disbatch_tasks", "Tasks in the store.", labels=("queue", "status"))
    for names, count in tasks.items():
        family.add_metric(names, count)
    yield family
    # Counted a moment ago, and older by that moment now.
    since = time.monotonic() - census.at
    for queue, age in census.oldest_waiting_seconds.items():
        label = labels.queues.of(queue)
        oldest[label] = max(age + since, oldest.get(label, 0.0))
    for node, age in census.heartbeat_age_seconds.items():
        label = labels.nodes.of(node)
        ages[label] = max(age, ages.get(label, 0.0))
    yield _gauge("disbatch_oldest_waiting_seconds", "Age of the oldest task that waits.", "queue", oldest)
    yield _gauge("disbatch_heartbeat_age_seconds", "Age of each node's last heartbeat.", "node", ages)
    yield _paused(census, labels)
    yield GaugeMetricFamily(
        "disbatch_census_timestamp_seconds", "When the store was last counted.", value=time.time() - since
    )
    yield GaugeMetricFamily("disbatch_census_seconds", "How long that count took.", value=census.took_seconds)


def _paused(census: Census, labels: Labels) -> Metric:
    family = GaugeMetricFamily(
        "disbatch_queue_paused", "1 for each queue that is paused, by a person or its failures.", labels=("queue", "by")
    )
    for names in {(labels.queues.of(queue), "failures" if own else "person") for queue, own in census.paused.items()}:
        family.add_metric(names, 1)
    return family


def _gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for text, value in values.items():
        family.add_metric((text,), value)
    return family


def _status_word(status: int) -> str:
    """One word for all failures that plugins have named, and one for numbers without a name: few labels."""
    try:
        return statuses.kind(status).name.lower()
    except ValueError:
        return OTHER

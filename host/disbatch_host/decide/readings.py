"""Readings of a node document, for other nodes and for people: its plugins, its faults, its load. Pure.

Responsible for: reading documents that any program or person may have written. Must not know: stores, terminals, the
conclusions drawn from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any

from disbatch_host.decide.placement import Load
from disbatch_host.decide.words import one_line
from disbatch_host.documents import local_time
from disbatch_host.documents.records import MAX_PER_QUEUE, NodeRecord, Queue, whole_number


def classes_to_claim(node: NodeRecord) -> frozenset[str]:
    """The classes whose tasks a node claims, as it publishes them."""
    if node.state != "running":
        return frozenset()
    return classes_of(node) - set_aside_of(node).keys()


def classes_of(node: NodeRecord) -> frozenset[str]:
    """Every class that a node has a plugin for."""
    return frozenset(str(one.get("class")) for one in records_of(node.document.get("queuetypes")))


def digests_of(node: NodeRecord) -> dict[str, str]:
    """The classes about which it publishes something, with the digest of that."""
    return {
        str(one.get("class")): one["digest"]
        for one in records_of(node.document.get("queuetypes"))
        if isinstance(one.get("digest"), str)
    }


def versions_of(node: NodeRecord) -> dict[str, str]:
    """The classes that it has a plugin for, each with its version; empty if it has none."""
    return {str(one.get("class")): str(one.get("version") or "") for one in records_of(node.document.get("queuetypes"))}


def set_aside_of(node: NodeRecord) -> dict[str, str]:
    """The classes that it is not running for now, and why."""
    return {str(one.get("class")): str(one.get("reason")) for one in records_of(node.document.get("set_aside"))}


def troubles_of(node: NodeRecord) -> list[str]:
    """The failures that it has contained, each with its culprit, as sentences."""
    return [
        f"{one.get('where')}, {one.get('culprit')}: {one.get('what')}"
        for one in records_of(node.document.get("troubles"))
    ]


def passed_over_of(node: NodeRecord) -> list[str]:
    """The waiting tasks that it cannot claim, as sentences."""
    return [
        f"waiting tasks of queue {one.get('queue')} that are passed over: {number(one, 'count')}; {one.get('why')}"
        for one in records_of(node.document.get("passed_over"))
    ]


def broken_of(node: NodeRecord) -> dict[str, str]:
    """The plugins that it cannot use, and why. One whose manifest does not even give its name goes by the name of its
    directory, as it would if it were intact."""
    return {_name_of_broken(one): str(one.get("reason")) for one in records_of(node.document.get("broken"))}


def broken_files_of(node: NodeRecord) -> dict[str, str]:
    """The manifests of the plugins that it cannot use, by the same names."""
    return {_name_of_broken(one): str(one.get("manifest")) for one in records_of(node.document.get("broken"))}


def _name_of_broken(one: Mapping[str, Any]) -> str:
    return str(one.get("class") or PurePath(str(one.get("manifest"))).parent.name)


def records_of(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list of a document that any program may have written."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, (list, tuple)) else []


def is_alive(node: NodeRecord) -> bool:
    """Whether its heartbeat is recent enough, and it has not left."""
    return not is_away(node) and not node.is_stale()


def is_away(node: NodeRecord) -> bool:
    """Whether it has left for a while, its runs go on without it, and nobody settles them yet."""
    return node.is_ours and node.away_seconds is not None


def away_in_words(node: NodeRecord) -> str:
    """Until when it is away, and why, after its name: `is away until 12:10:00 (upgrade; root@mig01)`."""
    away = object_of(node, "away")
    until = away.get("until")
    shown = local_time.shown(until, "seconds") if isinstance(until, datetime) else "some time"
    why = "; ".join([str(away[name]) for name in ("why", "by") if away.get(name)])
    return f"is away until {shown}{f' ({one_line(why)})' if why else ''}"


def kept_of(node: NodeRecord) -> int:
    """How many runs, by its last heartbeat, go on without it where it is not back."""
    return number(object_of(node, "heartbeat"), "kept")


def is_silent(node: NodeRecord) -> bool:
    """Whether it has missed so many heartbeats that it most likely runs nothing, although it does not count as dead."""
    return node.is_ours and (node.age_seconds or 0.0) > _SILENT_HEARTBEATS * max(1.0, node.heartbeat_seconds())


_SILENT_HEARTBEATS = 5


def heartbeat_queues(node: NodeRecord) -> list[Mapping[str, Any]]:
    """The entries of its last heartbeat about the queues that it serves."""
    return records_of(object_of(node, "heartbeat").get("queues"))


def number(record: Mapping[str, Any], name: str) -> int:
    """A count in such a record; 0 if there is none."""
    return whole_number(record.get(name)) or 0


def places_of(node: NodeRecord) -> int:
    """How many tasks a node may run at once: those of all its queues together, as far as its plugins' limits and its
    own allow."""
    of_class: Counter[str] = Counter()
    for one in heartbeat_queues(node):
        of_class[str(one.get("class"))] += number(one, "threads")
    for kind in records_of(node.document.get("queuetypes")):
        name, limit = str(kind.get("class")), whole_number(kind.get("concurrency"))
        if limit is not None and name in of_class:
            of_class[name] = min(limit, of_class[name])
    max_total = whole_number(object_of(node, "settings").get("max_total"))
    return of_class.total() if max_total is None else min(max_total, of_class.total())


def load_of(node: NodeRecord, queue: Queue) -> Load:
    """The load of a node and its limits, as far as it publishes them."""
    settings, heartbeat = object_of(node, "settings"), object_of(node, "heartbeat")
    running: Counter[Any] = Counter()
    of_class: Counter[str] = Counter()
    threads = None
    for one in records_of(heartbeat.get("queues")):
        processing = whole_number(one.get("processing")) or 0
        is_same = one.get("queue") == queue.id
        running[queue.id if is_same else str(one.get("queue"))] += processing
        of_class[str(one.get("class"))] += processing
        if is_same:
            threads = whole_number(one.get("threads"))
    # Runs of queues that it no longer serves are in no entry of its heartbeat.
    running[None] = max(0, (whole_number(heartbeat.get("running")) or 0) - running.total())
    max_per_queue = whole_number(settings.get("max"))
    return Load(
        max_per_queue=max_per_queue if max_per_queue is not None else MAX_PER_QUEUE if threads is None else threads,
        max_total=whole_number(settings.get("max_total")),
        running=running,
        running_of_class=of_class,
        concurrency_of_class={
            str(one.get("class")): whole_number(one.get("concurrency"))
            for one in records_of(node.document.get("queuetypes"))
        },
    )


def object_of(node: NodeRecord, name: str) -> Mapping[str, Any]:
    value = node.document.get(name)
    return value if isinstance(value, Mapping) else {}

"""The document of a node (den-1.0, nodes): what a node writes about itself, and what is read from it.

Responsible for: the forms. Must not know: when they are written, what follows from them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from disbatch_host.decide import placement, readings
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import PassedOver
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, whole_number
from disbatch_host.documents.storable import storable
from disbatch_host.node.compartment import name_of
from disbatch_host.plugin.classes import Classes
from disbatch_host.process.leftovers import OtherSupervisor

BROKEN_NAMED_MAX = 20  # broken plugins that a node's document lists
PASSED_OVER_NAMED_MAX = 20  # reasons for which waiting tasks are passed over


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSettings:
    """The settings of a node that its document shows to others."""

    heartbeat_seconds: float
    dead_after_seconds: float
    max: int
    max_total: int | None


def plugins(classes: Classes, digests: Mapping[str, str] = MappingProxyType({})) -> Document:
    """The plugins that it can run, those that it does not run for now, and those that it cannot use. `digests`: by
    class, of what it has published about them."""
    return {
        "queuetypes": [
            {
                "class": name,
                "version": storable(plugin.manifest.version),
                **({} if plugin.manifest.concurrency is None else {"concurrency": plugin.manifest.concurrency}),
                **({"digest": digests[name]} if name in digests else {}),
            }
            for name, plugin in classes.plugins.items()
        ],
        "broken": [
            {
                "manifest": storable(one.manifest_path),
                **({} if one.name is None else {"class": storable(one.name)}),
                "reason": storable("; ".join(map(str, one.faults))),
            }
            for one in classes.broken[:BROKEN_NAMED_MAX]
        ],
        "set_aside": [
            {"class": name, "reason": storable(aside.reason), "since": aside.since}
            for name, aside in classes.set_aside.items()
        ],
    }


def passed_over(found: Sequence[PassedOver]) -> list[Document]:
    """The waiting tasks that no node of this program can claim."""
    return [
        {"queue": _storable_id(one.queue), "count": one.count, "why": storable(one.why)}
        for one in found[:PASSED_OVER_NAMED_MAX]
    ]


def heartbeat(*, pid: int, running: int, queues: Sequence[Queue], load: Load) -> Document:
    """The heartbeat, without its date. `queues`: those that the node serves."""
    return {"pid": pid, "running": running, "queues": [_of_queue(queue, load) for queue in queues]}


def _of_queue(queue: Queue, load: Load) -> Document:
    limit = placement.limit_of(queue, load)
    processing = load.running.get(queue.id, 0)
    return {
        "class": queue.class_name,
        "queue": _storable_id(queue.id),
        "threads": limit,
        "idle": max(0, limit - processing),
        "processing": processing,
    }


def _storable_id(queue: QueueId) -> QueueId:
    """An id that the store can hold inside a document, too: a person may have given a queue any."""
    return name_of(queue) if isinstance(queue, (bytes, float)) else queue


def in_use(node_id: str, record: NodeRecord | None) -> str:
    """The message for a node id that is taken: by whom, and what to do. None: by a node that is gone again."""
    if record is None:
        return f"node id {node_id!r} was taken by another node just now; start again or choose another with --node-id"
    host, heartbeat = record.document.get("host"), record.document.get("heartbeat")
    name = host.get("name") if isinstance(host, dict) else None
    pid = heartbeat.get("pid") if isinstance(heartbeat, dict) else None
    age = "never" if record.age_seconds is None else f"{record.age_seconds:.0f} s ago"
    return (
        f"node id {node_id!r} is in use by {record.document.get('version', 'a node')} on machine {name or 'unknown'}, "
        f"process {pid or 'unknown'}, last heartbeat {age}; choose another with --node-id, or take it over with --force"
    )


def away_elsewhere(node_id: str, record: NodeRecord) -> str:
    """The message for a node id whose node is away and has runs on another machine."""
    name = readings.object_of(record, "host").get("name")
    return (
        f"node {node_id} {readings.away_in_words(record)}, and its runs are on machine {name or 'unknown'}; start it "
        "there, choose another id with --node-id, or take this one over with --force"
    )


def in_use_by_other_program(node_id: str, record: NodeRecord) -> str:
    """The message for a node id that is another program's."""
    version = record.document.get("version")
    program = f" ({version})" if isinstance(version, str) else ""
    return (
        f"node id {node_id!r} is that of a node of another program{program}, whose tasks carry it; choose another with "
        "--node-id"
    )


def supervisors(record: NodeRecord) -> list[OtherSupervisor]:
    """The supervisors that outlive the node, as its document names them."""
    named = record.document.get("supervisors")
    found = []
    for one in named if isinstance(named, (list, tuple)) else ():
        if isinstance(one, Mapping) and isinstance(one.get("id"), str) and one["id"]:
            pid, started = whole_number(one.get("pid")), whole_number(one.get("pid_started"))
            if pid is not None and pid > 1 and started is not None:
                directory = str(one.get("directory", ""))
                found.append(OtherSupervisor(id=one["id"], pid=pid, pid_started=started, directory=directory))
    return found


def who_and_why(request: Mapping[str, Any]) -> tuple[str, str]:
    """Who made a request in a node's document, and " (the reason)" if there is one."""
    why = request.get("why")
    return str(request.get("by") or "somebody"), f" ({why})" if why else ""

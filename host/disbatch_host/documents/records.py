"""The documents of den-1.0 as records: queues, tasks and nodes as they are read, and new ones.

Responsible for: reading documents that other programs and people have written as well, and making new ones. Must not
know: which store there is, how anything is written, who calls.

Rules:
1. A record keeps the whole document it was read from in `document`; fields that it does not know are never lost,
   because changes only ever name the fields that they set.
2. Reading is lenient where the contract is (node -1, null or missing; whole numbers that a shell has written as
   doubles) and says what is wrong where a document cannot be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_protocol.quantities import Rate, parse_duration, parse_rate
from disbatch_protocol.status import Status

Document = dict[str, Any]
TaskId = Any  # an ObjectId in MongoDB, 24 hexadecimal digits in SQLite; `str()` of it is the same for people
QueueId = Any  # a string, or an ObjectId that another program has generated

NOBODY = -1  # a task's `node` while nobody has claimed it

# What holds for a node that was told nothing else, and for one whose document does not say.
MAX_PER_QUEUE = 10  # tasks at once of a queue without `maxthreads`
HEARTBEAT_SECONDS = 1.0
DEAD_AFTER_SECONDS = 30.0  # age of its heartbeat at which others take it for dead


class Sort(StrEnum):
    """In which order the tasks of a queue that have the same priority are claimed."""

    FIFO = "fifo"
    LIFO = "lifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue, as a node sees it."""

    id: QueueId
    class_name: str  # the document's `class`
    description: str = ""
    maxthreads: int | None = None  # at once on each node; None: the node's --max
    maxtotal: int | None = None  # at once over all nodes; None: no such limit
    rate: Rate | None = None  # of starts, over all nodes
    sort: Sort = Sort.FIFO
    keep_seconds: float | None = None  # how long its ended tasks are kept; None: forever
    paused: Mapping[str, Any] | None = None  # {at, by, why} while it is paused
    nodes_pin: tuple[str, ...] = ()
    nodes_ignore: tuple[str, ...] = ()
    ctime: datetime | None = None
    fault: str | None = None  # why no task of this queue can run, in words for its owner
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Queue:
        """Read a queue document; one that cannot be used comes back with `fault` set, never as an exception."""
        faults = []
        class_name = document.get("class")
        if not isinstance(class_name, str) or not class_name:
            faults.append(f'"class" must be the name of a plugin, found {_kind_of(class_name)}')
            class_name = ""
        limits: dict[str, int | None] = {}
        for name in ("maxthreads", "maxtotal"):
            number = whole_number(document.get(name))
            if document.get(name) is not None and (number is None or number < 0):
                faults.append(f'"{name}" must be a whole number of 0 or more, found {_kind_of(document[name])}')
                number = 0
            limits[name] = number
        sort = document.get("sort", Sort.FIFO)
        if sort not in (*Sort, None):
            faults.append(f'"sort" must be "fifo" or "lifo", found {_kind_of(sort)}')
            sort = None
        quantities: dict[str, Any] = {}
        for name, parse in (("rate", parse_rate), ("keep", parse_duration)):
            try:
                quantities[name] = None if document.get(name) is None else parse(document[name])
            except ValueError as error:
                faults.append(f'"{name}": {error}')
                quantities[name] = None
        pins: dict[str, tuple[str, ...]] = {}
        for name in ("nodes_pin", "nodes_ignore"):
            value = document.get(name) or ()  # den-1.0: an empty list means the field is absent
            if isinstance(value, (list, tuple)) and all(isinstance(node, str) for node in value):
                pins[name] = tuple(value)
            else:
                faults.append(f'"{name}" must be a list of node ids, found {_kind_of(document[name])}')
                pins[name] = ()
        description = document.get("description")
        ctime = document.get("ctime")
        return cls(
            id=document["_id"],
            class_name=class_name,
            description=description if isinstance(description, str) else "",
            maxthreads=limits["maxthreads"],
            maxtotal=limits["maxtotal"],
            rate=quantities["rate"],
            sort=Sort(sort or Sort.FIFO),
            keep_seconds=quantities["keep"],
            paused=_paused(document.get("paused")),
            nodes_pin=pins["nodes_pin"],
            nodes_ignore=pins["nodes_ignore"],
            ctime=ctime if isinstance(ctime, datetime) else None,
            fault="; ".join(faults) or None,
            document=document,
        )

    def is_for(self, node_id: str) -> bool:
        """Whether pin and ignore let this node run it; `nodes_pin` wins where both are given (den-1.0)."""
        if self.nodes_pin:
            return node_id in self.nodes_pin
        return node_id not in self.nodes_ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as it was when it was read."""

    id: TaskId
    queue: QueueId
    status: int
    node: str | None  # None: nobody has claimed it
    token: str | None  # of the claim that holds it
    document: Mapping[str, Any] = field(repr=False)
    fault: str | None = None  # why no node can run it, in words for its owner: what the store holds cannot be read

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Task:
        """Read a task document. A status that is not a number counts as one that no node will touch."""
        node = document.get("node")
        claim = document.get("claim")
        status = whole_number(document.get("status"))
        return cls(
            id=document["_id"],
            queue=document.get("queue"),
            status=Status.BLOCKED if status is None else status,
            node=node if isinstance(node, str) and node != str(NOBODY) else None,
            token=claim.get("token") if isinstance(claim, Mapping) else None,
            document=document,
        )

    @property
    def parameters(self) -> Any:
        """What the plugin gets. Missing or null counts as an empty object."""
        value = self.document.get("parameters")
        return {} if value is None else value

    @property
    def run(self) -> Mapping[str, Any]:
        """The current or last attempt; empty before the first."""
        value = self.document.get("run")
        return value if isinstance(value, Mapping) else {}

    @property
    def attempts(self) -> list[Any]:
        """How each earlier attempt ended, oldest first."""
        value = self.document.get("attempts")
        return list(value) if isinstance(value, (list, tuple)) else []

    @property
    def last_attempt(self) -> int:
        """How many attempts were used so far."""
        last = whole_number(self.run.get("attempt")) or 0
        return last - 1 if last and self.run.get("attempt_used") is False else last

    @property
    def next_attempt(self) -> int:
        """The number of the attempt that a start now would be, from 1. A run that used none is not counted."""
        return self.last_attempt + 1

    @property
    def attempts_forgiven(self) -> int:
        """How many attempts do not count for its plugin's `retry`: those before a person had it run again."""
        retried = self.document.get("retried")
        return whole_number(retried.get("attempts")) or 0 if isinstance(retried, Mapping) else 0

    @property
    def cancel(self) -> Mapping[str, Any] | None:
        """The request to cancel it (by whom, when and why), until that has been done."""
        value = self.document.get("cancel")
        return value if isinstance(value, Mapping) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One document of `nodes`, with its age by the clock of the store."""

    id: str
    session: str | None  # one start of one process; None for nodes of other programs
    age_seconds: float | None  # since the last heartbeat, by the store's clock; None: never
    document: Mapping[str, Any] = field(repr=False)

    @property
    def requests(self) -> Mapping[str, Any]:
        """What people ask of it: `drain`, `stop`, each {at, by, why}."""
        value = self.document.get("requests")
        return value if isinstance(value, Mapping) else {}

    @property
    def state(self) -> str:
        """`running`, `draining`, `drained` or `stopping`, as it has said with its last heartbeat."""
        value = self.document.get("state")
        return value if isinstance(value, str) else "running"

    @property
    def is_ours(self) -> bool:
        """Whether this program wrote it; only then the meaning of its heartbeat is known for certain."""
        version = self.document.get("version")
        return isinstance(version, str) and version.startswith("disbatch-host ")

    def is_stale(self, default_dead_after_seconds: float = DEAD_AFTER_SECONDS) -> bool:
        """Whether the heartbeat is older than the age that the node itself has set (or the default)."""
        return self.age_seconds is None or self.age_seconds > self.dead_after_seconds(default_dead_after_seconds)

    def dead_after_seconds(self, default: float = DEAD_AFTER_SECONDS) -> float:
        """The age of its heartbeat at which it wants to be taken for dead."""
        return self._setting("dead_after_seconds", default)

    def heartbeat_seconds(self) -> float:
        """The interval of its heartbeat."""
        return self._setting("heartbeat_seconds", HEARTBEAT_SECONDS)

    @property
    def heartbeat_mark(self) -> object:
        """Changes with every heartbeat."""
        heartbeat = self.document.get("heartbeat")
        return self.session, heartbeat.get("datetime") if isinstance(heartbeat, Mapping) else None

    def _setting(self, name: str, default: float) -> float:
        settings = self.document.get("settings")
        own = settings.get(name) if isinstance(settings, Mapping) else None
        return float(own) if isinstance(own, (int, float)) else default


def new_task(queue: QueueId, parameters: Any, *, now: datetime, **more: Any) -> Document:
    """A task document as den-1.0 wants it at creation, without `_id` (the store gives it). `more`: free fields."""
    return {
        "queue": queue,
        "ctime": now,
        "mtime": now,
        "parameters": parameters,
        "stdout": "",
        "stderr": "",
        "status": int(Status.CREATED),
        "node": NOBODY,
        **more,
    }


def whole_number(value: Any) -> int | None:
    """A number as int where it is whole (shells write 10 as 10.0), else None. Booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if math.isfinite(value) and abs(value) < 2**63 and value == int(value) else None


def _paused(value: Any) -> Mapping[str, Any] | None:
    """`paused` of a queue. Anything that a person has written there, except false, pauses it: that was the intent."""
    return value if isinstance(value, Mapping) else {} if value else None


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"

"""The store and what is in it: its condition, its clock, queues that nothing runs, nodes that need somebody.

Responsible for: asking a store, once and within a bounded time, and what follows from the answers. Must not know: this
machine.

Rules:
1. Nothing is changed: the store is opened to be looked at (`Access.LOOK`), and only asked.
2. A store that does not answer costs `PATIENCE_SECONDS` in all: it is asked in a thread that nobody waits for longer.
3. After the first answer that does not come, nothing more is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from disbatch_host import __version__, suggested
from disbatch_host.clock import SystemClock
from disbatch_host.decide import readings
from disbatch_host.decide.why import Code, Why, queue_obstacles
from disbatch_host.doctor.findings import Finding, count_of, error, ok, some, warning
from disbatch_host.documents.records import NodeRecord, Queue
from disbatch_host.errors import DisbatchError, StoreError, UsageError, in_words
from disbatch_host.settings.values import Settings
from disbatch_host.store.contract import SCHEMA_VERSION, Store
from disbatch_host.store.contract.answers import Access, StoreCondition
from disbatch_host.store.open import open_store, sqlite_file
from disbatch_protocol.faults import near_name
from disbatch_protocol.quantities import format_duration

PATIENCE_SECONDS = 8.0
_SLOW_SECONDS = 0.25  # for one answer: a node asks some hundred times a second at full load
_CLOCK_SECONDS = 2.0  # by which people are surprised: `--at 14:00` is read by this machine's clock
_STANDSTILL = (Code.PAUSED, Code.MAXTHREADS, Code.MAXTOTAL)  # what somebody has asked for


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a store has answered so far. What is None was not asked, or not answered."""

    condition: StoreCondition | None = None
    clock_seconds: float | None = None  # how far this machine's clock is ahead
    is_clock_local: bool = False
    now: datetime | None = None
    queues: Sequence[Queue] | None = None
    nodes: Sequence[NodeRecord] | None = None
    waiting: frozenset[Any] | None = None  # ids of queues with waiting tasks
    trouble: Exception | None = None
    description: str = ""
    is_missing: bool = False  # the default file, which need not be there
    plugins: Sequence[Path] = ()  # directories that a node here would have
    is_done: threading.Event = field(default_factory=threading.Event)


def look_at(settings: Settings) -> Seen:
    """Begin to ask; `found_of` waits for the answers."""
    seen = Seen(plugins=[one for one in settings.plugins if one.is_dir()])
    threading.Thread(target=_ask, args=(settings, seen), name="doctor", daemon=True).start()
    return seen


def wait_for(seen: Seen, deadline: float) -> None:
    """Wait for the answers, until this monotonic time at most."""
    seen.is_done.wait(max(0.0, deadline - time.monotonic()))


def _ask(settings: Settings, seen: Seen) -> None:
    try:
        url = settings.store_url
        store = open_store(url, SystemClock(), Access.LOOK)
        seen.description = store.description
        if url.startswith("sqlite:") and not settings.is_store_given and not sqlite_file(url).exists():
            seen.is_missing = True
            return
        try:
            store.open()
            _ask_store(store, seen)
        finally:
            store.close()
    except Exception as trouble:  # whatever it is: it is a finding
        seen.trouble = trouble
    finally:
        seen.is_done.set()


def _ask_store(store: Store, seen: Seen) -> None:
    seen.condition = store.condition()
    seen.is_clock_local = store.is_clock_local
    before = SystemClock().now()
    now = store.now()
    after = SystemClock().now()
    seen.clock_seconds = (before + (after - before) / 2 - now).total_seconds()
    seen.now = now
    if seen.condition.layout is None:
        seen.queues, seen.nodes, seen.waiting = [], [], frozenset()
        return
    seen.nodes = store.nodes()
    seen.queues = store.queues()
    seen.waiting = frozenset(store.waiting_queues())


def is_there(seen: Seen) -> bool:
    """Whether the store answers, or need not be there yet."""
    return seen.is_missing or (seen.is_done.is_set() and not isinstance(seen.trouble, (StoreError, UsageError)))


def store_findings(seen: Seen) -> Iterator[Finding]:
    """The store itself and its clock."""
    condition = seen.condition
    if seen.is_missing:
        yield warning(
            "store", f"{seen.description} is not there yet", f"a node or {_CREATE} makes it; --store "
            "or DISBATCH_STORE names another",
        )  # fmt: skip
        return
    if condition is None:
        yield _no_answer(seen)
        return
    milliseconds = condition.answer_seconds * 1000
    text = f"{seen.description}: {condition.product}, {condition.form}, answers in {milliseconds:.1f} ms"
    facts = {
        "url": seen.description, "product": condition.product, "form": condition.form,
        "answer_seconds": condition.answer_seconds,
    }  # fmt: skip
    if condition.answer_seconds > _SLOW_SECONDS:
        yield warning("store", text, "a node asks often: bring it nearer, or find out why it is slow", **facts)
    elif not condition.announces:
        todo = "nodes look every second instead of being told of changes; a replica set, even of one member, tells them"
        yield warning("store", text, todo, **facts)
    else:
        yield ok("store", text, **facts)
    yield _layout(condition)
    yield _rights(condition)
    if condition.layout is not None:
        yield _indexes(condition)
    if seen.clock_seconds is not None:
        yield _clock(seen, seen.clock_seconds)
    if seen.trouble is not None or not seen.is_done.is_set():
        yield _no_answer(seen)


def _no_answer(seen: Seen) -> Finding:
    if seen.trouble is None:
        text = f"{seen.description or 'the store'} has not answered within {PATIENCE_SECONDS:g} s"
        return error("store", text, "see whether it runs, and what the network between does")
    todo = "the line says what" if isinstance(seen.trouble, DisbatchError) else "this is a bug of this program"
    words = in_words(seen.trouble)
    text, separator, hint = words.partition("; ")
    return error("store", text, hint if separator else todo)


def _layout(condition: StoreCondition) -> Finding:
    facts = {"layout": condition.layout, "known": SCHEMA_VERSION}
    if condition.layout is None:
        return ok("layout", f"empty: nobody has used it yet; a node or {_CREATE} sets it up", **facts)
    if condition.layout > SCHEMA_VERSION:
        text = f"version {condition.layout}, and this program knows {SCHEMA_VERSION} at most"
        return error("layout", text, "install a newer disbatch-host here", **facts)
    if condition.layout == 0:
        return error("layout", "its version is not a number", "somebody has changed it: put it back", **facts)
    if condition.layout < SCHEMA_VERSION:
        text = f"version {condition.layout} of an older program; this one has {SCHEMA_VERSION}"
        todo = "the next node or command of this version brings it up to date; older ones cannot use it then"
        return warning("layout", text, todo, **facts)
    return ok("layout", f"version {condition.layout}, as this program has it", **facts)


def _rights(condition: StoreCondition) -> Finding:
    for why_not, what in ((condition.why_not_write, "written"), (condition.why_not_index, "given indexes")):
        if why_not is not None:
            todo = "give the user readWrite on the database" if condition.file is None else "check its owner and mode"
            return error("rights", f"it cannot be {what}: {why_not}", todo)
    return ok("rights", "it can be written and given indexes")


def _indexes(condition: StoreCondition) -> Finding:
    if condition.layout != SCHEMA_VERSION:
        return ok("indexes", "not looked at: the layout is another version's")
    if condition.missing_indexes is None:
        return ok("indexes", "not looked at: this user may not list them (listIndexes), which nodes do not need")
    if condition.missing_indexes:
        text = f"missing: {some(condition.missing_indexes)}"
        todo = "without them every look is slow; the next node or command makes them, as far as it has the right to"
        if condition.file is not None:
            todo = "somebody has removed them: put back a copy of the file, or ask for help with it"
        return warning("indexes", text, todo, missing=list(condition.missing_indexes))
    return ok("indexes", "all are there")


def _clock(seen: Seen, ahead_seconds: float) -> Finding:
    if seen.is_clock_local:
        return ok("clock", "the store has this machine's clock")
    way = "ahead of" if ahead_seconds > 0 else "behind"
    text = f"this machine's is {format_duration(round(abs(ahead_seconds), 3))} {way} the store's"
    if abs(ahead_seconds) > _CLOCK_SECONDS:
        todo = "nodes follow the store's, people do not: set both by NTP"
        return warning("clock", text, todo, ahead_seconds=ahead_seconds)
    return ok("clock", text, ahead_seconds=ahead_seconds)


def queue_finding(seen: Seen) -> Finding | None:
    """Queues whose tasks no node runs; None if they are not known."""
    if seen.queues is None or seen.nodes is None or seen.now is None or seen.waiting is None:
        return None
    obstacles: dict[str, tuple[Queue, Sequence[Why]]] = {}
    for queue in seen.queues:
        found = [one for one in queue_obstacles(queue, seen.nodes, now=seen.now) if one.code not in _STANDSTILL]
        if found:
            obstacles[str(queue.id)] = (queue, found)
    count = count_of(len(seen.queues), "queue")
    facts: dict[str, Any] = {"queues": len(seen.queues), "not_served": sorted(obstacles)}
    if not obstacles:
        return ok("queues", f"{count}, and each has a node that runs its tasks" if seen.queues else "none yet", **facts)
    if not any(readings.is_alive(one) for one in seen.nodes):
        are_waiting = any(queue.id in seen.waiting for queue, _ in obstacles.values())
        waits = "; tasks wait" if are_waiting else ""
        paused = [
            f"{queue_id}: {cause.sentence}"
            for queue_id, (_, causes) in obstacles.items() for cause in causes
            if cause.code is Code.PAUSED_ON_FAILURES
        ]  # fmt: skip
        text = "; ".join([f"{count}, and no node is alive{waits}", *([some(paused, "; ")] if paused else [])])
        todos = [f"start one: {suggested.a_node(seen.plugins)}"]
        todos += _resume(obstacles) if paused else []
        return warning("queues", text, "; ".join(todos), **facts)
    words = []
    is_bad = False
    for queue_id, (queue, causes) in obstacles.items():
        has_waiting = queue.id in seen.waiting
        is_bad = is_bad or has_waiting or queue.fault is not None
        words.append(f"{queue_id}: {causes[0].sentence}{' (tasks wait)' if has_waiting else ''}")
    text = f"{count_of(len(words), 'queue')} that no node runs: {some(words, '; ')}"
    codes = {causes[0].code for _, causes in obstacles.values()}
    todos = []
    if Code.PAUSED_ON_FAILURES in codes:
        todos += _resume(obstacles)
    if codes != {Code.PAUSED_ON_FAILURES}:
        todos.append(f"put the plugin on a node, or correct the class: {_correct_class(obstacles, seen.nodes)}")
    return (error if is_bad else warning)("queues", text, "; ".join(todos), **facts)


_Obstacles = Mapping[str, tuple[Queue, Sequence[Why]]]
_CREATE = suggested.plain_hint("queue create ID --class CLASS")


def _resume(obstacles: _Obstacles) -> list[str]:
    """What to do about queues that nodes have paused since too many of their tasks failed."""
    paused = [
        name for name, (_, causes) in obstacles.items() if Code.PAUSED_ON_FAILURES in {one.code for one in causes}
    ]
    shows = suggested.hint("task failures", *(("--queue", paused[0]) if len(paused) == 1 else ()))
    resumes = some([suggested.hint("queue resume", name) for name in paused])
    return [f"{shows} says why tasks fail; then {resumes}"]


def _correct_class(obstacles: _Obstacles, nodes: Sequence[NodeRecord]) -> str:
    """For the first queue that has a class like one that nodes have, or the first one."""
    known = sorted({name for node in nodes if readings.is_alive(node) for name in readings.classes_of(node)})
    others = [
        (name, queue) for name, (queue, causes) in obstacles.items() if causes[0].code is not Code.PAUSED_ON_FAILURES
    ]
    found = next(((name, near) for name, queue in others if (near := near_name(queue.class_name, known))), None)
    name, class_name = found or (others[0][0], "CLASS")
    return suggested.hint("queue set", name, f"class={class_name}")


def node_findings(seen: Seen) -> Iterator[Finding]:
    """Nodes that are dead, differ, or have trouble."""
    if seen.nodes is None:
        return
    ours = [one for one in seen.nodes if one.is_ours]
    alive = [one for one in ours if readings.is_alive(one)]
    away = [one.id for one in ours if readings.is_away(one)]
    dead = [one for one in ours if not readings.is_alive(one) and not readings.is_away(one)]
    others = [one.id for one in seen.nodes if not one.is_ours]
    words = [f"{len(alive)} alive" + (f" ({some([one.id for one in alive])})" if alive else "")]
    words += [f"away: {some(away)}"] if away else []
    words += [f"of another program: {some(others)}"] if others else []
    facts = {"alive": [one.id for one in alive], "dead": [one.id for one in dead], "away": away}
    if dead:
        names = [f"{one.id} (last heard from {_ago(one)}{_in_hand(one)})" for one in dead]
        forget = some([suggested.hint("node delete", one.id) for one in dead])
        todo = f"other nodes settle what they had; start them again, or {forget}"
        yield warning("nodes", f"{', '.join(words)}, dead: {some(names)}", todo, **facts)
    else:
        yield ok("nodes", ", ".join(words), **facts)
    yield from _versions(alive)
    yield from _troubles(alive)


def _ago(node: NodeRecord) -> str:
    return "never" if node.age_seconds is None else f"{format_duration(round(node.age_seconds))} ago"


def _in_hand(node: NodeRecord) -> str:
    running = readings.number(readings.object_of(node, "heartbeat"), "running")
    return f", with {count_of(running, 'task')} in hand" if running else ""


def _versions(alive: Sequence[NodeRecord]) -> Iterator[Finding]:
    if not alive:
        return
    own = f"disbatch-host {__version__}"
    by_version: dict[str, list[str]] = {}
    for node in alive:
        by_version.setdefault(str(node.document.get("version")), []).append(node.id)
    silent = [
        one.id for one in alive
        if readings.classes_of(one) - readings.digests_of(one).keys()
    ]  # fmt: skip
    text = "; ".join(f"{version} on {some(ids)}" for version, ids in by_version.items())
    facts = {"versions": dict(by_version), "publish_nothing": silent}
    if by_version.keys() != {own}:
        todo = f"this is {own}; install one version everywhere"
        yield warning("versions", text, todo, **facts)
    elif silent:
        what = "publishes no manifest" if len(silent) == 1 else "publish no manifest"
        shows = some([suggested.hint("node show", one) for one in silent])
        todo = f"what their plugins take is known only there; {shows} says whether they have trouble"
        yield warning("versions", f"{text}; node{'' if len(silent) == 1 else 's'} {some(silent)} {what}", todo, **facts)
    else:
        yield ok("versions", text, **facts)


def _troubles(alive: Sequence[NodeRecord]) -> Iterator[Finding]:
    troubled: dict[str, list[str]] = {}
    for node in alive:
        found = [f"{name} is broken" for name in readings.broken_of(node)]
        found += [f"{name} is set aside" for name in readings.set_aside_of(node)]
        found += [*readings.troubles_of(node), *readings.passed_over_of(node)]
        if found:
            troubled[node.id] = found
    if troubled:
        text = some([f"node {node}: {some(found, '; ')}" for node, found in troubled.items()], "; ")
        yield warning(
            "troubles", text, f"{suggested.hint('status')} and the log of the node say more", troubles=troubled
        )

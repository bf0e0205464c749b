"""The runs that an earlier life of this node has left at its supervisor: which of them go on, and whose they are now.

Responsible for: deciding about each before anything is claimed, and writing into its task that it went on. Must not
know: how a supervisor is found, how a run goes on, what becomes of tasks whose runs are gone (`duties/lost_runs`).

Rules:
1. A run goes on if its task is Running with its token in the hands of this node. That is proved by a guarded write, as
   everything that a run records.
2. A run whose task somebody else has, or that has ended in another way, is stopped.
3. A run whose task the store does not have is another store's, or somebody has deleted it: it is left alone, and told
   in the log.
4. Of the tasks that are left, one that was to be started at a supervisor that is there and does not have its run, was
   certainly not started, unless it was fenced before: then its run may have been stopped for that.
5. One run about which that cannot be decided costs no other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from disbatch_host import errors
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunKey, TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId, whole_number
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.lost_runs import OwnTasks
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.plugin import kept_plugin
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.classes import Classes
from disbatch_host.process.interface import KeptRun, Stream
from disbatch_host.process.supervised import SupervisedHost
from disbatch_host.run import modes, notes
from disbatch_host.run.adopted import Adopted
from disbatch_host.run.notes import Note
from disbatch_host.run.worker.adopted import Adopt
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_AT_ONCE = 50  # documents read in one call of the store, with their output


class _Found(NamedTuple):
    """A run, and its task without the output."""

    kept: KeptRun
    note: Note
    task: Task
    text_bytes: Mapping[Stream, int]  # of the output in the document


class _Proven(NamedTuple):
    """A run whose task is this node's."""

    found: _Found
    plugin: Plugin
    run: Document  # as it is in the document now


class Adoption:
    """Of one start of a node. Used in the event loop; everything that is awaited may raise StoreError."""

    def __init__(
        self, processes: SupervisedHost, runs: Runs, store_thread: StoreThread, classes: Classes, troubles: Troubles
    ) -> None:
        self._processes = processes
        self._runs = runs
        self._store_thread = store_thread
        self._classes = classes
        self._troubles = troubles
        self._node_id = runs.context.site.node_id
        self._plugins: dict[bytes, Plugin | None] = {}  # by their notes

    async def decide(self, away_seconds: float | None) -> OwnTasks:
        """Decide about all of them; what is then known of the tasks that were left. `away_seconds`: since the last
        heartbeat of the earlier life, if that is known."""
        read = {kept: notes.read(kept.note) for kept in self._processes.kept()}
        of_claim = {
            (one.token, one.task): (kept, one)
            for kept, note in read.items()
            if note is not None
            for one in (*note.before, note)
        }
        if not read:
            return self._own_tasks(frozenset(), frozenset(), is_known=True)
        ids = await self._store_thread.call(lambda store: _running_with(store, self._node_id, of_claim.keys()))
        proven: dict[tuple[str, str], _Proven] = {}
        for some in _in_pieces(list(ids.values())):
            found = await self._store_thread.call(partial(_found, ids=some, of_claim=of_claim))
            for one in await asyncio.gather(*[self._prove(one, away_seconds) for one in found]):
                if one is not None:
                    proven[one.found.note.token, one.found.note.task] = one
        adopted: set[TaskId] = set()
        for kept, note in read.items():
            if note is not None:
                each = [proven.get((one.token, one.task)) for one in (*note.before, note)]
                adopted |= self._go_on(
                    kept, [one for one in each if one is not None], is_last_there=each[-1] is not None
                )
        left = set(self._processes.kept())
        if adopted:
            log.warning(
                "tasks of an earlier life of this node whose runs go on: %d; ended meanwhile: %d",
                len(adopted), sum(kept.has_ended for kept in read if kept not in left),
            )  # fmt: skip
        await self._dismiss({kept: note for kept, note in read.items() if kept in left})
        is_known = not any(note.is_cut for note in read.values() if note is not None)
        return self._own_tasks(adopted, of_claim.keys(), is_known=is_known)

    async def stop_those_of_others(self) -> None:
        """This process does not get its id. The runs whose tasks somebody else has by now are stopped; the others go on
        without a node."""
        await self._dismiss(await self._of_others(self._processes.kept()))

    async def are_any_of_others(self, kept: Sequence[KeptRun]) -> bool:
        """Whether there is anything for `stop_those_of_others` to stop."""
        return bool(await self._of_others(kept))

    async def _of_others(self, every: Sequence[KeptRun]) -> dict[KeptRun, Note | None]:
        read = {kept: notes.read(kept.note) for kept in every}
        claims = {kept: _claims(note) for kept, note in read.items()}
        known = frozenset(itertools.chain.from_iterable(claims.values()))
        running = await self._store_thread.call(lambda store: _running_with(store, self._node_id, known))
        return {kept: note for kept, note in read.items() if running.keys().isdisjoint(claims[kept])}

    def _own_tasks(self, adopted: Collection[TaskId], told: Collection[tuple[str, str]], *, is_known: bool) -> OwnTasks:
        """`told`: the claims of all runs that were told; `is_known`: whether that is certain."""

        ids = self._processes.ids
        return OwnTasks(
            lambda task: task.id not in adopted, lambda task: is_known and was_never_started(task, ids, told), ids
        )

    def late(self) -> OwnTasks:
        """The same for tasks that an older process of this node may have made Running only now: its connection to the
        supervisor is closed, and what lay in it unread is void."""
        known, session = self._runs.task_ids, self._processes.facts.get("session")

        def is_left(task: Task) -> bool:
            return task.status == Status.RUNNING and task.run.get("session") != session and task.id not in known

        ids = self._processes.ids
        return OwnTasks(is_left, lambda task: was_never_started(task, ids), ids)

    async def _prove(self, found: _Found, away_seconds: float | None) -> _Proven | None:
        """Rule 1. None: it does not go on."""
        task = found.task
        plugin = self._plugin_of(found.kept, task)
        if plugin is None:
            return None
        entry: Document = {"at": self._runs.context.clock.now()}
        if away_seconds is not None:
            entry["away_seconds"] = round(away_seconds, 3)
        earlier = task.run.get("adopted")
        run = {**task.run, "adopted": [*(earlier if isinstance(earlier, (list, tuple)) else ()), entry]}
        key = RunKey(task.id, self._node_id, task.token)
        try:
            if not await self._store_thread.record(transitions.progress_change(key, {"run": run})):
                return None
        except StoreUnreachableError:
            raise
        except Exception as error:
            self._troubles.report("a run of an earlier life", task.id, error)
            return None
        return _Proven(found, plugin, run)

    def _go_on(self, kept: KeptRun, proven: Sequence[_Proven], *, is_last_there: bool) -> set[TaskId]:
        """Go on with a process and its tasks, of which a worker process may have several: what came of those before the
        last is known by what it said up to that one. Returns those that go on."""
        if not is_last_there:
            return set()
        context, plugin = self._runs.context, proven[-1].plugin
        worker = None
        if modes.needs_worker(plugin):
            number = whole_number(proven[-1].run.get("worker")) or 0
            worker = modes.worker_going_on(plugin, context, kept, number=number)
        adopted: set[TaskId] = set()
        for one in proven:
            task, note = one.found.task, one.found.note
            is_last = one is proven[-1]
            try:
                execution = modes.execution_going_on(
                    plugin, context, task, note, worker, self._adopts(kept, plugin), is_last=is_last
                )
                age_seconds = kept.task_age_seconds if worker is not None else kept.age_seconds
                if not is_last:
                    age_seconds = max(0.0, (context.clock.now() - one.run["started"]).total_seconds())
                adopted_run = Adopted(execution=execution, age_seconds=age_seconds, text_bytes=one.found.text_bytes)
                self._runs.adopt(
                    replace(task, document={**task.document, "run": one.run}), plugin, one.run, adopted_run
                )
                adopted.add(task.id)
            except Exception as error:
                self._troubles.report("a run of an earlier life", task.id, error)
        return adopted

    def _adopts(self, kept: KeptRun, plugin: Plugin) -> Adopt:
        return partial(self._processes.adopt, kept, keeps_stdin_open=modes.needs_worker(plugin))

    def _plugin_of(self, kept: KeptRun, task: Task | None) -> Plugin | None:
        """The plugin as it was when the run began (the one that is there now if it is the same)."""
        note = kept.program_note
        if not note:  # its manifest was too large
            facts = None if task is None else task.run.get("plugin")
            return self._classes.plugins.get(str(facts.get("class"))) if isinstance(facts, Mapping) else None
        if note not in self._plugins:
            read = kept_plugin.plugin_of(note)
            now = None if read is None else self._classes.plugins.get(read.name)
            self._plugins[note] = now if now is not None and kept_plugin.note_of(now) == note else read
        return self._plugins[note]

    async def _dismiss(self, left: Mapping[KeptRun, Note | None]) -> None:
        """Those that do not go on here."""
        there = await self._store_thread.call(lambda store: _existing(store, left))
        for kept, note in left.items():
            task = there.get(kept)
            plugin = self._plugin_of(kept, task)
            if plugin is not None and modes.needs_worker(plugin) and (note is None or _is_over(task, note)):
                worker = modes.worker_going_on(plugin, self._runs.context, kept)
                worker.end(self._adopts(kept, plugin))
            elif note is None or task is not None:
                if not kept.has_ended and not _is_over(task, note):
                    log.warning("process %d works on a task that is not this node's any more; it is stopped", kept.pid)
                self._processes.disown(kept)
            else:
                log.warning(
                    "process %d works on task %s, which the store does not have; it is left alone", kept.pid, note.task
                )
                self._processes.leave_alone(kept)


def was_never_started(
    task: Task, supervisor_ids: Collection[str], told: Collection[tuple[object, str]] = frozenset()
) -> bool:
    """Rule 4, of a task that is Running and left. `told`: the runs of these supervisors, by token and name of the task.

    The claim as it was read is the one that the run was to be started with: where somebody has fenced the task and not
    settled it, the node has stopped its run for that, and the supervisor has forgotten it. And its program has no pid
    (that of a worker process is known before the process has the task).
    """
    token, claim = task.run.get("token"), task.document.get("claim")
    is_as_claimed = isinstance(claim, Mapping) and claim.get("token") == token
    is_told = (token, notes.name_of(task.id)) in told
    has_begun = "pid" in task.run and "worker" not in task.run
    return is_as_claimed and not is_told and not has_begun and task.run.get("supervisor") in supervisor_ids


def _claims(note: Note | None) -> list[tuple[str, str]]:
    """Of the tasks that a process has or had: each token, with the name of its task."""
    return [] if note is None else [(one.token, one.task) for one in (*note.before, note)]


def _running_with(store: Store, node_id: str, claims: Collection[tuple[str, str]]) -> dict[tuple[str, str], TaskId]:
    """The tasks of a node that are Running with one of these claims."""
    which = TaskFilter(node=node_id, statuses=frozenset({int(Status.RUNNING)}))
    found = store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=True)
    of = {(task.token, notes.name_of(task.id)): task.id for task in found if task.token is not None}
    return {claim: task_id for claim, task_id in of.items() if claim in claims}


def _found(
    store: Store, ids: Sequence[TaskId], of_claim: Mapping[tuple[str, str], tuple[KeptRun, Note]]
) -> list[_Found]:
    found = []
    for task_id in ids:
        task = store.get_task(task_id)
        if task is None or task.token is None or task.status != Status.RUNNING:
            continue
        run = of_claim.get((task.token, notes.name_of(task.id)))
        if run is None:
            continue
        document = dict(task.document)
        text_bytes = {stream: _size(document.pop(str(stream), "")) for stream in (Stream.STDOUT, Stream.STDERR)}
        found.append(_Found(*run, replace(task, document=document), text_bytes))
    return found


def _is_over(task: Task | None, note: Note | None) -> bool:
    """Whether the store has the end of this very run."""
    if task is None or note is None:
        return False
    return "ended" in task.run and task.run.get("token") == note.token


def _existing(store: Store, runs: Mapping[KeptRun, Note | None]) -> dict[KeptRun, Task]:
    """The tasks of these, as far as the store has them."""
    ids = {kept: notes.task_id_of(note, store.parse_id) for kept, note in runs.items() if note is not None}
    there: dict[KeptRun, Task] = {}
    for kept, task_id in ids.items():
        if task_id is None:
            continue
        try:
            found = store.find_tasks(TaskFilter(ids=[task_id]), with_output=False, with_parameters=False)
            if (task := next(found, None)) is not None:
                there[kept] = task
        except Exception as error:
            if isinstance(error, StoreUnreachableError):
                raise
            log.debug("a task cannot be looked for: %s", errors.in_words(error))
    return there


def _size(text: object) -> int:
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0


def _in_pieces(ids: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    rest = iter(ids)
    while some := list(itertools.islice(rest, _AT_ONCE)):
        yield some

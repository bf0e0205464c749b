"""The mode that a plugin is run in: asked for here, and nowhere else in a node.

Responsible for: choosing the execution of a run, and saying whether it needs a worker process first. Must not know: how
either works.
"""

from __future__ import annotations

from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import KeptRun, Stream
from disbatch_host.run import notes
from disbatch_host.run.context import RunContext
from disbatch_host.run.events import pending_bytes
from disbatch_host.run.execution import Assignment, Execution
from disbatch_host.run.notes import Note
from disbatch_host.run.oneshot import OneshotExecution
from disbatch_host.run.worker.adopted import Adopt, AdoptedWorker
from disbatch_host.run.worker.execution import WorkerExecution
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.manifest import Mode


def needs_worker(plugin: Plugin) -> bool:
    """Whether a worker process must be ready before a task of this plugin is Running."""
    return plugin.manifest.mode is Mode.WORKER


def execution_of(
    plugin: Plugin,
    assignment: Assignment,
    context: RunContext,
    worker: Worker | None,
) -> Execution:
    """The execution that carries out a run. `worker`: the process that is ready for it, if it needs one."""
    if needs_worker(plugin):
        return WorkerExecution(plugin, context.workers, assignment, worker)
    return OneshotExecution(plugin, context.site, context.processes, assignment)


def execution_going_on(
    plugin: Plugin,
    context: RunContext,
    task: Task,
    note: Note,
    worker: AdoptedWorker | None,
    adopt: Adopt,
    *,
    is_last: bool,
) -> Execution:
    """The execution of a run that an earlier node has started. `note`: its own. `worker`: its process, if its plugin
    needs one; `is_last`: whether that was given no other task after this one. `adopt` gives the process, to be told
    everything from its beginning on."""
    if worker is None:
        return OneshotExecution.going_on(
            plugin, context.site, context.processes, adopt, work_directory=note.work_directory,
            event_bytes=pending_bytes(task.run),
        )  # fmt: skip
    begins_at = dict(zip(Stream, note.at, strict=True))
    return WorkerExecution.going_on(
        plugin, context.workers, worker, adopt, task_id=str(task.id), line_size=note.line_bytes, begins_at=begins_at,
        is_last=is_last,
    )  # fmt: skip


def worker_going_on(plugin: Plugin, context: RunContext, kept: KeptRun, *, number: int = 0) -> AdoptedWorker:
    """A worker process that an earlier node has started."""
    return context.workers.adopt(plugin, number=number, work_directory=notes.work_directory_of(kept.start_note))

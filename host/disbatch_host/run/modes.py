"""The mode that a plugin is run in: asked for here, and nowhere else in a node.

Responsible for: choosing the execution of a run, and saying whether it needs a worker process first. Must not know: how
either works.
"""

from __future__ import annotations

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.interface import ProcessHost
from disbatch_host.run.execution import Assignment, Execution
from disbatch_host.run.oneshot import OneshotExecution
from disbatch_host.run.worker.execution import WorkerExecution
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.manifest import Mode


def needs_worker(plugin: Plugin) -> bool:
    """Whether a worker process must be ready before a task of this plugin is Running."""
    return plugin.manifest.mode is Mode.WORKER


def execution_of(
    plugin: Plugin,
    assignment: Assignment,
    *,
    site: ProgramSite,
    processes: ProcessHost,
    workers: WorkerPool,
    worker: Worker | None,
) -> Execution:
    """The execution that carries out a run. `worker`: the process that is ready for it, if it needs one."""
    if needs_worker(plugin):
        return WorkerExecution(plugin, workers, assignment, worker)
    return OneshotExecution(plugin, site, processes, assignment)

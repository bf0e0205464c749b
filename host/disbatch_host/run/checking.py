"""The check before a claimed task is started: do its parameters fit, has it expired?

Responsible for: what is asked about a task before its start. Must not know: how schemas are checked and what that costs
(`plugin.checking`), stores, processes, what becomes of the task.
"""

from __future__ import annotations

import logging
from datetime import datetime

from disbatch_host import logs
from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.checking import Examined
from disbatch_host.process.interface import StartError

log = logging.getLogger(__name__)


def has_expired(task: Task, now: datetime) -> bool:
    """Whether it may no longer be started."""
    expires = task.document.get("expires")
    return isinstance(expires, datetime) and expires <= now


def examined_at_once(task: Task, plugin: Plugin) -> Examined | None:
    """The same as `examined`, found without waiting; None if it may take long."""
    return plugin.schema.examined_at_once(task.parameters)


async def examined(task: Task, plugin: Plugin) -> Examined:
    """Whether its parameters fit the plugin, and which are secret. Raises StartError if the machine lacks what the
    check needs."""
    try:
        found = await plugin.schema.examined(task.parameters)
    except OSError as error:
        why = f"cannot be given its task: its parameters cannot be checked: {error.strerror}"
        raise StartError(why, errno=error.errno) from error
    if found.took_too_long:
        ids = logs.ids(task=task.id, queue=task.queue, class_name=plugin.name, attempt=task.next_attempt)
        log.error("plugin %s: the parameters of a task %s", plugin.name, found.faults[0].message, extra=ids)
    return found

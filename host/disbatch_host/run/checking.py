"""The check before a claimed task is started: do its parameters fit, has it expired?

Responsible for: the check, and a limit on the CPU time that it may take in the event loop's thread: schemas come with
plugins, and their patterns can take exponential time. Must not know: stores, processes, what becomes of the task.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from types import FrameType

from disbatch_host import logs
from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_protocol.quantities import format_duration

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # of CPU time for a task's parameters: everything else waits meanwhile; 8 MiB take less


def has_expired(task: Task, now: datetime) -> bool:
    """Whether it may no longer be started."""
    expires = task.document.get("expires")
    return isinstance(expires, datetime) and expires <= now


def fits_at_once(task: Task, plugin: Plugin) -> bool:
    """Whether its parameters certainly fit, found without waiting: also False if the check may take long."""
    return not plugin.schema.may_be_slow and not plugin.schema.check(task.parameters)


def parameter_faults(task: Task, plugin: Plugin) -> list[str]:
    """The ways in which its parameters do not fit the plugin, as sentences; empty if they fit."""
    schema = plugin.schema
    try:
        with cpu_limit(CHECK_SECONDS) if schema.may_be_slow else contextlib.nullcontext():
            return [str(fault) for fault in schema.check(task.parameters)]
    except OutOfTimeError:
        ids = logs.ids(task=task.id, queue=task.queue, class_name=plugin.name, attempt=task.next_attempt)
        log.error("plugin %s: its schema takes too long to check the parameters of a task", plugin.name, extra=ids)
        return [
            f"expected a schema that can be checked within {format_duration(CHECK_SECONDS)}, found one that takes "
            "longer: a pattern that tries too many ways, or a list too long to be compared with itself"
        ]


class OutOfTimeError(Exception):
    """The computation took longer than allowed."""


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in the block once this process has used that much CPU time since the block began.

    By a signal, which regular expressions check for as well. Only in the main thread, where signals are handled;
    elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = False

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_over:  # else the signal was on its way when the block ended
            raise OutOfTimeError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

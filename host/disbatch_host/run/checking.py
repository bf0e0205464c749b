"""Whether a claimed task may be started: its parameters fit, and it has not expired.

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

CHECK_SECONDS = 1.0  # of CPU time for a task's parameters: everything else waits; 8 MiB take less


def has_expired(task: Task, now: datetime) -> bool:
    """Whether it must not be started any more."""
    expires = task.document.get("expires")
    return isinstance(expires, datetime) and expires <= now


def fits_at_once(task: Task, plugin: Plugin) -> bool:
    """Whether its parameters certainly fit, found without waiting: False as well where the check may take its time."""
    return not plugin.schema.may_be_slow and not plugin.schema.check(task.parameters)


def parameter_faults(task: Task, plugin: Plugin) -> list[str]:
    """In what its parameters do not fit the plugin, as sentences; empty where they do."""
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
    """The computation took longer than it may."""


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in the block once this process has used so much CPU time since its beginning.

    By a signal, which regular expressions look for as well. Only in the main thread, where signals are handled;
    elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = False

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_over:  # else it was on its way when the block ended
            raise OutOfTimeError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

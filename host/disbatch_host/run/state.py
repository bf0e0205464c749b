"""The state of one run while it goes on: a record that its beginning, its news and its end read.

Responsible for: keeping it together. Must not know: when anything is recorded, how the program is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from disbatch_host import logs
from disbatch_host.documents.changes import RunKey
from disbatch_host.documents.records import KEEP_ATTEMPTS, Document, Task
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import Stream
from disbatch_host.run.events import EventEffects, pending_bytes, without_pending
from disbatch_host.run.output import OutputStream

_NO_TEXT: Mapping[Stream, int] = MappingProxyType({Stream.STDOUT: 0, Stream.STDERR: 0})


class RunState:
    """One attempt at one task."""

    __slots__ = (
        "cancel", "events", "is_pending_refused", "is_pid_written", "keep_attempts", "key", "least_text",
        "pending_bytes", "plugin", "run", "stderr", "stdout", "streams", "task", "written",
    )  # fmt: skip

    def __init__(
        self,
        task: Task,
        plugin: Plugin,
        key: RunKey,
        run: Document,
        *,
        spool_directory: Path,
        written: Mapping[Stream, int] | None = None,
        keep_attempts: int = KEEP_ATTEMPTS,
    ) -> None:
        """`written`: of a run that an earlier node has started, how many bytes of text it has written."""
        self.task = task
        self.keep_attempts = keep_attempts
        self.plugin = plugin
        self.key = key
        self.run = without_pending(run)  # as it is in the document, or is about to
        max_bytes, encoding = plugin.manifest.max_output_bytes, plugin.manifest.encoding
        self.stdout = OutputStream(max_bytes=max_bytes, spool_directory=spool_directory, encoding=encoding.stdout)
        self.stderr = OutputStream(max_bytes=max_bytes, spool_directory=spool_directory, encoding=encoding.stderr)
        self.streams = (Stream.STDOUT, self.stdout), (Stream.STDERR, self.stderr)
        self.written = {Stream.STDOUT: 0, Stream.STDERR: 0}  # versions of the streams' text in the document
        self.least_text = _NO_TEXT if written is None else written  # shorter texts are not written
        self.events = EventEffects(task, began=None if written is None else run.get("started"))
        if written is not None and pending_bytes(run):
            self.events.restore(run["pending"])
        self.is_pid_written = "pid_started" in run
        self.is_pending_refused = False  # by the store
        self.pending_bytes = pending_bytes(run)  # `run.pending` as it was written last
        self.cancel: Mapping[str, Any] | None = None  # who wants it cancelled, when and why

    @property
    def log_ids(self) -> dict[str, Any]:
        """The `extra=` of log calls about it."""
        return logs.ids(
            task=self.task.id,
            queue=self.task.queue,
            class_name=self.plugin.name,
            attempt=self.task.next_attempt,
            pid=self.run.get("pid"),
        )

    def run_with(self, facts: Mapping[str, Any]) -> Document:
        """`run` with more facts; None removes one that was written earlier."""
        run = {**self.run, **facts}
        if None in run.values():
            return {name: value for name, value in run.items() if value is not None}
        return run

    def close(self) -> None:
        """Release the spools. Closing twice is fine."""
        self.stdout.close()
        self.stderr.close()

"""The report of a run, for the node that asked for it. Must not know: how the run came to it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from disbatch_host.documents.records import Document
from disbatch_protocol.outcome import Conclusion, Reason


class RunResult(StrEnum):
    """The result of a run."""

    ENDED = "ended"
    NOT_STARTED = "not_started"  # the program could not be started; the task is back in its queue
    GIVEN_BACK = "given_back"  # nothing was started, since the node is stopping; the task is back in its queue
    WITHDRAWN = "withdrawn"  # nothing was started: the task was cancelled, or it expired; it is Cancelled
    REFUSED = "refused"  # the task is another node's, or deleted; nothing of this run was recorded


class RunReport(NamedTuple):  # made for each task, at a quarter of what a frozen dataclass costs
    """How a run went. `conclusion` is None if nothing was concluded."""

    result: RunResult
    conclusion: Conclusion | None = None
    reason: Reason | None = None  # why it ended
    seconds: float = 0.0  # from its start to its end
    how: str = ""  # it ended: exit code, signal or reason, in short; nothing that the plugin said
    error_code: str | None = None  # `error.code`, if it failed
    error_message: str | None = None  # `error.message`; it may quote secrets of the task
    error_group: str | None = None  # the key of `error.group`
    secrets: tuple[str, ...] = ()  # JSON pointers to these
    left_over: Sequence[Document] = ()  # processes of it that could not be ended, as `run.left_over` has them
    why_not_started: str | None = None
    is_machines_fault: bool = False  # it could not be started for want of descriptors, processes, memory or room
    why_process_lost: str | None = None  # worker mode: its process ended by itself while it had the task
    host_error: Exception | None = None  # what nobody expected; the task was failed for it

    def __repr__(self) -> str:
        return f"RunReport({self.result}, {self.how})"  # without what may quote secrets

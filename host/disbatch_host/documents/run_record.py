"""The fields of a task document that describe its runs: `run`, `attempts` and `error` (schemas/task.json). Pure.

Responsible for: the entry of an attempt that has ended, and the error of a run whose plugin named none. Must not know:
processes, stores, the event loop.

Rules:
1. `run` describes the current or the last attempt in full; `attempts` every earlier one in short.
2. A finished task tells any reader what ran, how it ended and why, without this program: `reason` is a closed list,
   `error.message` is a sentence or a line of the plugin's own.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from disbatch_host.documents.records import Document, Task
from disbatch_host.documents.requests import cancelled_in_words
from disbatch_protocol.last_words import meaningful_line
from disbatch_protocol.manifest import Manifest
from disbatch_protocol.outcome import Reason, RunEnd, Said, is_failure_by_itself
from disbatch_protocol.quantities import format_duration, format_size

ATTEMPTS_MAX = 50  # earlier attempts that a document keeps; the oldest are dropped first
MEMORY_LIMIT = "memory_limit"  # `error.code`
STDERR_LINES = 20  # the end of a failed run's stderr that becomes its error's detail
STDERR_BYTES = 4096  # also of the one line that becomes its message
SEARCHED_LINES, SEARCHED_BYTES = 200, 16 * 1024  # the end of stderr in which that line is looked for
_EARLY_SECONDS, _LATE_SECONDS = 0.01, 0.25  # that a timer may be off on a busy machine

_FROM_RUN_TO_ATTEMPT = (
    "attempt", "attempt_used", "node", "started", "ended", "seconds", "reason", "outcome", "exit_code", "signal",
    "cancelled", "token", "output",
)  # fmt: skip


def attempts_with(task: Task, run: Mapping[str, Any], error: Mapping[str, Any] | None, status: int) -> list[Any]:
    """`attempts`, with the run that just ended added."""
    entry = {name: run[name] for name in _FROM_RUN_TO_ATTEMPT if name in run}
    entry["status"] = status
    if "pid" in run:  # a run that was lost may have said something, and tells no more of it
        entry.setdefault("output", {})
    if error is not None:
        entry["error"] = {name: error[name] for name in ("code", "message", "group") if name in error}
    return [*task.attempts, entry][-ATTEMPTS_MAX:]


def is_among_attempts(task: Task) -> bool:
    """Whether `attempts` has the last run already: it went back to the queue, and no other began."""
    last = task.attempts[-1] if task.attempts else None
    token = task.run.get("token")
    return token is not None and isinstance(last, Mapping) and last.get("token") == token


def error_of(
    end: RunEnd,
    *,
    manifest: Manifest,
    line: str,
    stderr: str,
    killed_after_seconds: float | None,
    said: Said,
    fault: str | None = None,
    is_over_memory: bool = False,
    cancel: Mapping[str, Any] | None = None,
) -> Document:
    """The `error` of a run whose plugin did not say why: made from how the run ended, the `line` of its stderr that
    says why (`why_of`), and its last lines. `said` is the plugin's word that turned an otherwise successful end into a
    failure, `fault` what the host has to say beyond exit code and signal, `is_over_memory` that the kernel ended it for
    want of memory below its limit, `cancel` the request to cancel it."""
    killed = _killed_in_words(killed_after_seconds, manifest.kill_grace_seconds)
    timeout, idle = (format_duration(limit or 0) for limit in (manifest.timeout_seconds, manifest.idle_timeout_seconds))
    sentences = {
        Reason.TIMEOUT: f"it ran longer than its timeout of {timeout}{killed}",
        Reason.IDLE_TIMEOUT: f"it was silent for longer than its idle_timeout of {idle}{killed}",
        Reason.SHUTDOWN: f"its node stopped while it ran{killed}",
        Reason.CANCELLED: f"{cancelled_in_words(cancel or {})}{killed}",
        Reason.LOST: f"its task was no longer this node's{killed}",
    }
    if end.reason in sentences:
        error = {"code": str(end.reason), "message": f"disbatch-host: {sentences[end.reason]}"}
    elif is_over_memory:
        limit = format_size(manifest.limits.memory_bytes or 0)
        sentence = f"its processes used more than limits.memory ({limit}), and the kernel ended them"
        error = {"code": MEMORY_LIMIT, "message": f"disbatch-host: {sentence}"}
    elif fault is not None:
        error = {"code": str(end.reason), "message": f"disbatch-host: {fault}"}
    elif end.signal is not None:
        name = signal_name(end.signal)
        hint = " (out of memory?)" if end.signal == signal.SIGKILL else ""
        error = {"code": f"signal_{name}", "message": f"disbatch-host: it was ended by signal {name}{hint}"}
    else:
        code, sentence = f"exit_{end.exit_code}", f"it ended with exit code {end.exit_code} and nothing on stderr"
        if not is_failure_by_itself(end, manifest):
            if said.error:
                code, sentence = "error", "the plugin reported an error without saying which, and nothing on stderr"
            elif said.status is not None:
                code, sentence = f"status_{said.status}", f"the plugin reported status {said.status}"
        error = {"code": code, "message": line or f"disbatch-host: {sentence}"}
        if stderr == line:
            return error
    if stderr:
        error["detail"] = stderr
    return error


def why_of(stderr: str) -> str:
    """The line of the end of stderr that says why, from its beginning on, STDERR_BYTES at most."""
    line = meaningful_line(stderr)
    return line if len(line) <= STDERR_BYTES // 4 else line.encode()[:STDERR_BYTES].decode(errors="ignore").rstrip()


def _killed_in_words(after_seconds: float | None, grace_seconds: float) -> str:
    """The rest of a sentence about a run that was stopped. Not every kill comes at the end of the grace: a person may
    have forced it, or the node may have stood still."""
    if after_seconds is None:
        return ""
    if after_seconds == 0:
        return ", and killed without being asked to stop first"
    grace = format_duration(grace_seconds)
    if -_EARLY_SECONDS <= after_seconds - grace_seconds < _LATE_SECONDS:
        return f", and killed {grace} after it was asked to stop"
    killed = f", and killed {format_duration(max(round(after_seconds, 1), 0.1))} after it was asked to stop"
    return killed if after_seconds > grace_seconds else f"{killed}, before its kill_grace of {grace} was over"


def signal_name(number: int) -> str:
    """`KILL` for 9; real-time signals by number."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)

"""The findings of trials: their verdicts, and the sentences that say what was expected and what was found.

Responsible for: carrying out one trial and turning its result into a finding. Must not know: which trials there
are.

Rules:
1. A trial is a real run: same start, limits, events and outcome as on a node.
2. No trial waits forever: a run without a time limit of its own is stopped after RUN_SECONDS.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError
from disbatch_host.trial.local_host import LocalHost, LocalResult
from disbatch_protocol.outcome import Reason
from disbatch_protocol.quantities import format_duration

RUN_SECONDS = 60.0  # for a run whose plugin has no timeout of its own


class Verdict(StrEnum):
    """The verdict of a trial."""

    PASSED = "passed"
    FAILED = "failed"
    HINT = "hint"  # worth a look, not a failure
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one trial."""

    trial: str  # short name, unique within a plugin
    verdict: Verdict
    message: str = ""  # what was expected, what was found, what to do; empty if it passed
    seconds: float = 0.0
    output: str = field(default="", repr=False)  # the end of the run's output, if it failed


class TrialFailed(Exception):
    """The message of a finding that is a failure."""

    def __init__(self, message: str, result: LocalResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class TrialSkipped(Exception):
    """The reason why a trial could not be made."""


class TrialRunner:
    """Carries out trials of one plugin on a host of their own."""

    def __init__(self, plugin: Plugin, host: LocalHost, on_begin: Callable[[str], object] = lambda trial: None) -> None:
        """`on_begin` gets the name of each trial before it is made: one may take a minute."""
        self.plugin = plugin
        self.host = host
        self._on_begin = on_begin

    async def finding(self, name: str, trial: Callable[[], Awaitable[str | None]]) -> Finding:
        """Carry out one trial. It returns a hint or None, and raises TrialFailed, TrialSkipped or StartError."""
        self._on_begin(name)
        begun = time.monotonic()
        verdict, message, output = Verdict.PASSED, "", ""
        try:
            hint = await trial()
            if hint is not None:
                verdict, message = Verdict.HINT, hint
        except TrialSkipped as reason:
            verdict, message = Verdict.SKIPPED, str(reason)
        except StartError as error:
            verdict, message = Verdict.FAILED, f"the program {error}"
        except TrialFailed as failure:
            verdict, message = Verdict.FAILED, f"{failure}{_own_words(failure.result)}"
            output = last_words(failure.result)
        faults = self.host.take_faults()
        if faults:
            earlier = f"{message}; " if verdict is Verdict.FAILED else ""
            verdict, message = Verdict.FAILED, earlier + of_faults(faults)
        seconds = round(time.monotonic() - begun, 3)
        return Finding(trial=name, verdict=verdict, message=message, seconds=seconds, output=output)

    async def run(self, parameters: Any, *, limit_seconds: float | None = None, **more: Any) -> LocalResult:
        """See `LocalHost.run`; never without a time limit."""
        limit = limit_seconds or (None if self.plugin.manifest.timeout_seconds is not None else RUN_SECONDS)
        return await self.host.run(self.plugin, parameters, limit_seconds=limit, **more)


def check_ended(result: LocalResult, *, limit_seconds: float = RUN_SECONDS) -> None:
    """Raises TrialFailed if it did not end by itself."""
    run = result.run
    if result.was_over_time:
        raise TrialFailed(f"expected it to end within {format_duration(limit_seconds)}, found it still running", result)
    if run.get("reason") in (Reason.TIMEOUT, Reason.IDLE_TIMEOUT):
        raise TrialFailed(f"expected it to end in time, found its {run['reason']} reached", result)
    if run.get("reason") in (Reason.START_FAILED, Reason.PARAMETERS):
        raise TrialFailed(_error_message(result), result)
    if run.get("reason") == Reason.WORKER_EXITED and "killed" in run:  # the host did that, and said why
        raise TrialFailed(_error_message(result), result)


def of_faults(faults: Sequence[str]) -> str:
    """Worker processes had to be replaced while they had no task."""
    return f"its process had to be replaced when its task was done: {faults[0]}"


def json_of(value: Any) -> str:
    """A value as it would be written in the manifest."""
    return json.dumps(value, ensure_ascii=False, default=str)


def of_event_errors(errors: Mapping[str, Any]) -> str:
    """`run.event_errors` as a sentence."""
    first: Sequence[Mapping[str, Any]] = errors["first"]
    line = f" ({json_of(first[0]['line']):.80})" if "line" in first[0] else ""
    return f"{errors['count']} lines on descriptor 3 are not events; the first: {first[0]['message']}{line}"


def end_of(result: LocalResult) -> str:
    """How it ended, to follow "it": two runs that ended alike have the same words."""
    run = result.run
    if "signal" in run:
        return f"was ended by signal {run['signal']}"
    code = f"ended with exit code {run['exit_code']}" if "exit_code" in run else f"ended: {run.get('reason')}"
    return code if result.succeeded else f"{code}, status {result.document['status']}"


def _own_words(result: LocalResult | None) -> str:
    """The task's error, as `exec` shows it: it says more than the exit code. Nothing if that is the end of stderr,
    which is shown anyway, or the host's own words."""
    error = None if result is None else result.document.get("error")
    if result is None or result.succeeded or not isinstance(error, Mapping):
        return ""
    message = str(error.get("message", "")).strip()
    is_known = message.startswith("disbatch-host: ") or message in result.output["stderr"].decode("utf-8", "replace")
    if not message or is_known:
        return ""
    return f"; its error: {error.get('code')}: {message.splitlines()[0]}"


def last_words(result: LocalResult | None) -> str:
    """The beginning and the end of its output."""
    if result is None:
        return ""
    return "\n".join(
        f"{stream}: {shortened(result.output[stream])}" for stream in ("stdout", "stderr") if result.output[stream]
    )


def shortened(data: bytes) -> str:
    """Some output, without its middle if it is long: the reason may be first (a panic in Go) or last (a traceback)."""
    if len(data) <= 2 * _SHOWN_BYTES:
        return data.decode("utf-8", "replace").rstrip() or "nothing"
    first, last = (one.decode("utf-8", "replace") for one in (data[:_SHOWN_BYTES], data[-_SHOWN_BYTES:]))
    return f"{first.rstrip()}\n…\n{last.strip()}"


_SHOWN_BYTES = 400  # of the beginning, and of the end


def _error_message(result: LocalResult) -> str:
    return str(result.document["error"]["message"]).removeprefix("disbatch-host: ")

"""Trying a plugin: its examples through the very run of a node, and what production will do to it.

Responsible for: which trials there are, how each is carried out, what counts as failed and what is only a hint. Must
not know: the command line, manifests as text (`plugins` has read them).

Rules:
1. A trial is a real run: same start, limits, events and outcome as on a node.
2. What a plugin may do is no failure. A trial fails where tasks would hang, be lost, differ by chance, or where the
   plugin does not keep what the protocol says; all else is a hint.
3. No trial waits for ever: a run that has no time limit of its own is stopped after RUN_SECONDS.
4. Nothing is left behind, also where the trials are interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import ProcessEnd, StartError, StopReason, Stream
from disbatch_host.process.spawn import close_others_on_exec
from disbatch_host.trial.local_host import LocalHost, LocalResult
from disbatch_protocol import status as statuses
from disbatch_protocol.manifest import Example, Mode
from disbatch_protocol.outcome import Reason
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

RUN_SECONDS = 60.0  # for a run whose plugin has no timeout of its own
CLOSED_STDIN_SECONDS = 10.0  # for a program that gets no task at all to see that and leave
LARGE = 2**20  # bytes of parameters
LONG_LINE = 300 * 1024  # characters: more than any line buffer that anybody has
BUFFERING_SECONDS = 1.0  # a shorter run says nothing of buffering
BUFFERING_AT_END_SECONDS = 0.1
STOP_AFTER_SECONDS = 0.3  # for a program to have begun
STOP_LATER_SECONDS = 1.0  # for one to have begun that starts slowly
# What makes text handling go wrong: beyond the basic plane, right to left, controls, what looks like JSON or an option.
ODD_TEXT = "-\u00fc\u4e2d\U0001f600\u202e\u0007\x1b[31m\t\"'\\{}$(:)&;%s\u2028\ufffd"


class Verdict(StrEnum):
    """What came of a trial."""

    PASSED = "passed"
    FAILED = "failed"
    HINT = "hint"  # worth a look, no failure
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one trial."""

    trial: str  # short name, unique within a plugin
    verdict: Verdict
    message: str = ""  # what was expected, what was found, what to do; empty where it passed
    seconds: float = 0.0
    output: str = field(default="", repr=False)  # the end of what the run wrote, where it failed


def run_examples(plugin: Plugin) -> list[Finding]:
    """Each example of the manifest, against what it says. Interrupted by a signal, it stops what runs and raises
    SystemExit; so does `torture`."""
    return _perform(plugin, _Trials.examples)


def torture(plugin: Plugin) -> list[Finding]:
    """What production will do to it."""
    return _perform(plugin, _Trials.torments)


def _perform(plugin: Plugin, which: Callable[[_Trials], AsyncIterator[Finding]]) -> list[Finding]:
    close_others_on_exec()

    async def perform() -> tuple[list[Finding], int | None]:
        host = LocalHost()
        findings = []
        async with host.interruptible():
            async for finding in which(_Trials(plugin, host)):
                if host.interrupted_by is not None:
                    break
                findings.append(finding)
        late = host.take_faults()  # heard only when the process was at its end
        if late:
            findings.append(Finding(trial="between tasks", verdict=Verdict.FAILED, message=_of_faults(late)))
        return findings, host.interrupted_by

    findings, interrupted_by = asyncio.run(perform())
    if interrupted_by is not None:
        raise SystemExit(128 + interrupted_by)  # as a shell says it of a program that a signal has ended
    return findings


class _TrialFailed(Exception):
    """The message of a finding that is a failure."""

    def __init__(self, message: str, result: LocalResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class _TrialSkipped(Exception):
    """Why a trial could not be made."""


class _Trials:
    def __init__(self, plugin: Plugin, host: LocalHost) -> None:
        self._plugin = plugin
        self._manifest = plugin.manifest
        self._host = host
        self._baseline: LocalResult | None = None

    # --- level 2

    async def examples(self) -> AsyncIterator[Finding]:
        if not self._manifest.examples:
            message = 'there is nothing to try; add examples to the manifest: [{"name": …, "parameters": {…}}]'
            yield Finding(trial="examples", verdict=Verdict.HINT, message=message)
        numbers: dict[str, int] = {}
        for example in self._manifest.examples:
            numbers[example.name] = number = numbers.get(example.name, 0) + 1
            name = f"example {example.name}" if number == 1 else f"example {example.name} ({number})"
            yield await self._finding(name, functools.partial(self._example, example))

    async def _example(self, example: Example) -> str | None:
        result = await self._run(example.parameters, limit_seconds=example.timeout_seconds)
        _check_ended(result, limit_seconds=example.timeout_seconds or RUN_SECONDS)
        differences = list(_differences(example, result))
        if differences:
            raise _TrialFailed("; ".join(differences), result)
        return None

    # --- level 3

    async def torments(self) -> AsyncIterator[Finding]:
        parameters = self._base_parameters()
        if parameters is None:
            message = "needs parameters to begin with; add an example to the manifest"
            yield Finding(trial="torture", verdict=Verdict.SKIPPED, message=message)
            return
        trials: list[tuple[str, Callable[[], Awaitable[str | None]]]] = [
            ("ends by itself", lambda: self._ends(parameters)),
            ("1 MiB of parameters", lambda: self._large(parameters)),
            ("odd text and long lines", lambda: self._odd(parameters)),
            ("two at once", lambda: self._two_at_once(parameters)),
            ("closed stdin", self._closed_stdin),
            ("stops when asked to", lambda: self._stops(parameters)),
        ]
        if self._manifest.mode is Mode.WORKER:
            trials += [
                ("two tasks in a row", lambda: self._two_in_a_row(parameters)),
                ("a crash and the next task", lambda: self._crash(parameters)),
                ("leaves at end of file", lambda: self._leaves(parameters)),
            ]
        for name, trial in trials:
            finding = await self._finding(name, trial)
            yield finding
            if self._baseline is None:  # all others are held against the first one
                return

    async def _ends(self, parameters: Any) -> str | None:
        arrivals: list[float] = []
        begun = time.monotonic()
        result = await self._run(parameters, listener=lambda stream, _: _note_arrival(stream, arrivals))
        _check_ended(result)
        self._baseline = result
        ended = time.monotonic()
        is_long = ended - begun > BUFFERING_SECONDS
        if is_long and arrivals and ended - arrivals[0] < BUFFERING_AT_END_SECONDS:
            return (
                f"all of its output came in the last moment of {ended - begun:.1f} s; if it printed earlier, its "
                "language holds output back: flush after each line, or nobody can follow it"
            )
        return None

    async def _large(self, parameters: Any) -> str | None:
        more: dict[str, Any] = {}
        large = {**parameters, "disbatch_padding": "x" * LARGE}
        if self._plugin.schema.check(large):  # its schema allows no further parameter
            large, more = parameters, {"disbatch_padding": "x" * LARGE}
        result = await self._run(large, **more)
        _check_ended(result)
        self._check_like_baseline(result, "with 1 MiB more in its task")
        return None

    async def _odd(self, parameters: Any) -> str | None:
        for what, text in (("odd text", ODD_TEXT), ("a line of 300 KiB", "x" * LONG_LINE)):
            odd = self._with_text(parameters, text)
            if odd is None:
                raise _TrialSkipped("none of its parameters takes any text")
            result = await self._run(odd)
            _check_ended(result)
            if result.run.get("reason") in (Reason.SIGNALED, Reason.WORKER_EXITED):
                raise _TrialFailed(f"with {what} in its parameters it {_end_of(result)}", result)
            errors = result.run.get("event_errors")
            if errors is not None:
                raise _TrialFailed(f"with {what} in its parameters: {_of_event_errors(errors)}", result)
            for name in ("UnicodeEncodeError", "UnicodeDecodeError", "Wide character"):
                if name.encode() in result.output["stderr"]:
                    raise _TrialFailed(
                        f"with {what} in its parameters it stumbled over text ({name} on stderr); the task is UTF-8, "
                        "and LANG may be C: set the encoding of stdin and stdout in the program", result,
                    )  # fmt: skip
        return None

    async def _two_at_once(self, parameters: Any) -> str | None:
        if self._manifest.concurrency == 1:
            raise _TrialSkipped('"concurrency" is 1')
        for result in await asyncio.gather(self._run(parameters), self._run(parameters)):
            _check_ended(result)
            self._check_like_baseline(
                result, "with another one beside it", 'if they cannot run at once, write "concurrency": 1'
            )
        return None

    async def _closed_stdin(self) -> str | None:
        process = _Process(self._plugin, self._host)
        await process.start()
        process.child.write(b"", close=True)
        if not await process.wait(CLOSED_STDIN_SECONDS):
            process.child.kill(StopReason.CANCELLED)
            await process.wait(None)
            raise _TrialFailed(
                f"expected it to end when its stdin is at its end, found it still there after "
                f"{format_duration(CLOSED_STDIN_SECONDS)}; a read that gives nothing must end the program"
            )
        return None

    async def _stops(self, parameters: Any) -> str | None:
        """Stopped while it works, and while it waits for its task: a program that has only begun to start does not
        catch signals yet, and says nothing of what it will do."""
        assert self._baseline is not None
        seconds = float(self._baseline.run.get("seconds", 0.0))
        was_stopped = False
        if seconds > 2 * STOP_AFTER_SECONDS:
            was_stopped |= await self._stopped_at_work(parameters, latest=seconds / 2, later=0.0)
        if seconds > 2 * STOP_LATER_SECONDS:
            was_stopped |= await self._stopped_at_work(parameters, latest=seconds * 3 / 4, later=STOP_LATER_SECONDS)
        # By then it has started, as far as that is known: its whole run took no longer.
        was_stopped |= await self._stopped_waiting(min(seconds, STOP_LATER_SECONDS) + STOP_AFTER_SECONDS)
        was_stopped |= await self._stopped_waiting(min(seconds, STOP_LATER_SECONDS) + STOP_LATER_SECONDS)
        if not was_stopped:
            raise _TrialSkipped("it ends before it can be stopped")
        return None

    async def _stopped_at_work(self, parameters: Any, *, latest: float, later: float) -> bool:
        """Whether it could be stopped `later` seconds after its first sign of life, or `latest` after its start."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(latest, self._host.stop)
        has_said_something = False

        def receive(stream: Stream, data: bytes) -> None:
            nonlocal timer, has_said_something
            if not has_said_something:
                has_said_something = True
                timer.cancel()
                timer = loop.call_later(later, self._host.stop)

        result = await self._run(parameters, listener=receive)
        timer.cancel()
        self._check_not_killed(bool(result.run.get("killed")), "while it worked")
        return result.run.get("reason") == Reason.CANCELLED

    async def _stopped_waiting(self, seconds: float) -> bool:
        """Whether it could be stopped so long after its start, with nothing to read."""
        process = _Process(self._plugin, self._host)
        await process.start()
        if await process.wait(seconds):
            return False
        process.child.stop(StopReason.CANCELLED)
        end = await process.wait(None)
        assert end is not None
        self._check_not_killed(end.killed, "while it waited for its task")
        return True

    def _check_not_killed(self, was_killed: bool, when: str) -> None:
        if was_killed:
            name, grace = self._manifest.stop_signal.name, self._manifest.kill_grace_seconds
            raise _TrialFailed(
                f"expected it to end within kill_grace ({format_duration(grace)}) of {name} {when}, found that it had "
                'to be killed; end on that signal, or name another one as "stop_signal"'
            )

    async def _two_in_a_row(self, parameters: Any) -> str | None:
        first = await self._run(parameters)
        second = await self._run(parameters)
        for result in (first, second):
            _check_ended(result)
            self._check_like_baseline(result, "as one of two tasks in a row")
        if first.run["pid"] != second.run["pid"] and self._manifest.worker.max_tasks > 1:
            return "each task got a new process; a worker takes its next task when it has said done"
        return None

    async def _crash(self, parameters: Any) -> str | None:
        """Killed with a task in its hands, as the kernel does it when memory runs out; the next process must start."""
        worker = await self._host.workers.acquire(self._plugin)
        worker.kill(StopReason.CANCELLED)
        await worker.gone
        result = await self._run(parameters)
        _check_ended(result)
        self._check_like_baseline(result, "after the process before it was killed", "does it leave a lock behind?")
        return None

    async def _leaves(self, parameters: Any) -> str | None:
        await self._run(parameters)
        worker = await self._host.workers.acquire(self._plugin)
        begun = time.monotonic()
        worker.retire()
        await worker.gone
        grace = self._manifest.kill_grace_seconds
        if time.monotonic() - begun >= grace:
            raise _TrialFailed(
                f"expected it to end within kill_grace ({format_duration(grace)}) of the end of its stdin, found that "
                "it had to be stopped; leave the loop when a read gives nothing"
            )
        if worker.exit_code != 0:
            raise _TrialFailed(
                f"expected exit code 0 at the end of its stdin, found {worker.exit_code}; that is its orderly end"
            )
        return None

    # --- what they share

    async def _finding(self, name: str, trial: Callable[[], Awaitable[str | None]]) -> Finding:
        begun = time.monotonic()
        verdict, message, output = Verdict.PASSED, "", ""
        try:
            hint = await trial()
            if hint is not None:
                verdict, message = Verdict.HINT, hint
        except _TrialSkipped as reason:
            verdict, message = Verdict.SKIPPED, str(reason)
        except StartError as error:
            verdict, message = Verdict.FAILED, f"the program {error}"
        except _TrialFailed as failure:
            verdict, message = Verdict.FAILED, str(failure)
            output = _last_words(failure.result)
        faults = self._host.take_faults()
        if faults:
            earlier = f"{message}; " if verdict is Verdict.FAILED else ""
            verdict, message = Verdict.FAILED, earlier + _of_faults(faults)
        seconds = round(time.monotonic() - begun, 3)
        return Finding(trial=name, verdict=verdict, message=message, seconds=seconds, output=output)

    async def _run(self, parameters: Any, *, limit_seconds: float | None = None, **more: Any) -> LocalResult:
        limit = limit_seconds or (None if self._manifest.timeout_seconds is not None else RUN_SECONDS)
        return await self._host.run(self._plugin, parameters, limit_seconds=limit, **more)

    def _base_parameters(self) -> dict[str, Any] | None:
        """Of the first example that is to succeed, else of the first one, else none at all where that fits."""
        examples = self._manifest.examples
        good = [one for one in examples if one.exit_code in (None, 0) and one.status in (None, Status.CONCLUDED)]
        for example in (*good, *examples):
            if isinstance(example.parameters, dict):
                return dict(example.parameters)
        return {} if not self._plugin.schema.check({}) else None

    def _with_text(self, parameters: Mapping[str, Any], text: str) -> dict[str, Any] | None:
        """With this text in every parameter that takes it; None where none does."""
        odd = dict(parameters)
        for name, value in parameters.items():
            if isinstance(value, str) and not self._plugin.schema.check({**odd, name: text}):
                odd[name] = text
        return odd if odd != parameters else None

    def _check_like_baseline(self, result: LocalResult, when: str, hint: str = "") -> None:
        assert self._baseline is not None
        expected, found = _end_of(self._baseline), _end_of(result)
        if expected != found:
            more = f"; {hint}" if hint else ""
            raise _TrialFailed(f"expected the same end {when} ({expected}), found that it {found}{more}", result)


class _Process:
    """The plugin's program alone, without a task."""

    def __init__(self, plugin: Plugin, host: LocalHost) -> None:
        self._ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()
        variables = {}
        if plugin.manifest.mode is Mode.ONESHOT:
            variables = environment.task_environment(task_id="0" * 24, queue="check", attempt=1, deadline=None)
        self._launch = program.prepare(plugin, host.site, name="check", variables=variables)
        self.child = host.site.child(
            self._launch.command,
            program.deadlines(plugin.manifest, with_time_limits=False),
            receive=lambda stream, data: None,
            ended=self._ended.set_result,
        )

    async def start(self) -> None:
        await self.child.start()

    async def wait(self, seconds: float | None) -> ProcessEnd | None:
        """How it ended; None where it did not in time."""
        await asyncio.wait([self._ended], timeout=seconds)
        if not self._ended.done():
            return None
        self._launch.remove_work_directory()
        return self._ended.result()


def _note_arrival(stream: Stream, arrivals: list[float]) -> None:
    if stream is Stream.STDOUT:
        arrivals.append(time.monotonic())


def _check_ended(result: LocalResult, *, limit_seconds: float = RUN_SECONDS) -> None:
    """Raises where it did not come to an end by itself."""
    run = result.run
    if result.was_over_time:
        raise _TrialFailed(
            f"expected it to end within {format_duration(limit_seconds)}, found it still running", result
        )
    if run.get("reason") in (Reason.TIMEOUT, Reason.IDLE_TIMEOUT):
        raise _TrialFailed(f"expected it to end in time, found its {run['reason']} reached", result)
    if run.get("reason") in (Reason.START_FAILED, Reason.PARAMETERS):
        raise _TrialFailed(_why(result), result)
    if run.get("reason") == Reason.WORKER_EXITED and "killed" in run:  # the host did that, and said why
        raise _TrialFailed(_why(result), result)


def _why(result: LocalResult) -> str:
    return str(result.document["error"]["message"]).removeprefix("disbatch-host: ")


def _of_faults(faults: Sequence[str]) -> str:
    return f"its process had to be replaced when its task was done: {faults[0]}"


def _differences(example: Example, result: LocalResult) -> list[str]:
    """What is not as the example says."""
    run, found = result.run, []
    status = int(result.document["status"])
    if example.exit_code is not None and run.get("exit_code") != example.exit_code:
        found.append(f"expected exit code {example.exit_code}, found that it {_end_of(result)}")
    wanted = example.status if example.status is not None else None if example.exit_code is not None else 1
    if wanted is not None and status != wanted:
        found.append(f"expected status {wanted} ({statuses.name(wanted)}), found {status} ({statuses.name(status)}): "
                     f"it {_end_of(result)}")  # fmt: skip
    for stream in ("stdout", "stderr"):
        text = getattr(example, f"{stream}_contains")
        if text is not None and text not in result.output[stream].decode("utf-8", "replace"):
            found.append(f"expected {_json(text)} in {stream}, found {_shortened(result.output[stream])}")
    if example.has_result and result.document.get("result") != example.result:
        came = _json(result.document["result"]) if "result" in result.document else "none"
        found.append(f"expected the result {_json(example.result)}, found {came:.200}")
    if "event_errors" in run:
        found.append(_of_event_errors(run["event_errors"]))
    return found


def _json(value: Any) -> str:
    """As it would stand in the manifest."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _of_event_errors(errors: Mapping[str, Any]) -> str:
    first: Sequence[Mapping[str, Any]] = errors["first"]
    line = f" ({_json(first[0]['line']):.80})" if "line" in first[0] else ""
    return f"{errors['count']} lines on descriptor 3 are no events, the first: {first[0]['message']}{line}"


def _end_of(result: LocalResult) -> str:
    run = result.run
    if "signal" in run:
        return f"was ended by signal {run['signal']}"
    code = f"ended with exit code {run['exit_code']}" if "exit_code" in run else f"ended: {run.get('reason')}"
    return code if result.succeeded else f"{code}, status {result.document['status']}"


def _last_words(result: LocalResult | None) -> str:
    if result is None:
        return ""
    return "\n".join(
        f"{stream}: {_shortened(result.output[stream])}" for stream in ("stdout", "stderr") if result.output[stream]
    )


def _shortened(data: bytes) -> str:
    text = data[-400:].decode("utf-8", "replace").rstrip()
    return f"…{text}" if len(data) > 400 else text or "nothing"

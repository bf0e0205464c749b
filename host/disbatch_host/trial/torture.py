"""The torture of a plugin: everything that production will do to it, done beforehand.

Responsible for: the torments, how each is carried out, and whether its result is a failure or only a hint. Must not
know: the command line, manifests as text (`plugin.catalog` has read them).

Anything that a plugin is allowed to do is not a failure. A trial fails if tasks would hang, be lost or differ by
chance, or if the plugin breaks the protocol; everything else is a hint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from disbatch_host.documents import run_processes
from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import Process, ProcessEnd, Start, StopReason, Stream
from disbatch_host.run import modes
from disbatch_host.trial.findings import (
    Finding,
    TrialFailed,
    TrialRunner,
    TrialSkipped,
    Verdict,
    check_ended,
    end_of,
    of_event_errors,
)
from disbatch_host.trial.local_host import LocalHost, LocalResult
from disbatch_protocol.manifest import StdinKind
from disbatch_protocol.outcome import Reason
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

CLOSED_STDIN_SECONDS = 10.0  # for a program to see that it gets no task at all, and to exit
LARGE = 2**20  # bytes of parameters
LONG_LINE = 300 * 1024  # characters: more than any line buffer that anybody has
LONG_WORD = 100 * 1024  # characters: nearly as much as the system takes of one word
BUFFERING_SECONDS = 1.0  # a shorter run says nothing of buffering
BUFFERING_AT_END_SHARE = 0.2  # all output within the last fifth of a run: a program also needs time to end
STOP_AFTER_SECONDS = 0.3  # for a program to have begun
STOP_LATER_SECONDS = 1.0  # for one to have begun that starts slowly
# Text that breaks careless handling: beyond the basic plane, right to left, controls, text like JSON or an option.
ODD_TEXT = "-\u00fc\u4e2d\U0001f600\u202e\u0007\x1b[31m\t\"'\\{}$(:)&;%s\u2028\ufffd"


class Torture:
    """The torments of one plugin; all are compared with the first one."""

    def __init__(self, runner: TrialRunner, *, closed_stdin_seconds: float) -> None:
        self._runner = runner
        self._closed_stdin_seconds = closed_stdin_seconds
        self._plugin = runner.plugin
        self._manifest = runner.plugin.manifest
        self._host = runner.host
        self._baseline: LocalResult | None = None

    async def torments(self) -> AsyncIterator[Finding]:
        parameters = self._base_parameters()
        if parameters is None:
            message = "needs parameters to start from; add an example to the manifest"
            yield Finding(trial="torture", verdict=Verdict.SKIPPED, message=message)
            return
        trials: list[tuple[str, Callable[[], Awaitable[str | None]]]] = [
            ("ends by itself", lambda: self._ends(parameters)),
            ("1 MiB of parameters", lambda: self._large(parameters)),
            ("odd text and long lines", lambda: self._odd(parameters)),
            ("two at once", lambda: self._two_at_once(parameters)),
            ("closed stdin", lambda: self._closed_stdin(parameters)),
            ("stops when asked to", lambda: self._stops(parameters)),
        ]
        if modes.needs_worker(self._plugin):
            trials += [
                ("two tasks in a row", lambda: self._two_in_a_row(parameters)),
                ("a crash and the next task", lambda: self._crash(parameters)),
                ("leaves at end of file", lambda: self._leaves(parameters)),
            ]
        for name, trial in trials:
            finding = await self._runner.finding(name, trial)
            yield finding
            if self._baseline is None:  # all others are compared with the first one
                return

    async def _ends(self, parameters: Any) -> str | None:
        seconds = await self._silent_until_its_end(parameters)
        assert self._baseline is not None
        hints = []
        left = run_processes.processes_in_words(self._baseline.run, "ended_with_it")
        if left is not None:
            hints.append(
                f"what it had started was still there when it had ended, and was ended with it ({left}): let it wait "
                'for that or, if that is to go on, write "leave_running": true, with "protocol": 2'
            )
        # A machine that was busy at the first run makes no hint.
        if seconds is not None and await self._silent_until_its_end(parameters) is not None:
            hints.append(
                f"all of its output came at the end of its {seconds:.1f} s; if it printed earlier, its "
                "language buffers its output: flush after each line, or nobody can follow it"
            )
        return "; ".join(hints) or None

    async def _silent_until_its_end(self, parameters: Any) -> float | None:
        """How long a run took if it was long and all of its output came at its end. The first run is the baseline."""
        arrivals: list[float] = []
        begun = time.monotonic()
        result = await self._runner.run(parameters, listener=lambda stream, _: _record_arrival(stream, arrivals))
        ended = time.monotonic()
        check_ended(result)
        _check_nothing_left_over(result)
        if self._baseline is None:
            self._baseline = result
        seconds = ended - begun
        is_late = bool(arrivals) and ended - arrivals[0] < seconds * BUFFERING_AT_END_SHARE
        return seconds if is_late and seconds > BUFFERING_SECONDS else None

    async def _large(self, parameters: Any) -> str | None:
        more: dict[str, Any] = {}
        large = {**parameters, "disbatch_padding": "x" * LARGE}
        if self._plugin.schema.check(large):  # its schema allows no further parameter
            large, more = parameters, {"disbatch_padding": "x" * LARGE}
        result = await self._runner.run(large, **more)
        check_ended(result)
        self._check_like_baseline(result, "with 1 MiB more in its task")
        return None

    async def _odd(self, parameters: Any) -> str | None:
        # Where a parameter is a word of its own, it may not begin like an option, and is shorter.
        tried = False
        for what, texts in (
            ("odd text", (ODD_TEXT, "x" + ODD_TEXT)),
            ("a long line", ("x" * LONG_LINE, "x" * LONG_WORD)),
        ):
            odd = next(filter(None, (self._with_text(parameters, text) for text in texts)), None)
            if odd is None:
                continue
            tried = True
            result = await self._runner.run(odd)
            check_ended(result)
            if result.run.get("reason") in (Reason.SIGNALED, Reason.WORKER_EXITED):
                raise TrialFailed(f"with {what} in its parameters it {end_of(result)}", result)
            errors = result.run.get("event_errors")
            if errors is not None:
                raise TrialFailed(f"with {what} in its parameters: {of_event_errors(errors)}", result)
            for name in ("UnicodeEncodeError", "UnicodeDecodeError", "Wide character"):
                if name.encode() in result.output["stderr"]:
                    raise TrialFailed(
                        f"with {what} in its parameters it stumbled over text ({name} on stderr); the task is UTF-8, "
                        "and LANG may be C: set the encoding of stdin and stdout in the program", result,
                    )  # fmt: skip
        if not tried:
            raise TrialSkipped("none of its parameters accepts any text")
        return None

    async def _two_at_once(self, parameters: Any) -> str | None:
        if self._manifest.concurrency == 1:
            raise TrialSkipped('"concurrency" is 1')
        for result in await asyncio.gather(self._runner.run(parameters), self._runner.run(parameters)):
            check_ended(result)
            self._check_like_baseline(
                result, "with another one beside it", 'if they cannot run at once, write "concurrency": 1'
            )
        return None

    async def _closed_stdin(self, parameters: Any) -> str | None:
        if not self._waits_for_task:
            raise TrialSkipped("its task is in its arguments, and its stdin is not")
        process = _Process(self._plugin, self._host, parameters, is_stdin_closed=True)
        await process.start()
        if not await process.wait(self._closed_stdin_seconds):
            process.kill(StopReason.CANCELLED)
            await process.wait(None)
            raise TrialFailed(
                f"expected it to exit at the end of its stdin, found it still running after "
                f"{format_duration(self._closed_stdin_seconds)}; a read that returns nothing must end the program"
            )
        return None

    async def _stops(self, parameters: Any) -> str | None:
        """Stopped while it works, and while it waits for its task: a program that has only begun to start does not
        catch signals yet, which shows nothing about what it will do."""
        assert self._baseline is not None
        seconds = float(self._baseline.run.get("seconds", 0.0))
        was_stopped = False
        if seconds > 2 * STOP_AFTER_SECONDS:
            was_stopped |= await self._stopped_at_work(parameters, latest=seconds / 2, later=0.0)
        if seconds > 2 * STOP_LATER_SECONDS:
            was_stopped |= await self._stopped_at_work(parameters, latest=seconds * 3 / 4, later=STOP_LATER_SECONDS)
        # By then it has started, as far as anyone can tell: its whole run took no longer.
        for later in (STOP_AFTER_SECONDS, STOP_LATER_SECONDS) if self._waits_for_task else ():
            was_stopped |= await self._stopped_waiting(parameters, min(seconds, STOP_LATER_SECONDS) + later)
        if not was_stopped:
            raise TrialSkipped("it ends before it can be stopped")
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

        result = await self._runner.run(parameters, listener=receive)
        timer.cancel()
        _check_nothing_left_over(result)
        self._check_not_killed(bool(result.run.get("killed")), "while it worked")
        return result.run.get("reason") == Reason.CANCELLED

    @property
    def _waits_for_task(self) -> bool:
        """Whether it may read a task from its stdin, and not only its arguments."""
        return self._manifest.command_line is None or self._manifest.stdin.kind is StdinKind.TASK

    async def _stopped_waiting(self, parameters: Any, seconds: float) -> bool:
        """Whether it could be stopped that long after its start, with nothing to read."""
        process = _Process(self._plugin, self._host, parameters)
        await process.start()
        if await process.wait(seconds):
            return False
        process.stop(StopReason.CANCELLED)
        end = await process.wait(None)
        assert end is not None
        self._check_not_killed(end.killed, "while it waited for its task")
        return True

    def _check_not_killed(self, was_killed: bool, when: str) -> None:
        if was_killed:
            name, grace = self._manifest.stop_signal.name, self._manifest.kill_grace_seconds
            raise TrialFailed(
                f"expected it to end within kill_grace ({format_duration(grace)}) of {name} {when}, found that it had "
                'to be killed; end on that signal, or name another one as "stop_signal"'
            )

    async def _two_in_a_row(self, parameters: Any) -> str | None:
        first = await self._runner.run(parameters)
        second = await self._runner.run(parameters)
        for result in (first, second):
            check_ended(result)
            self._check_like_baseline(result, "as one of two tasks in a row")
        if first.run["pid"] != second.run["pid"] and self._manifest.worker.max_tasks > 1:
            return "each task got a new process; a worker takes its next task after it has said done"
        return None

    async def _crash(self, parameters: Any) -> str | None:
        """Killed while it has a task, as the kernel does when memory runs out; the next process must start."""
        worker = await self._host.workers.acquire(self._plugin)
        worker.kill(StopReason.CANCELLED)
        await worker.gone
        result = await self._runner.run(parameters)
        check_ended(result)
        self._check_like_baseline(result, "after the process before it was killed", "does it leave a lock behind?")
        return None

    async def _leaves(self, parameters: Any) -> str | None:
        await self._runner.run(parameters)
        worker = await self._host.workers.acquire(self._plugin)
        begun = time.monotonic()
        worker.retire()
        await worker.gone
        grace = self._manifest.kill_grace_seconds
        if time.monotonic() - begun >= grace:
            raise TrialFailed(
                f"expected it to end within kill_grace ({format_duration(grace)}) of the end of its stdin, found that "
                "it had to be stopped; leave the loop when a read returns nothing"
            )
        if worker.exit_code != 0:
            raise TrialFailed(
                f"expected exit code 0 at the end of its stdin, a worker's normal end, found {worker.exit_code}"
            )
        return None

    def _base_parameters(self) -> dict[str, Any] | None:
        """Those of the first example that should succeed, else of the first one, else none at all if that fits."""
        examples = self._manifest.examples
        good = [one for one in examples if one.exit_code in (None, 0) and one.status in (None, Status.CONCLUDED)]
        for example in (*good, *examples):
            if isinstance(example.parameters, dict):
                return dict(example.parameters)
        return {} if not self._plugin.schema.check({}) else None

    def _with_text(self, parameters: Mapping[str, Any], text: str) -> dict[str, Any] | None:
        """The parameters with this text in each that accepts it; None if none does."""
        odd = dict(parameters)
        for name, value in parameters.items():
            if isinstance(value, str) and not self._plugin.schema.check({**odd, name: text}):
                odd[name] = text
        return odd if odd != parameters else None

    def _check_like_baseline(self, result: LocalResult, when: str, hint: str = "") -> None:
        assert self._baseline is not None
        expected, found = end_of(self._baseline), end_of(result)
        if expected != found:
            more = f"; {hint}" if hint else ""
            raise TrialFailed(f"expected the same end {when} ({expected}), found that it {found}{more}", result)


def _check_nothing_left_over(result: LocalResult) -> None:
    left = run_processes.processes_in_words(result.run, "left_over")
    if left is not None:
        raise TrialFailed(
            f"expected that nothing is left of it, found {left}, which this user may not end: a node of another user "
            "than root cannot stop what sudo starts", result,
        )  # fmt: skip


class _Process:
    """The plugin's program alone, with nothing of a task but its arguments."""

    def __init__(self, plugin: Plugin, host: LocalHost, parameters: Any, *, is_stdin_closed: bool = False) -> None:
        self._ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()
        variables = {}
        if not modes.needs_worker(plugin):
            variables = environment.task_environment(task_id="0" * 24, queue="check", attempt=1, deadline=None)
        made = plugin.schema.made_of(parameters)
        self._prepared = program.prepare(plugin, host.site, name="check", variables={**variables, **made.variables})
        self._start = Start(
            program=self._prepared.program,
            variables=self._prepared.variables,
            words=[word.encode() for word in made.words],
            work_directory=self._prepared.work_directory,
            deadlines=program.shared_of(plugin, host.site).idle_deadlines,
            stdin=None if plugin.manifest.stdin.kind is StdinKind.NULL else b"",
            keeps_stdin_open=not is_stdin_closed,
        )
        self._processes = host.processes
        self._process: Process | None = None

    async def start(self) -> None:
        try:
            self._process = await self._processes.start(self._start, self)
        except BaseException:
            self._prepared.remove_work_directory()
            raise

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        """Nobody reads it."""

    def closed(self, stream: Stream) -> None:
        """Allowed."""

    def ended(self, end: ProcessEnd) -> None:
        self._ended.set_result(end)

    def stop(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.kill(reason)

    async def wait(self, seconds: float | None) -> ProcessEnd | None:
        """How it ended; None if it did not end in time."""
        await asyncio.wait([self._ended], timeout=seconds)
        if not self._ended.done():
            return None
        self._prepared.remove_work_directory()
        if self._process is not None:
            self._process.forget()
        return self._ended.result()


def _record_arrival(stream: Stream, arrivals: list[float]) -> None:
    if stream is Stream.STDOUT:
        arrivals.append(time.monotonic())

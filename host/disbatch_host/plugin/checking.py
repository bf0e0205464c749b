"""Checks by the schemas of plugins, however long those would take.

Responsible for: whether parameters fit a plugin, which of them are secret, whether a manifest's own schema and values
are sound; each in a bounded time. Must not know: tasks, queues, what becomes of a fault.

Rules:
1. A check that is certainly quick is done at once, in this process. Any other is a question to a child process, started
   with the first such question: a regular expression holds Python's lock, so a thread would hold up everything.
2. A check that takes too long is a fault of the value, with the pattern that was tried; it is nobody else's.
3. Schemas that took too long once are asked about in a process of their own from then on, so that those of other
   plugins do not wait for them.
4. `check`, `secrets` and `masked` wait for the answer; an event loop uses `examined`, which does not hold it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import itertools
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from disbatch_host.plugin.checking_frames import HEADER, TimedOut
from disbatch_protocol.command_line import CommandLine, Made
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest_checks import example_parameters, schema_faults_in, value_faults_in
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.quantities import format_duration

CHECK_SECONDS = 2.0  # of CPU time for one task's parameters
_MORE_SECONDS_PER_MIB = 2.0  # a list of a million numbers is not slow, it is long
_SCHEMA_SECONDS = 10.0  # of CPU time for a schema by itself, which grows with its size alone
_QUICK_SCHEMA = 1000  # values in a schema that is checked at once: some 0.1 s
_PATIENCE = 5  # times the limit that may pass by the clock: the machine is busy, or the process does not answer
_START_SECONDS = 20.0  # more for a process that is only starting
_SCHEMAS_MAX = 500  # that one process has seen, until another takes its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The result of a check of parameters."""

    faults: tuple[Fault, ...] = ()  # none: they fit
    secrets: tuple[str, ...] = ()  # JSON pointers
    took_too_long: bool = False  # or could not be made: the only fault says so, and follows "its parameters"

    @property
    def in_words(self) -> str:
        """Why a task with them is not started."""
        text = "; ".join(map(str, self.faults))
        if self.took_too_long:
            return f"its parameters {text}"
        return f"the parameters do not fit the plugin, so it was not started: {text}"


_NOTHING = Examined()
_NO_WORDS = Made()
_COMMAND_LINE_MAX = 6 * 2**20  # Linux's own bound, however large the stack of a program may be


class Checks:
    """What the schemas of one catalog share: the processes for slow checks. Any thread may use it.

    `seconds`: of CPU time, for one task's parameters.
    """

    def __init__(self, *, seconds: float = CHECK_SECONDS) -> None:
        self.seconds = seconds
        self._ordinary = _Lane()
        self._slow = _Lane()
        self._manifests = _Lane()
        self._count = itertools.count(1)

    def schema(self, schema: Any, command_line: CommandLine | None = None) -> CheckedSchema:
        """The `parameters` of a manifest, for checks: whether they fit it, and whether `command_line` can be made of
        them."""
        return CheckedSchema(schema, self, command_line)

    def manifest_faults(self, schema: Any, examples: Any) -> Sequence[Fault]:
        """See `manifest_checks.parameters_faults`; a check that takes too long is a fault of the manifest."""
        if _is_quick(schema):
            found = schema_faults_in(schema)
        else:
            answer = self._manifests.ask("schema", _SCHEMA_SECONDS, 0, None, _packed(schema))
            if isinstance(answer, (TimedOut, Exception)):
                return [_too_slow(answer, "/parameters", "expected a schema", _SCHEMA_SECONDS, None)]
            found = answer
        if any(fault.severity is Severity.ERROR for fault in found):
            return found
        compiled = ParameterSchema(schema)
        if all(compiled.is_quick_for(one) for one in ({}, *example_parameters(examples))):
            return [*found, *value_faults_in(schema, examples)]
        answer = self._manifests.ask("values", self.seconds, 0, None, _packed((schema, examples)))
        if isinstance(answer, (TimedOut, Exception)):
            what = "expected a schema with which its defaults and the examples"
            return [*found, _too_slow(answer, "/parameters", what, self.seconds, compiled)]
        return [*found, *answer]

    def close(self) -> None:
        """End the processes: any check that needs one raises OSError from now on."""
        for lane in (self._ordinary, self._slow, self._manifests):
            lane.close()

    def next_number(self) -> int:
        """A number for a schema, by which the processes know it."""
        return next(self._count)

    def lane(self, *, is_slow: bool) -> _Lane:
        """Where questions about parameters are asked."""
        return self._slow if is_slow else self._ordinary


@functools.lru_cache(maxsize=1)
def _command_line_max() -> int:
    """Bytes of a command line that certainly is too large for the system. With its variables it takes a little less,
    which only the start shows."""
    return min(os.sysconf("SC_ARG_MAX"), _COMMAND_LINE_MAX)


class CheckedSchema(ParameterSchema):
    """A schema whose checks end. Made by `Checks`."""

    def __init__(self, schema: Any, checks: Checks, command_line: CommandLine | None) -> None:
        super().__init__(schema)
        self._checks = checks
        self._command_line = command_line
        self._number = checks.next_number()
        self._was_slow = False

    def check(self, parameters: Any) -> tuple[Fault, ...]:
        """All faults of the parameters, after filling in defaults; none if they fit."""
        if self.is_quick_for(parameters):
            return super().check(parameters) or self._faults_of_words(parameters, None)
        return self._waited_for(parameters).faults

    def secrets(self, parameters: Any) -> tuple[str, ...]:
        """The JSON pointers of the secret ones among these values, in order; the whole, if that takes too long."""
        if not self.has_secrets or self.is_quick_for(parameters):
            return super().secrets(parameters)
        return self._waited_for(parameters).secrets

    def examined_at_once(self, parameters: Any) -> Examined | None:
        """Both, found without waiting; None if that may take long."""
        if self._schema is None and self._command_line is None:
            return _NOTHING
        if not self.is_quick_for(parameters):
            return None
        faults = super().check(parameters)
        secrets = super().secrets(parameters) if self.has_secrets else ()
        if self._command_line is not None and not faults:
            faults = self._faults_of_words(parameters, secrets)
        return Examined(faults=faults, secrets=secrets) if faults or secrets else _NOTHING

    def examined_in_time(self, parameters: Any) -> Examined:
        """Both, waited for as long as that may take."""
        at_once = self.examined_at_once(parameters)
        return self._waited_for(parameters) if at_once is None else at_once

    async def examined(self, parameters: Any) -> Examined:
        """Both, without holding up the event loop. Raises OSError if the process that is needed cannot be started."""
        at_once = self.examined_at_once(parameters)
        if at_once is not None:
            return at_once
        while True:
            is_slow = self._was_slow
            lane = self._checks.lane(is_slow=is_slow)
            found = await asyncio.wrap_future(lane.threads.submit(self._ask_unless_slow, parameters, is_slow=is_slow))
            if found is not None:
                return found

    def made_of(self, parameters: Any, secrets: Sequence[str] = ()) -> Made:
        """The words and variables of a program with these parameters, of which those at `secrets` are secret. Empty
        where the manifest wants none."""
        if self._command_line is None:
            return _NO_WORDS
        return self._command_line.made_of(self.with_defaults(parameters), secrets=secrets, size_max=_command_line_max())

    def _faults_of_words(self, parameters: Any, secrets: Sequence[str] | None) -> tuple[Fault, ...]:
        """Of parameters that fit the schema. `secrets`: None if they are not known, and can be found in a moment."""
        if self._command_line is None:
            return ()
        if secrets is None:
            secrets = super().secrets(parameters) if self.has_secrets else ()
        return self.made_of(parameters, secrets).faults

    def _waited_for(self, parameters: Any) -> Examined:
        try:
            return self._ask(parameters)
        except OSError as error:
            return self._not_examined(error, self._checks.seconds)

    def _ask_unless_slow(self, parameters: Any, *, is_slow: bool) -> Examined | None:
        """None: others of this schema were slow while this one waited."""
        return self._ask(parameters) if self._was_slow == is_slow else None

    def _ask(self, parameters: Any) -> Examined:
        try:
            values = _packed(parameters)
        except Exception as error:  # nested too deeply, or a value of a kind that only its store knows
            return self._not_examined(error, self._checks.seconds)
        seconds = self._checks.seconds + len(values) / 2**20 * _MORE_SECONDS_PER_MIB
        lane = self._checks.lane(is_slow=self._was_slow)
        answer = lane.ask("parameters", seconds, self._number, self._schema, values)
        if isinstance(answer, (TimedOut, Exception)):
            self._was_slow = True
            return self._not_examined(answer, seconds)
        faults, secrets = answer
        faults = faults or self._faults_of_words(parameters, secrets)
        return Examined(faults=faults, secrets=secrets)

    def _not_examined(self, answer: TimedOut | Exception, seconds: float) -> Examined:
        fault = _too_slow(answer, "", "", seconds, self)
        secrets = ("",) if self.has_secrets else ()  # any of them may be one
        return Examined(faults=(fault,), secrets=secrets, took_too_long=True)


def _packed(values: Any) -> bytes:
    import pickle  # noqa: PLC0415  (a node may never need it: 0.4 MiB)

    return pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)


def _too_slow(
    answer: TimedOut | Exception, pointer: str, what: str, seconds: float, schema: ParameterSchema | None
) -> Fault:
    """The fault of a value, or of a schema, that could not be checked."""
    could = f"{what} can be checked" if what else "could not be checked"
    if isinstance(answer, RecursionError):
        return Fault(pointer=pointer, message=f"{could}: nested too deeply")
    if isinstance(answer, OSError):
        return Fault(pointer=pointer, message=f"{could}: no process for that can be started: {answer.strerror}")
    if not isinstance(answer, TimedOut):
        return Fault(pointer=pointer, message=f"{could}: the process for that ended ({type(answer).__name__})")
    within = f"{could} within {format_duration(seconds)}"
    place = None if schema is None or answer.pattern is None else schema.place_of_pattern(answer.pattern)
    if place is None:
        return Fault(pointer=pointer, message=within, hint="a simpler schema takes less")
    message = f'{within}: the pattern "{answer.pattern:.60}" of {place or "/"} tries too many ways'
    return Fault(pointer=pointer, message=message, hint="avoid repeats inside repeats, such as (a+)+")


class _Lane:
    """A child process, and those who wait for it, one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The thread in which an event loop has its questions asked."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="checks")
        return self._threads

    def ask(self, kind: str, seconds: float, number: int, schema: Any, values: bytes) -> Any:
        """The answer; TimedOut, or the exception that took its place. Raises OSError if no process can be started, or
        it was closed."""
        with self._lock:
            for _ in range(2):  # a process may have been ended by others, an out-of-memory killer for one
                if self._is_closed:
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
                if self._child is None or not self._child.is_usable:
                    self._end_child()
                    self._child = _Child()
                try:
                    return self._child.ask(kind, seconds, number, schema, values)
                except TimeoutError:
                    self._end_child()
                    return TimedOut(None)
                except EOFError:
                    self._end_child()
            return EOFError()

    def close(self) -> None:
        self._is_closed = True
        child = self._child
        if child is not None:
            child.interrupt()  # a caller that waits for it is told at once, and lets the lock go
        with self._lock:
            self._end_child()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


# Not with -m: its answers are pickled by the name of their module.
_PROGRAM = "from disbatch_host.plugin.checking_child import main; main()"


class _Child:
    """The process: `checking_child`. Raises OSError if it cannot be started."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISBATCH_")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # A Ctrl-C is not meant for it; but in this process's session: `process.inline` reaps children in others.
            process_group=0,
            cwd="/",
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._sent: set[int] = set()
        self._has_answered = False
        self.kill = weakref.finalize(self, _end, self._process)  # at the latest when nobody can ask it any more

    @property
    def is_usable(self) -> bool:
        return self._process.poll() is None and len(self._sent) < _SCHEMAS_MAX

    def interrupt(self) -> None:
        """Let a thread that waits for its answer get an EOFError."""
        self._process.kill()

    def ask(self, kind: str, seconds: float, number: int, schema: Any, values: bytes) -> Any:
        """The answer. Raises TimeoutError, EOFError; it is of no use any more then."""
        import pickle  # noqa: PLC0415  (a node may never need it: 0.4 MiB)

        sent = None if number in self._sent else (schema,)
        data = _packed((kind, seconds, number, sent, values))
        deadline = time.monotonic() + seconds * _PATIENCE + (0.0 if self._has_answered else _START_SECONDS)
        try:
            self._write(HEADER.pack(len(data)) + data, deadline)
            (size,) = HEADER.unpack(self._read(HEADER.size, deadline))
            answer = pickle.loads(self._read(size, deadline))
        except BrokenPipeError as error:
            raise EOFError from error
        self._has_answered = True
        self._sent.add(number)
        return answer

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._in, select.POLLOUT, deadline)
            rest = rest[os.write(self._in, rest) :]

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._out, select.POLLIN, deadline)
            piece = os.read(self._out, min(size - len(data), 2**20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _wait(self, descriptor: int, what: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, what)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError


def _is_quick(schema: Any) -> bool:
    """Whether the faults of a schema itself are found in a moment."""
    if schema is None:
        return True
    from disbatch_protocol.check_cost import is_small  # noqa: PLC0415  (many hosts have no plugin with a schema)

    return is_small(schema, _QUICK_SCHEMA)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

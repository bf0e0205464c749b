"""The process that checks what may be slow: started by `checking`, talked to over its stdin and stdout.

Responsible for: one question after another, each within its time. Must not know: plugins, tasks, who asks.

A question is (kind, seconds, number of the schema, the schema or None if it was sent before, the values pickled), an
answer is what `_answer` returns; both are pickled, since stores have values that JSON does not have, and follow their
length. The time limit is one of CPU time, so that a busy machine makes no check fail, and comes as a signal, which
regular expressions look for as well; a process that does not even notice that is killed from outside.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
from types import FrameType
from typing import Any

from disbatch_host.plugin.checking_frames import TimedOut, read_frame, write_frame
from disbatch_host.process.this_process import hide_from_same_user
from disbatch_protocol.manifest_checks import schema_faults_in, value_faults_in
from disbatch_protocol.parameter_validator import CheckInterruptedError
from disbatch_protocol.parameters import ParameterSchema

_IDLE_SECONDS = 60.0  # until it ends by itself
_MEMORY_MAX = 4 * 2**30  # bytes of address space: 8 MiB of parameters take a few hundred


def main() -> None:
    """Answer until there are no more questions."""
    hide_from_same_user()  # it sees the same secrets as the process that asks
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # anything printed by accident is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MEMORY_MAX if hard == resource.RLIM_INFINITY else min(_MEMORY_MAX, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    schemas: dict[int, ParameterSchema] = {}
    # One question follows the answer to the one before, so none is left in the buffer.
    while select.select([0], [], [], _IDLE_SECONDS)[0] and (question := read_frame(asked)) is not None:
        try:
            answer: Any = _answer(schemas, *pickle.loads(question))
        except MemoryError:
            answer = MemoryError()
        except Exception as error:  # of a kind that the process which asks may not know
            answer = RuntimeError(type(error).__name__)
        try:
            write_frame(answers, pickle.dumps(answer))
        except BrokenPipeError:  # nobody waits for it
            os._exit(0)


def _answer(
    schemas: dict[int, ParameterSchema],
    kind: str,
    seconds: float,
    number: int,
    schema: tuple[Any] | None,
    values: bytes,
) -> Any:
    if schema is not None:
        schemas[number] = ParameterSchema(schema[0])
    given = pickle.loads(values)
    try:
        with _Limit(seconds):
            if kind == "schema":
                return schema_faults_in(given)
            if kind == "values":
                return value_faults_in(*given)
            known = schemas[number]
            return known.check(given), known.secrets(given)
    except CheckInterruptedError as interruption:
        return TimedOut(interruption.pattern)
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one that came while the block was left
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Limit:
    """Raises CheckInterruptedError in its block once it has taken so much CPU time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        signal.signal(signal.SIGPROF, self._stop)
        signal.setitimer(signal.ITIMER_PROF, self._seconds, 0.05)  # again, in case that something swallows it

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._is_over:  # else the signal was on its way when the block ended
            raise CheckInterruptedError

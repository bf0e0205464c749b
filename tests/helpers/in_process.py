"""Commands of `disbatch-host` without a process for each: they cost a thirtieth.

Responsible for: calling the command line within this process so that nothing tells the difference: exit code, output,
errors, what it reads of its streams, variables and directory. Must not know: what is tested.

Rules:
1. The three streams are real descriptors, in the place of 0, 1 and 2 for the length of the call: what asks for a
   descriptor, and every child process, gets them.
2. Variables, directory, time zone, logging, warnings and signal handlers are the command's own during the call, and
   this process's own afterwards.
3. One at a time, in the main thread. A command beside which others run, or that gets a signal, has to be a process.
4. No thread of the program is left when it has ended.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from disbatch_host.cli import main as command_line

_PIPE_SIZE = 2**16  # what a pipe holds while nobody reads; see pipe(7)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
_lock = threading.Lock()


def run(
    arguments: Sequence[str], *, directory: Path, environment: dict[str, str], stdin: str = ""
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with _alone(), _place(directory, environment), _own_logging(), _own_signals(), _streams(stdin) as (out, err):
        code = _called(arguments)
        return code, _read(out), _read(err)


def run_on_terminal(arguments: Sequence[str], slave: int, *, directory: Path, environment: dict[str, str]) -> int:
    """Exit code of a command whose streams are all this terminal, which somebody else has to read."""
    with _alone(), _place(directory, environment), _own_logging(), _own_signals(), _on_terminal(slave):
        return _called(arguments)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Rules 3 and 4."""
    assert threading.current_thread() is threading.main_thread(), "rule 3: give this thread a process"
    assert _lock.acquire(blocking=False), "rule 3: another command is running in this process"
    before = set(threading.enumerate())
    try:
        yield
    finally:
        _lock.release()
    left = [one for one in threading.enumerate() if one not in before and not one.daemon]
    assert not left, f"rule 4: {left}"


def _called(arguments: Sequence[str]) -> int:
    with _own_warnings():
        code = _call(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _call(arguments: list[str]) -> int:
    """What `main` does but for the last step, in which the process ends."""
    try:
        return command_line._flush(command_line._run(arguments))
    except Exception:  # with --debug; the interpreter would print it
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _place(directory: Path, environment: dict[str, str]) -> Iterator[None]:
    old_directory, old_environment = Path.cwd(), dict(os.environ)
    try:
        os.chdir(directory)
        _set_environment(environment)
        yield
    finally:
        os.chdir(old_directory)
        _set_environment(old_environment)


def _set_environment(environment: dict[str, str]) -> None:
    is_other_zone = environment.get("TZ") != os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(environment)
    if is_other_zone:
        time.tzset()


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """As in an interpreter that has just begun; pytest listens to the root logger."""
    loggers = [logging.getLogger(name) for name in (None, "disbatch_host", "pymongo", "asyncio")]
    before = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    raises = logging.raiseExceptions
    for one in loggers:
        one.handlers = []
        one.setLevel(logging.WARNING if one is logging.root else logging.NOTSET)
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for one, handlers, level, propagate in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    """On stderr, by the interpreter's own filters."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _streams(stdin: str) -> Iterator[tuple[int, int]]:
    """Descriptors of what is written to stdout and stderr."""
    old = sys.stdin, sys.stdout, sys.stderr
    for stream in old[1:]:
        stream.flush()
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(_memory(name)) for name in ("stdout", "stderr"))
        source = stack.enter_context(_pipe(stdin.encode()))
        for number, descriptor in enumerate((source, out, err)):
            stack.enter_context(_in_place_of(number, descriptor))
        # As the interpreter makes them where nothing is a terminal.
        sys.stdin = _text(0, "r", errors="surrogateescape")
        sys.stdout = _text(1, "w", errors="surrogateescape")
        sys.stderr = _text(2, "w", errors="backslashreplace", line_buffering=True)
        try:
            yield out, err
        finally:
            sys.stdin, sys.stdout, sys.stderr = old


@contextlib.contextmanager
def _on_terminal(slave: int) -> Iterator[None]:
    old = sys.stdin, sys.stdout, sys.stderr
    for stream in old[1:]:
        stream.flush()
    with contextlib.ExitStack() as stack:
        for number in range(3):
            stack.enter_context(_in_place_of(number, slave))
        sys.stdin = _text(0, "r", errors="surrogateescape")
        sys.stdout = _text(1, "w", errors="surrogateescape", line_buffering=True)
        sys.stderr = _text(2, "w", errors="backslashreplace", line_buffering=True)
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = old


def _text(descriptor: int, mode: str, *, errors: str, line_buffering: bool = False) -> TextIO:
    binary = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(binary, encoding="utf-8", errors=errors, line_buffering=line_buffering)


@contextlib.contextmanager
def _memory(name: str) -> Iterator[int]:
    descriptor = os.memfd_create(name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _pipe(data: bytes) -> Iterator[int]:
    """The end to read from, of a pipe that gives this and then ends."""
    reading, writing = os.pipe()
    writer = threading.Thread(target=_feed, args=(writing, data), daemon=True)
    if len(data) <= _PIPE_SIZE:
        _feed(writing, data)
    else:
        writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        if len(data) > _PIPE_SIZE:
            writer.join()


def _feed(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def _in_place_of(number: int, descriptor: int) -> Iterator[None]:
    kept = os.dup(number)
    os.dup2(descriptor, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def _read(descriptor: int) -> str:
    """As `subprocess` reads text."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, encoding="utf-8", closefd=False) as file:
        return file.read()

"""The plugins that a supervisor knows by number: those that this node has named on a connection, and those that runs of
an earlier node have.

Responsible for: naming each once, under a number that is free; what a start says of a process of one. Must not know:
what becomes of a run, tasks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from disbatch_host.process.ends import micro
from disbatch_host.process.flags import Has, Input
from disbatch_host.process.frames import PART_MAX, KeptPlugin, Plugin
from disbatch_host.process.frames import Start as StartFrame
from disbatch_host.process.framing import packed
from disbatch_host.process.interface import Program, Start, StartError

WORDS_VERSION = 2  # of the frames: an earlier one starts programs without their words


class NamedPlugins:
    """Of one connection."""

    def __init__(self, send: Callable[[Plugin], None], *, drain_seconds: float) -> None:
        self._send = send
        self._drain_seconds = drain_seconds
        self._named: dict[tuple[int, int, float], tuple[int, Program]] = {}
        self._kept: dict[int, bytes] = {}
        self._last_number = 0

    def keep(self, frame: KeptPlugin) -> None:
        """One that runs of an earlier node have."""
        self._kept[frame.number] = frame.note
        self._last_number = max(self._last_number, frame.number)

    def note_of(self, number: int) -> bytes:
        """The note of one of these."""
        return self._kept.get(number, b"")

    def number_of(self, start: Start, version: int) -> int:
        """The number under which the program of a start is known, from now on at the latest, where this version of the
        frames is spoken. Raises StartError, and FrameError for one that no frame can hold."""
        _check(start, version)
        program, deadlines = start.program, start.deadlines
        key = (id(program), int(deadlines.stop_signal), deadlines.kill_grace_seconds)
        known = self._named.get(key)
        if known is not None:
            return known[0]
        if any("\0" in word for word in (*program.argv, *program.environment.variables.values())):
            raise _nul_error(program)
        self._last_number = number = self._last_number + 1
        self._named[key] = (number, program)  # the program too, or another one could get its id
        account = program.account
        self._send(
            Plugin(
                number=number,
                stop_signal=deadlines.stop_signal,
                grace=micro(deadlines.kill_grace_seconds),
                drain=micro(self._drain_seconds),
                max_output=program.max_output_bytes,
                umask=program.umask,
                uid=0 if account is None else account.uid,
                gid=0 if account is None else account.gid,
                flags=(Has.LEAVE_RUNNING if program.leave_running else 0) | (0 if account is None else Has.ACCOUNT),
                directory=os.fsencode(program.directory),
                argv=packed([os.fsencode(word) for word in program.argv]),
                environment=packed(program.environment.encoded),
                groups=b"" if account is None else struct.pack(f"<{len(account.groups)}I", *account.groups),
                limits=b"".join([struct.pack("<IQQ", limit, value, value) for limit, value in program.limits.items()]),
                note=program.note,
            )
        )
        return number


def _nul_error(program: Program) -> StartError:
    """A text of a program, or of a start of it, that no program can get."""
    return StartError(f"cannot start {program.argv[0]}: an argument or environment value holds a NUL byte")


def _check(start: Start, version: int) -> None:
    """Raises StartError for a start that cannot be said to a supervisor with which this version is spoken."""
    if "\0" in "".join(start.variables.values()):
        raise _nul_error(start.program)
    if start.words and version < WORDS_VERSION:
        raise StartError(
            f"cannot start {start.program.argv[0]} with arguments: the supervisor of this node's runs is of an earlier "
            "version; it goes once its runs have ended"
        )


def _as_bytes(text: str) -> bytes:
    return text.encode() if text.isascii() else os.fsencode(text)


def start_frame(run: int, start: Start, plugin: int, *, is_live: bool) -> StartFrame:
    """START for one process of such a program."""
    stdin = start.stdin or b""
    return StartFrame(
        run=run,
        plugin=plugin,
        timeout=micro(start.deadlines.timeout_seconds),
        idle_timeout=micro(start.deadlines.idle_timeout_seconds),
        asked_at=0 if start.trust is None else micro(start.trust.asked_at),
        trusted=0 if start.trust is None else micro(start.trust.seconds),
        total=len(stdin),
        flags=Input.TELL
        | Input.LIVE * is_live
        | Input.NULL * (start.stdin is None)
        | Input.OPEN * start.keeps_stdin_open,
        note=start.note,
        environment=packed([_as_bytes(f"{name}={value}") for name, value in start.variables.items()])
        + (packed(start.words) if start.words else b""),
        work_directory=b"" if start.work_directory is None else os.fsencode(start.work_directory),
        stdin=stdin[:PART_MAX],
    )

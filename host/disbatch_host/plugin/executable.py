"""Whether the kernel can execute a program, found without executing it.

Responsible for: first lines, interpreters, formats of programs, permissions and mounts, as on Linux. Must not know:
what a manifest means, how a program is started.

Rule: a fault is only what certainly never works here. A plugin that is refused although it works does not run at all,
so wherever something may decide it that is not looked at, nothing is said.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from disbatch_host.plugin import elf, env_line
from disbatch_host.plugin.surroundings import Surroundings
from disbatch_protocol.faults import Fault

_FIRST_LINE_MAX = 256  # bytes that the kernel reads (BINPRM_BUF_SIZE)
_INTERPRETERS_MAX = 5  # an interpreter may be a script itself, and so on; the kernel gives up here
_POINTER = "/command/0"


def program_faults(program: Path, surroundings: Surroundings, watched: list[Path]) -> Iterator[Fault]:
    """The reason why a file that is there cannot be executed, if there is one. Other files that it depends on are added
    to `watched`."""
    if os.path.isfile(program):  # noqa: PTH113  (others report what is not a file)
        fault = _reason(program, surroundings, watched, 0)
        if fault is not None:
            yield fault


def _reason(file: Path, surroundings: Surroundings, watched: list[Path], depth: int) -> Fault | None:
    if not os.access(file, os.X_OK):
        return _permission_fault(file)
    try:
        with file.open("rb") as opened:
            start = opened.read(_FIRST_LINE_MAX)
    except OSError:  # execute permission without read permission is enough for a compiled program
        return None
    if not start:
        return _fault(f"expected a program, found the empty file {file}")
    if start.startswith(b"\x7fELF"):
        reason = elf.reason_not_to_run(file)
        return _fault(f"expected a program for this machine, found {file} {reason[0]}", reason[1]) if reason else None
    if start.startswith(b"\xef\xbb\xbf#!"):
        message = f'expected {file} to begin with "#!", found a byte order mark before it'
        return _fault(message, "save it as UTF-8 without a byte order mark")
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"#\0!\0", b"\0#\0!")):
        message = f'expected {file} to begin with "#!", found UTF-16'
        return _fault(message, "save it as UTF-8 without a byte order mark, with line feeds only")
    if not start.startswith(b"#!"):
        if b"\0" in start:  # a format that the kernel may have been told about
            return None
        message = f'expected {file} to begin with "#!" and its interpreter, found text without it'
        return _fault(message, 'make "#!/bin/sh", or what it is written in, its first line')
    return _first_line_reason(file, start, surroundings, watched, depth)


def _permission_fault(file: Path) -> Fault:
    """A file that may not be executed: by its mode, or wherever it is."""
    try:
        mode, flags = file.stat().st_mode, os.statvfs(file).f_flag
    except OSError:
        mode = flags = 0
    if flags & os.ST_NOEXEC:
        message = f"expected an executable file, found {file} on a file system that is mounted with noexec"
        return _fault(message, "put the plugin somewhere else, or let `mount -o remount,exec` allow it")
    if mode & 0o111:
        message = f"expected an executable file, found that this user may not execute {file}"
        return _fault(message, f"look at its owner and mode: ls -l {shlex.quote(str(file))}")
    message = f"expected an executable file, found {file} without execute permission"
    return _fault(message, f"chmod +x {file}")


def _first_line_reason(
    file: Path, start: bytes, surroundings: Surroundings, watched: list[Path], depth: int
) -> Fault | None:
    line, ends, _ = start[2:].partition(b"\n")
    if line.endswith(b"\r") and ends:
        message = f"expected the first line of {file} to end with a line feed, found CR LF"
        return _fault(message, f"remove the carriage returns: sed -i 's/\\r$//' {file}")
    # The kernel cuts at blanks and tabs, once; the rest is one argument.
    words = line.strip(b" \t").replace(b"\t", b" ").split(b" ", 1)
    name = os.fsdecode(words[0])
    argument = line.strip(b" \t")[len(words[0]) :].strip(b" \t")
    if not name:
        return _fault(f'expected an interpreter after "#!" in {file}, found nothing')
    if not ends and not argument and len(start) == _FIRST_LINE_MAX:
        message = f"expected a first line of at most {_FIRST_LINE_MAX - 1} bytes in {file}, found a longer interpreter"
        return _fault(message, "use a shorter path, or a link to it")
    interpreter = surroundings.found(name)
    watched.append(surroundings.directory / name)
    fault = _interpreter_fault(file, name, interpreter, surroundings)
    if fault is not None:
        return fault
    assert interpreter is not None
    if depth + 1 < _INTERPRETERS_MAX and (fault := _reason(interpreter, surroundings, watched, depth + 1)) is not None:
        return _fault(f"expected an interpreter that can run {file}, found {name}: {fault.message}", fault.hint)
    if interpreter.name == "env" and (ends or len(start) < _FIRST_LINE_MAX):  # else env gets the line cut off
        reason = env_line.reason_not_to_run(os.fsdecode(argument), surroundings)
        if reason is not None:
            return _fault(f"{reason[0]} in the first line of {file}{reason[1]}", reason[2])
    return None


def _interpreter_fault(file: Path, name: str, interpreter: Path | None, surroundings: Surroundings) -> Fault | None:
    wanted = f"expected the interpreter {surroundings.where(name)} that {file} names"
    if interpreter is None or not os.path.exists(interpreter):  # noqa: PTH110
        program = os.path.basename(name)  # noqa: PTH119
        if env_line.may_find(program, surroundings):
            return _fault(f"{wanted}, found nothing there", f"install it or write #!/usr/bin/env {program}")
        near = env_line.near_program(name, surroundings)
        line = near if near is None or "/" in near else f"/usr/bin/env {near}"
        hint = "correct its name, or install it" if line is None else f"did you mean #!{line}? If not, install it"
        return _fault(f"{wanted}, found nothing there", hint)
    if os.path.isdir(interpreter):  # noqa: PTH112
        return _fault(f"{wanted}, found a directory", "name the program itself")
    if not os.path.isfile(interpreter):  # noqa: PTH113
        return _fault(f"{wanted}, found something that is not a file", "name the program itself")
    if not os.access(interpreter, os.X_OK):
        permission = _permission_fault(interpreter)
        return _fault(f"{wanted} to be executable, found that it is not: {permission.message}", permission.hint)
    return None


def _fault(message: str, hint: str = "") -> Fault:
    return Fault(pointer=_POINTER, message=message, hint=hint)

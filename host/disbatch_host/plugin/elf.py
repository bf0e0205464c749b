"""Compiled programs: for which machine they are, and whether this one can run them.

Responsible for: the header of an ELF file. Must not know: plugins.

Whether this machine runs programs of another processor (or of 32 bits) is asked of its kernel, with an empty program of
that kind: it may have been told of an emulator in ways that a container cannot see.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_MACHINES = {
    2: "SPARC", 3: "x86 (32 bits)", 8: "MIPS", 20: "PowerPC", 21: "PowerPC (64 bits)", 22: "S/390", 40: "ARM (32 bits)",
    43: "SPARC (64 bits)", 62: "x86-64", 183: "ARM (64 bits, aarch64)", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
_TYPES = {1: "an object file (.o), not linked yet", 4: "a core dump"}  # never executable
_PT_INTERP = 3
_PATH_MAX = 4096
_PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a kernel chooses by."""

    bits: int  # 1: 32, 2: 64
    order: int  # 1: little-endian, 2: big-endian
    machine: int


def reason_not_to_run(file: Path) -> tuple[str, str] | None:
    """Why an ELF file certainly cannot be executed here, to follow its name, and what to do; None if it may be."""
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
            header = _header_of(start)
            if header is None:
                return "which is cut off in its header", "copy it again"
            kind, form, program_headers = header
            if form in _TYPES:
                return f"which is {_TYPES[form]}", "name the linked program"
            if kind != _own_kind() and not _can_run(kind):
                machine = _MACHINES.get(kind.machine, f"machine {kind.machine}")
                return f"for {machine}, and this machine cannot run that", f"build it for {os.uname().machine}"
            loader = _loader(opened.fileno(), kind, program_headers)
    except OSError:
        return None
    if loader is not None and not os.path.exists(loader):  # noqa: PTH110
        hint = "install the C library that it was built with, or build it statically"
        return f"which needs the loader {os.fsdecode(loader)}, and that is not there", hint
    return None


def _header_of(start: bytes) -> tuple[_Kind, int, tuple[int, int, int]] | None:
    """The kind, the type, and where the program headers are: offset, size, count."""
    if len(start) < 52 or start[4] not in (1, 2) or start[5] not in (1, 2):
        return None
    order = "<" if start[5] == 1 else ">"
    form, machine = struct.unpack_from(f"{order}HH", start, 16)
    if start[4] == 1:
        (offset,) = struct.unpack_from(f"{order}I", start, 28)
        size, count = struct.unpack_from(f"{order}HH", start, 42)
    elif len(start) < 64:
        return None
    else:
        (offset,) = struct.unpack_from(f"{order}Q", start, 32)
        size, count = struct.unpack_from(f"{order}HH", start, 54)
    return _Kind(start[4], start[5], machine), form, (offset, size, count)


@functools.lru_cache(maxsize=1)
def _own_kind() -> _Kind | None:
    """That of the interpreter which runs this; None if it cannot be read."""
    try:
        with Path(sys.executable).open("rb") as opened:
            start = opened.read(64)
    except OSError:
        return None
    header = _header_of(start) if start.startswith(b"\x7fELF") else None
    return header[0] if header else None


def _loader(descriptor: int, kind: _Kind, program_headers: tuple[int, int, int]) -> bytes | None:
    """The path of its dynamic loader, if it says one."""
    offset, size, count = program_headers
    order = "<" if kind.order == 1 else ">"
    form, needed = (f"{order}IIIII", 20) if kind.bits == 1 else (f"{order}IIQQQQ", 40)
    if size < needed:
        return None
    for index in range(min(count, 64)):
        entry = os.pread(descriptor, needed, offset + index * size)
        if len(entry) < needed:
            return None
        fields = struct.unpack(form, entry)
        where, length = (fields[1], fields[4]) if kind.bits == 1 else (fields[2], fields[5])
        if fields[0] == _PT_INTERP and length <= _PATH_MAX:
            return os.pread(descriptor, length, where).rstrip(b"\0") or None
    return None


@functools.lru_cache(maxsize=32)
def _can_run(kind: _Kind) -> bool:
    """Whether the kernel executes programs of this kind, or gives them to an emulator. True if that cannot be found
    out."""
    if _own_kind() is None:
        return True
    try:
        descriptor = os.memfd_create("probe", 0)
    except OSError:
        return True
    try:
        os.write(descriptor, _empty_program(kind))
        os.fchmod(descriptor, 0o500)
        probe = subprocess.Popen(
            [f"/proc/self/fd/{descriptor}"],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # in this process's session: `process.inline` reaps children that are in others
            env={},
        )
    except OSError as error:
        return error.errno != errno.ENOEXEC
    finally:
        os.close(descriptor)
    try:
        probe.wait(_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.wait()
    return True  # however it ended: it was executed


def _empty_program(kind: _Kind) -> bytes:
    """A program of this kind with one page of zeros, which ends at its first instruction, whatever that is."""
    order, base = "<" if kind.order == 1 else ">", 0x400000
    start = b"\x7fELF" + bytes([kind.bits, kind.order, 1]) + bytes(9)
    if kind.bits == 1:
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 2, kind.machine, 1, base + 84, 52, 0, 0, 52, 32, 1, 40, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 1, 0, base, base, 256, 256, 5, 0x1000)
    else:
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, kind.machine, 1, base + 120, 64, 0, 0, 64, 56, 1, 64, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, base, base, 256, 256, 0x1000)
    return (start + header + segment).ljust(256, b"\0")

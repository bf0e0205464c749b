"""Programs that are built, and sources that have changed since.

Responsible for: a hint, for people who try a plugin. Must not know: how anything is built. A node does not look: it
runs what is there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from disbatch_host.plugin.catalog import Plugin
from disbatch_protocol.faults import Fault, Severity

_ENDINGS = (
    ".go", ".rs", ".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".zig", ".cs", ".java", ".kt", ".scala", ".swift", ".hs",
    ".ml", ".d", ".nim", ".cr", ".pas", ".f90", ".adb",
)  # fmt: skip
_BUILD_FILES = frozenset({"go.mod", "go.sum", "Cargo.toml", "Cargo.lock"})
_BUILT = (b"\x7fELF", b"PK\x03\x04", b"\xca\xfe\xba\xbe")  # programs, archives and classes of Java
_DIRECTORIES_MAX = 50
_LEVELS_MAX = 3


def outdated_build(plugin: Plugin) -> Fault | None:
    """A hint if sources beside a built program are newer than it."""
    program = next((file for file in _built_files(plugin)), None)
    if program is None:
        return None
    try:
        built = program.stat().st_mtime_ns
        newer = [file for file, changed in _sources(plugin.directory) if changed > built]
    except OSError:
        return None
    if not newer:
        return None
    first = min(newer)
    more = f" and {len(newer) - 1} more" if len(newer) > 1 else ""
    verb = "are" if more else "is"
    message = f"{first.relative_to(plugin.directory)}{more} {verb} newer than {program.name}, which is what runs"
    script = plugin.directory / "build.sh"
    hint = f"build it: {shlex.quote(str(script))}" if os.path.isfile(script) else "build it again"  # noqa: PTH113
    return Fault(pointer="/command", message=message, hint=hint, severity=Severity.WARNING)


def _built_files(plugin: Plugin) -> Iterator[Path]:
    """Those of its command's files that were built and are its own."""
    for file in (plugin.program, *(plugin.directory / word for word in plugin.manifest.command[1:])):
        try:
            if file.is_relative_to(plugin.directory) and file.is_file():
                with file.open("rb") as opened:
                    if opened.read(4).startswith(_BUILT):
                        yield file
        except OSError:  # it may be executed and not read
            continue


def _sources(directory: Path) -> Iterator[tuple[Path, int]]:
    """Source files, and when each changed."""
    rest, seen = [(directory, 0)], 0
    while rest and seen < _DIRECTORIES_MAX:
        here, level = rest.pop()
        seen += 1
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if level < _LEVELS_MAX and not entry.name.startswith(".") and entry.name != "target":
                        rest.append((Path(entry.path), level + 1))
                elif entry.name.endswith(_ENDINGS) or entry.name in _BUILD_FILES:
                    yield Path(entry.path), entry.stat(follow_symlinks=False).st_mtime_ns

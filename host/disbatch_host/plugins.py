"""Plugins on disk: finding them, checking everything that can be known without running them, following changes.

Responsible for: walking the plugin directories, reading each `plugin.json` through `disbatch_protocol.manifest`, and
what only the file system can say (is the program there, may others write to it, does its interpreter exist).
Must not know: tasks, stores, how a program is started.

Rules (plugin contract, "Finding plugins"):
1. Nothing is learnt by running the program.
2. A broken plugin is left out with all its faults at once; the others are not touched by it.
3. Two plugins of one name: neither is used, and the fault names both files.
4. A `Plugin` never changes. When one of its files does, the next scan makes a new object, so "is this still the same
   plugin" is a question of identity, and a running task keeps what it started with.
"""

from __future__ import annotations

import functools
import grp
import json
import logging
import os
import pwd
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disbatch_host import environment
from disbatch_host.errors import UsageError
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest import Manifest, parse_manifest
from disbatch_protocol.parameters import ParameterSchema

log = logging.getLogger(__name__)

MANIFEST_NAME = "plugin.json"
MANIFEST_MAX = 4 * 2**20  # bytes; nobody writes one by hand that is larger, and a node reads them all
_SHELL_SIGNS = re.compile(r"[\s|&;<>$`]")  # of somebody who thinks that a shell reads the command
_SHEBANG_MAX = 256  # bytes the kernel reads of a first line (BINPRM_BUF_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Plugin:
    """A plugin that can run here. Compared by identity (rule 4)."""

    manifest: Manifest
    manifest_path: Path
    directory: Path  # real path, no links in it
    program: Path  # what is executed: command[0], found
    schema: ParameterSchema = field(repr=False)
    warnings: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def argv(self) -> list[str]:
        """The command as it is executed."""
        return [str(self.program), *self.manifest.command[1:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPlugin:
    """A `plugin.json` that cannot be used, with every reason."""

    manifest_path: Path
    faults: tuple[Fault, ...]
    name: str | None = None  # where the manifest says as much

    @property
    def known_as(self) -> str:
        """Its name, else what it goes by until its manifest tells one: the name of its directory."""
        return self.name or self.manifest_path.parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What a scan has found."""

    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()


def load_plugins(directories: Sequence[Path]) -> Catalog:
    """Scan once. Raises UsageError for a directory that is not there."""
    for directory in directories:
        require_directory(directory)
    return PluginScanner(directories).scan()


def require_directory(directory: Path) -> None:
    """Raises UsageError, in one line, where plugins cannot be looked for."""
    if not directory.exists():
        raise UsageError(f"plugin directory {directory} is not there; make it or name another with --plugins DIR")
    if not directory.is_dir():
        raise UsageError(f"expected a directory of plugins, found a file: {directory}; name its directory instead")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UsageError(f"plugin directory {directory} cannot be read by {_own_name()}; check its permissions")


class PluginScanner:
    """Follows plugin directories. `scan()` is cheap enough to be called every few seconds: it looks at names and
    times, and reads only what has changed since the last call."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.look_in(directories)
        self._seen: dict[Path, tuple[_Stamp, Plugin | BrokenPlugin]] = {}
        self._catalog = Catalog()

    def look_in(self, directories: Sequence[Path]) -> None:
        """From the next scan on, look here. A plugin that was known and has not changed stays the same object."""
        self._directories = [Path(directory) for directory in directories]

    def scan(self) -> Catalog:
        """What is there now. The same Catalog object as before where nothing has changed."""
        seen: dict[Path, tuple[_Stamp, Plugin | BrokenPlugin]] = {}
        for manifest_path in find_manifests(self._directories):
            known = self._seen.get(manifest_path)
            if known is not None and isinstance(known[1], Plugin) and known[0] == _stamp_of(known[1]):
                seen[manifest_path] = known
                continue
            found = examine(manifest_path)
            if known is not None and found == known[1]:
                found = known[1]  # still broken in the same way
            stamp: _Stamp = _stamp_of(found) if isinstance(found, Plugin) else ()
            seen[manifest_path] = (stamp, found)
        changed = len(seen) != len(self._seen) or any(
            path not in self._seen or self._seen[path][1] is not found for path, (_, found) in seen.items()
        )
        self._seen = seen
        if changed:
            self._catalog = _catalog_of([found for _, found in seen.values()])
        return self._catalog


def find_manifests(directories: Sequence[Path]) -> Iterator[Path]:
    """Every `plugin.json` below the directories, at any depth, in the order of their names; below one, no other is
    looked for. Directories that cannot be read are passed over; links to directories are followed once."""
    visited: set[tuple[int, int]] = set()
    for directory in directories:
        yield from _find_below(directory, visited)


def _find_below(directory: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = directory.stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        log.debug("plugin directory %s cannot be read: %s", directory, error.strerror)
        return
    if any(entry.name == MANIFEST_NAME and not entry.is_dir() for entry in entries):
        yield directory / MANIFEST_NAME
        return
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _find_below(Path(entry.path), visited)


def examine(manifest_path: Path) -> Plugin | BrokenPlugin:
    """Everything that can be known of one plugin without running it."""
    directory = Path(os.path.realpath(manifest_path.parent))
    faults = [
        *_file_faults(manifest_path, directory, "", "the manifest"),
        *_writable_faults(directory, "", "its directory"),
    ]
    try:
        data = _read_manifest(manifest_path)
    except OSError as error:
        hint = f"let {_own_name()} read it: chmod +r {manifest_path}" if isinstance(error, PermissionError) else ""
        fault = Fault(pointer="", message=f"cannot be read: {error.strerror}", hint=hint)
        return _broken(manifest_path, [*faults, fault])
    if data is None:
        return _broken(manifest_path, faults or [_no_file_fault("the manifest", manifest_path, "")])
    if len(data) > MANIFEST_MAX:
        fault = Fault(
            pointer="",
            message=f"expected a manifest of at most {MANIFEST_MAX} bytes, found a larger file",
            hint="keep what is not for the host, such as data, in a file of its own beside it",
        )
        return _broken(manifest_path, [*faults, fault])
    parsed = parse_manifest(data, directory_name=manifest_path.parent.resolve().name)
    faults.extend(parsed.faults)
    manifest = parsed.manifest
    if manifest is None:
        return _broken(manifest_path, faults)
    host = environment.host_environment()
    path = manifest.env.get("PATH") or environment.search_path(host)
    program = _locate_program(manifest.command[0], directory, path)
    faults.extend(_program_faults(manifest.command[0], program, directory, path))
    faults.extend(_requirement_faults(manifest, path))
    faults.extend(_account_faults(manifest))
    faults.extend(_limit_faults(manifest))
    if program is None or any(fault.severity is Severity.ERROR for fault in faults):
        return _broken(manifest_path, faults, manifest.name)
    return Plugin(
        manifest=manifest,
        manifest_path=manifest_path.absolute(),
        directory=directory,
        program=program,
        schema=ParameterSchema(manifest.parameters),
        warnings=tuple(faults),
    )


def _read_manifest(path: Path) -> bytes | None:
    """What is in it, up to a little more than there may be; None where it is no regular file. Never waits: a FIFO that
    nobody writes to would hold up everything, for every plugin."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MANIFEST_MAX + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _broken(manifest_path: Path, faults: Sequence[Fault], name: str | None = None) -> BrokenPlugin:
    return BrokenPlugin(manifest_path=manifest_path.absolute(), faults=tuple(faults), name=name)


def _catalog_of(found: Sequence[Plugin | BrokenPlugin]) -> Catalog:
    by_name: dict[str, list[Plugin]] = {}
    broken = [one for one in found if isinstance(one, BrokenPlugin)]
    for one in found:
        if isinstance(one, Plugin):
            by_name.setdefault(one.name, []).append(one)
    for name, group in by_name.items():
        for one in group if len(group) > 1 else ():
            others = ", ".join(str(other.manifest_path) for other in group if other is not one)
            message = f"another plugin has the name {name!r} as well: {others}"
            fault = Fault(pointer="/name", message=message, hint="neither runs; give one of them another name")
            broken.append(_broken(one.manifest_path, [fault], name))
    return Catalog(
        plugins={name: group[0] for name, group in by_name.items() if len(group) == 1},
        broken=tuple(sorted(broken, key=lambda one: one.manifest_path)),
    )


# What a plugin's files looked like when they were read: whatever decides whether it can run.
_Stamp = tuple[tuple[int, int, int, int, int], ...]


def _stamp_of(plugin: Plugin) -> _Stamp:
    parts = []
    for path in (plugin.manifest_path, plugin.program, plugin.directory):
        try:
            status = path.stat()
        except OSError:
            parts.append((0, 0, 0, 0, 0))
            continue
        # A directory's times change with each file that a run leaves in it: only its owner and mode decide anything.
        moving = (0, 0) if path == plugin.directory else (status.st_mtime_ns, status.st_size)
        parts.append((status.st_ino, status.st_mode, status.st_uid, *moving))
    return tuple(parts)


def _locate_program(word: str, directory: Path, path: str) -> Path | None:
    if "/" in word:
        candidate = directory / word
        return candidate if candidate.exists() else None
    found = shutil.which(word, path=path)
    return Path(found) if found is not None else None


def _program_faults(word: str, program: Path | None, directory: Path, path: str) -> Iterator[Fault]:
    pointer = "/command/0"
    if program is None and "/" in word:
        where = directory / word
        if where.is_symlink():
            hint = "the link points to nothing"
        elif _SHELL_SIGNS.search(word):
            hint = (
                'there is no shell: write each argument as a string of its own, as in ["./run", "-v"]; '
                f'for pipes and the like write ["sh", "-c", {json.dumps(word)}]'
            )
        elif (directory / "build.sh").is_file():
            hint = f"build it: {shlex.quote(str(directory / 'build.sh'))}"
        else:
            hint = "copy it there or correct the path"
        yield Fault(pointer=pointer, message=f"expected a program at {where}, found nothing", hint=hint)
        return
    if program is None:
        message = f"expected a program {word!r} in PATH, found none"
        if _SHELL_SIGNS.search(word):
            hint = 'there is no shell: write each argument as a string of its own, as in ["gzip", "-t"]'
            yield Fault(pointer=pointer, message=message, hint=hint)
            return
        near = f'; write "./{word}" to run the one beside the manifest' if (directory / word).exists() else ""
        yield Fault(pointer=pointer, message=message, hint=f"install it{near} (PATH is {path})")
        return
    if "/" in word and not word.startswith("/"):
        yield from _file_faults(program, directory, pointer, "the program")
    elif not program.is_file():
        yield _no_file_fault("the program", program, pointer)
        return
    elif word.startswith("/"):
        yield from _writable_faults(program, pointer, "the program")
    if program.is_file() and not os.access(program, os.X_OK):
        message = f"expected an executable file, found {program} without execute permission"
        yield Fault(pointer=pointer, message=message, hint=f"chmod +x {program}")
    elif program.is_file():
        yield from _shebang_faults(program, pointer, path)


def _shebang_faults(program: Path, pointer: str, path: str) -> Iterator[Fault]:
    try:
        with program.open("rb") as file:
            start = file.read(_SHEBANG_MAX)
    except OSError:  # execute permission without read permission is enough for a compiled program
        return
    if not start:
        yield Fault(pointer=pointer, message=f"expected a program, found the empty file {program}")
        return
    if start.startswith(b"\xef\xbb\xbf#!"):
        message = f'expected {program} to begin with "#!", found a byte order mark before it'
        yield Fault(pointer=pointer, message=message, hint="save it as UTF-8 without a byte order mark")
        return
    if not start.startswith(b"#!"):
        if b"\0" not in start and not start.startswith(b"\x7fELF"):
            message = f'expected {program} to begin with "#!" and its interpreter, found text without it'
            yield Fault(
                pointer=pointer, message=message, hint='make "#!/bin/sh", or what it is written in, its first line'
            )
        return
    line = start[2:].split(b"\n", 1)[0]
    if line.endswith(b"\r"):
        message = f"expected the first line of {program} to end with a line feed, found CR LF"
        yield Fault(pointer=pointer, message=message, hint=f"remove the carriage returns: sed -i 's/\\r$//' {program}")
        return
    words = line.decode("utf-8", "replace").split()
    if not words:
        yield Fault(pointer=pointer, message=f'expected an interpreter after "#!" in {program}, found nothing')
        return
    if not Path(words[0]).exists():
        message = f"expected the interpreter {words[0]} that {program} names, found nothing there"
        hint = f"install it or write #!/usr/bin/env {Path(words[0]).name}"
        yield Fault(pointer=pointer, message=message, hint=hint)
    elif Path(words[0]).name == "env":
        wanted = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), None)
        if wanted is not None and shutil.which(wanted, path=path) is None:
            message = f"expected the interpreter {wanted!r} that {program} names in PATH, found none"
            yield Fault(pointer=pointer, message=message, hint=f"install {wanted} (PATH is {path})")


def _requirement_faults(manifest: Manifest, path: str) -> Iterator[Fault]:
    for index, wanted in enumerate(manifest.requires):
        if shutil.which(wanted, path=path) is None:
            message = f"expected the program {wanted!r} in PATH, found none"
            yield Fault(pointer=f"/requires/{index}", message=message, hint=f"install it (PATH is {path})")


def _account_faults(manifest: Manifest) -> Iterator[Fault]:
    if manifest.run_as is None:
        return
    user, group = manifest.run_as.user, manifest.run_as.group
    if os.geteuid() != 0:
        message = f"only a host that runs as root can change to user {user!r}, this one runs as {_own_name()}"
        yield Fault(pointer="/run_as", message=message, hint="remove it, or run the host as root")
    try:
        pwd.getpwnam(user)
    except KeyError:
        message, hint = f"expected a user of this machine, found no {user!r}", "create the user, or name another one"
        yield Fault(pointer="/run_as", message=message, hint=hint)
    try:
        if group is not None:
            grp.getgrnam(group)
    except KeyError:
        message, hint = f"expected a group of this machine, found no {group!r}", "create the group, or name another one"
        yield Fault(pointer="/run_as", message=message, hint=hint)


def _limit_faults(manifest: Manifest) -> Iterator[Fault]:
    user = manifest.run_as.user if manifest.run_as is not None else None
    if manifest.limits.processes is not None and os.geteuid() == 0 and user in (None, "root"):
        yield Fault(
            pointer="/limits/processes",
            message="expected a plugin that is not root's: the kernel's limit of processes does not hold for root",
            hint="add run_as, or run the host as another user",
            severity=Severity.WARNING,
        )


def _file_faults(path: Path, directory: Path, pointer: str, what: str) -> Iterator[Fault]:
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(directory):
        message = f"expected {what} inside {directory}, found that {path} leads to {real}"
        yield Fault(pointer=pointer, message=message, hint="copy it into the plugin's directory")
        return
    if not real.is_file():
        yield _no_file_fault(what, real, pointer)
        return
    yield from _writable_faults(real, pointer, what)


_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def _no_file_fault(what: str, path: Path, pointer: str) -> Fault:
    try:
        found = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "something else")
    except OSError:
        found = "something else"
    message = f"expected {what} to be a regular file, found {found} at {path}"
    return Fault(pointer=pointer, message=message, hint="put a regular file there, or remove it")


def _writable_faults(path: Path, pointer: str, what: str) -> Iterator[Fault]:
    """Whoever may write a plugin decides what this host runs: that must be its owner, root or the host's user."""
    try:
        status = path.stat()
    except OSError:
        return
    everybody = bool(status.st_mode & stat.S_IWOTH)
    group = bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid, status.st_uid, os.geteuid())
    if everybody or group:
        who = "everybody" if everybody else f"group {_group_name(status.st_gid)}"
        message = f"expected {what} to be writable by its owner only, found that {who} may write to {path}"
        yield Fault(
            pointer=pointer, message=message, hint=f"chmod {'o' if everybody else ''}{'g' if group else ''}-w {path}"
        )


@functools.lru_cache(maxsize=1024)
def _is_private_group(gid: int, owner: int, host_user: int) -> bool:
    """Whether nobody but root, the owner and the host's user is in the group: where each user has a group of their
    own, files are made group-writable (umask 002) and that gives nobody else anything."""
    try:
        names = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    uids = {0, owner, host_user}
    return all(
        account.pw_uid in uids for account in pwd.getpwall() if account.pw_gid == gid or account.pw_name in names
    )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"

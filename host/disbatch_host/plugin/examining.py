"""The examination of one plugin: everything that can be found out without running it.

Responsible for: the order of the checks, and what they went by, so that they are repeated only when that has changed.
Must not know: other plugins, where manifests are found.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from disbatch_host.plugin import command_hints, environment, executable, faults
from disbatch_host.plugin.checking import Checks
from disbatch_host.plugin.surroundings import Surroundings
from disbatch_host.plugin.texts import printable
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest import Manifest, parse_manifest

log = logging.getLogger(__name__)

MANIFEST_MAX = 4 * 2**20  # bytes; no manifest written by hand is larger, and a node reads them all

_Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """What is known of a plugin. The faults may be warnings only; then the rest is there."""

    faults: Sequence[Fault]
    directory: Path = field(default_factory=Path)  # real path, no links in it
    manifest: Manifest | None = None
    program: Path | None = None  # command[0], found
    source: bytes = field(default=b"", repr=False)  # the file

    @property
    def is_usable(self) -> bool:
        return not any(fault.severity is Severity.ERROR for fault in self.faults)

    @property
    def name(self) -> str | None:
        """What its manifest says, if it can be read."""
        return self.manifest.name if self.manifest is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """The result of an examination, and what it went by."""

    manifest_path: Path
    judgment: Judgment
    watched: tuple[Path, ...]  # the files that decided it
    stamp: _Stamp | None  # of those; None: it has to be repeated in any case

    def is_current(self, *, is_same_machine: bool) -> bool:
        """Whether a repetition would come to the same. A broken plugin may lack a program, or an account, that the
        machine has by now."""
        if self.stamp is None or (not self.judgment.is_usable and not is_same_machine):
            return False
        return _stamp_of(self.watched) == self.stamp


def stamp_of_machine(host: Mapping[str, str]) -> _Stamp:
    """What a machine has besides plugins, in short: its programs by PATH, its accounts, who runs this process."""
    path = environment.search_path(host)
    watched = [Path(one) for one in path.split(os.pathsep) if one.startswith("/")]
    return (path, os.geteuid(), tuple(_status_of(one, with_times=True) for one in (*watched, *_ACCOUNT_FILES)))


_ACCOUNT_FILES = (Path("/etc/passwd"), Path("/etc/group"))


def examination(manifest_path: Path, checks: Checks) -> Examination:
    """Examine a plugin. Never raises: an error that nobody expected is a fault of this plugin."""
    before = _status_of(manifest_path, with_times=True)
    watched = [manifest_path, manifest_path.parent]
    try:
        judgment = _examine(manifest_path, checks, watched)
    except OSError as error:  # the machine lacks something now, such as room for a process
        fault = Fault(pointer="", message=f"cannot be examined now: {error.strerror or type(error).__name__}")
        return Examination(manifest_path=manifest_path, judgment=Judgment(faults=[fault]), watched=(), stamp=None)
    except Exception as error:
        log.exception("plugin %s cannot be examined", printable(str(manifest_path)))
        message = f"cannot be examined: unexpected {type(error).__name__}"
        judgment = Judgment(faults=[Fault(pointer="", message=message, hint="the log of this program says where")])
    is_settled = _status_of(manifest_path, with_times=True) == before  # else it was being written meanwhile
    stamp = _stamp_of(watched) if is_settled else None
    return Examination(manifest_path=manifest_path, judgment=judgment, watched=tuple(watched), stamp=stamp)


def _examine(manifest_path: Path, checks: Checks, watched: list[Path]) -> Judgment:
    """Files that the result depends on are added to `watched`."""
    directory = Path(os.path.realpath(manifest_path.parent))
    if printable(str(manifest_path)) != str(manifest_path) or printable(str(directory)) != str(directory):
        message = f"expected a path that is UTF-8, found {printable(str(directory))}"
        hint = "rename it: tasks and nodes record the directories of plugins as text"
        return Judgment(faults=[Fault(pointer="", message=message, hint=hint)])
    found = [
        *faults.file_faults(manifest_path, directory, "", "the manifest"),
        *faults.writable_faults(directory, "", "its directory"),
    ]
    try:
        data = _read_manifest(manifest_path)
    except OSError as error:
        hint = f"let {faults.own_name()} read it: chmod +r {manifest_path}" if error.errno == errno.EACCES else ""
        fault = Fault(pointer="", message=f"cannot be read: {error.strerror}", hint=hint)
        return Judgment(faults=[*found, fault])
    if data is None:
        return Judgment(faults=found or [faults.no_file_fault("the manifest", manifest_path, "")])
    if len(data) > MANIFEST_MAX:
        fault = Fault(
            pointer="",
            message=f"expected a manifest of at most {MANIFEST_MAX} bytes, found a larger file",
            hint="keep anything that is not for the host, such as data, in another file beside it",
        )
        return Judgment(faults=[*found, fault])
    parsed = parse_manifest(data, directory_name=directory.name, check_parameters=checks.manifest_faults)
    found.extend(parsed.faults)
    if parsed.manifest is None:
        return Judgment(faults=found)
    return replace(_judged(directory, parsed.manifest, found, watched), source=data)


def _judged(directory: Path, manifest: Manifest, found: Sequence[Fault], watched: list[Path]) -> Judgment:
    """A plugin whose manifest is sound, judged by what this machine has."""
    host = environment.host_environment()
    path = manifest.env.get("PATH") or environment.search_path(host)
    command = manifest.command[0]
    program = faults.locate_program(command, directory, path)
    watched.append(directory / command if "/" in command else program or directory)
    if manifest.env.get("PATH"):  # the machine's own is watched for all plugins together
        watched.extend(Path(one) for one in path.split(os.pathsep) if one.startswith("/"))
    surroundings = Surroundings.of(manifest, directory=directory, path=path)
    every = [
        *found,
        *faults.program_faults(command, program, directory, path),
        *(executable.program_faults(program, surroundings, watched) if program is not None else ()),
        *faults.requirement_faults(manifest, path),
        *faults.account_faults(manifest),
        *faults.limit_faults(manifest),
    ]
    if program is not None and not any(fault.severity is Severity.ERROR for fault in every):
        every += command_hints.hints(manifest, program, directory, {*host, *manifest.env})
    return Judgment(faults=every, directory=directory, manifest=manifest, program=program)


def _read_manifest(path: Path) -> bytes | None:
    """Its content, up to a little more than is allowed; None if it is not a regular file. Never waits: a FIFO without a
    writer would hold up everything, for every plugin; devices are not even opened."""
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MANIFEST_MAX + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _stamp_of(watched: Sequence[Path]) -> _Stamp:
    # A directory's times change with each file that a run leaves in it: only its owner and mode decide anything.
    return tuple(_status_of(path, with_times=index != 1) for index, path in enumerate(watched))


def _status_of(path: Path, *, with_times: bool) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    times = (status.st_mtime_ns, status.st_size) if with_times else ()
    return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid, *times)
